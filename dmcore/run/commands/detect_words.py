"""What `detect` prints: what would be asked, the scores of an SAE, and those of the parts beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from dmcore.explain.compare import beside, difference
from dmcore.results.detection import PATTERNS, Detection

if TYPE_CHECKING:
    from dmcore.explain.cost import CallPlan

N_LISTED = 3
"""Latents told best, and told worst, that are listed."""
MOST = 120
"""Characters of an explanation."""


def plan_lines(plans: Sequence[CallPlan], model: str) -> list[str]:
    """What all of some plans ask together."""

    def total(name: str) -> Any:
        values = [getattr(plan, name) for plan in plans]
        return None if any(value is None for value in values) else sum(values)

    calls, kept = total("calls"), total("kept")
    if not calls:
        return [f"Nothing to ask of {one_line(model)}: all {kept:,} answers are kept." if kept else "Nothing to ask."]
    most = total("most_answer_tokens")
    limit = "" if most is None else f" (at most {most:,})"
    lines = [
        f"To ask of {one_line(model)}: about {calls:,} calls; {kept:,} answers are kept and not asked for again.",
        f"  about {total('prompt_tokens'):,} tokens of prompts and {total('answer_tokens'):,} of answers{limit}",
    ]
    money, most_money = total("money"), total("most_money")
    if money is not None:
        lines.append(
            f"  about {money:,.2f} at these prices" + ("" if most_money is None else f", at most {most_money:,.2f}")
        )
    return lines


def detection_lines(found: Detection, name: str) -> list[str]:
    """The scores of one SAE in a few lines."""
    about = found.about
    n = f"{about['n_scored']:,} latents" + (f", {about['n_failed']:,} without a score" if about["n_failed"] else "")
    lines = [f"{name}, by {one_line(about['scorer'])}: {n}"]
    if about["n_scored"]:
        deciles = found["summary"].filter(pl.col("measure") == "decile_accuracy").sort("decile")["value"]
        lines += [
            f"  balanced accuracy {_triple(found.mean('balanced_accuracy'))} (0.5 is guessing)",
            f"  silent windows told rightly {_triple(found.mean('silent_accuracy'))}; by decile of activation, the lowest "
            f"first: {' '.join('-' if value is None else f'{value:.2f}' for value in deciles)}",
        ]
        if found.mean("auc")["value"] is not None:
            lines.insert(2, f"  AUC {_triple(found.mean('auc'))}")
        lines += _extremes(found["scores"])
    return lines + _failures(found)


def _extremes(scores: pl.DataFrame) -> list[str]:
    ranked = scores.filter(pl.col("failure").is_null()).sort("balanced_accuracy", "latent", descending=[True, False])
    n = min(N_LISTED, len(ranked) // 2)
    lines = []
    for title, rows in (("told best", ranked.head(n)), ("told worst", ranked.tail(n).reverse())):
        for row in rows.to_dicts():
            lines.append(
                f"  {title}: latent {row['latent']}, {row['balanced_accuracy']:.2f}: {one_line(row['explanation'] or '-')}"
            )
    return lines


def _failures(found: Detection) -> list[str]:
    reasons = found["scores"].drop_nulls("failure").group_by("failure").len().sort("len", descending=True)
    lines = [f"  {n:,} without a score: {one_line(reason)}" for reason, n in reasons.head(N_LISTED).rows()]
    if found.about["n_unanswered"]:
        lines.append(
            f"  {found.about['n_unanswered']:,} are owed an answer: run the same command to ask for those alone."
        )
    return lines


def parts_lines(found: Sequence[Detection]) -> list[str]:
    """The parts beside each other, and how much the nonlinear one differs from the linear one."""
    table = beside(found)
    by = "patterns of the text" if found[0].about["scorer"] == PATTERNS else one_line(found[0].about["scorer"])
    lines = [f"parts, by {by}: mean over seeds, 95 % over latents"]
    for part in table["part"].unique(maintain_order=True):
        rows = table.filter((pl.col("part") == part) & (pl.col("measure") == "balanced_accuracy"))
        mean, each = rows.filter(pl.col("seed").is_null()), rows.filter(pl.col("seed").is_not_null())
        if mean.is_empty():
            continue
        value, low, high = mean.select("value", "low", "high").row(0)
        seeds = ", ".join(f"{one:.3f}" for one in each["value"])
        lines.append(f"  {part}: balanced accuracy {_ends(value, low, high)}; by seed {seeds}")
    gap = difference(found, "nonlinear", "linear")
    if gap == gap:  # not nan
        covers = (
            " (Welch's t over seeds: covers seeds of training and the latents drawn, not the texts)"
            if gap.low == gap.low
            else " (no interval from one seed)"
        )
        lines.append(f"  nonlinear less linear: {_ends(gap.value, gap.low, gap.high)}{covers}")
    return lines


def one_line(text: str) -> str:
    """Text of unknown origin for a terminal: cut, on one line, with nothing that a terminal would obey."""
    cut = text if len(text) <= MOST else f"{text[:MOST]}…"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut)


def _triple(row: dict[str, Any]) -> str:
    return _ends(row["value"], row["value_low"], row["value_high"])


def _ends(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + ("" if low is None or low != low else f" ({low:.3f} to {high:.3f})")
