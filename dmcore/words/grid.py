"""What the views *Width × L0* and *Sparsity* say, made from the numbers."""

from __future__ import annotations

from typing import Any

import polars as pl

from dmcore.charts.numbers import number
from dmcore.words.names import architecture_name, l0_text, plain
from dmcore.words.paired import EqualL0, HasSummaries, equal_l0_ratios
from dmcore.words.scaling import parameter


def joint_sentence(joint: dict[str, Any], name: str) -> str:
    """The law of width and L0, and whether it holds."""
    c, a, m, n = (parameter(joint, name) for name in ("c", "a", "m", "n"))
    text = f"One law for all {joint['n_saes']} SAEs, {name} = c + a·W⁻ᵐ·L0⁻ⁿ: c {c}, a {a}, m {m}, n {n} (95 % over contexts)."
    if joint["aic_separate"] is not None:
        difference = joint["aic"] - joint["aic_separate"]
        better = (
            "a law for each L0 describes them better"
            if difference > 0
            else "it describes them better than a law for each L0"
        )
        text += f" By Akaike's criterion {better} (by {abs(difference):,.0f})."
    if joint["left_out_error"] is not None:
        text += f" Fitted without the widest SAEs it misses them by {100 * joint['left_out_error']:.0f} %."
    return text


def shrinkage_note(selection: HasSummaries, here: pl.DataFrame) -> str:
    """Why an L1 SAE may have much error and little nonlinear error, where that is so."""
    if "standard" not in set(here["label"]):
        return ""
    ratios = {}
    for metric in ("fvu", "fvu_nonlinear"):
        rows = [
            r.ratio for r in equal_l0_ratios(selection, here, metric) if r.label == "standard" and r.ratio is not None
        ]
        ratios[metric] = [float(ratio) for ratio in rows]
    if not ratios["fvu"] or min(ratios["fvu"]) < 1 or max(ratios["fvu_nonlinear"], default=2.0) > 1:
        return ""
    return (
        " The L1 SAE has more error but less nonlinear error: an L1 penalty shrinks values, and error by "
        "shrinking is linear in x "
        "for the most part."
    )


def equal_l0_lines(rows: list[EqualL0], name: str) -> list[str]:
    """A table in Markdown."""
    lines = [
        f"| Architecture | L0 | {name} | over {plain(architecture_name(rows[0].reference))} at that L0 |",
        "|---|---|---|---|",
    ]
    for row in rows:
        ratio = (
            "outside the reference's L0s"
            if row.ratio is None
            else f"**{number(row.ratio, row.ratio.low, row.ratio.high)}**"
        )
        lines.append(f"| {plain(architecture_name(row.label))} | {l0_text(row.l0)} | {number(*row.value)} | {ratio} |")
    return lines
