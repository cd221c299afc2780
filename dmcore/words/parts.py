"""What the view *SAEs on the parts* says in sentences, made from the numbers."""

from __future__ import annotations

from dmcore.charts.numbers import number
from dmcore.results import Parts
from dmcore.words.scaling import row_of, triple

NAMES = {"x": "x", "error": "the total error", "linear": "the linear error", "nonlinear": "the nonlinear error"}


def parts_finding(parts: Parts) -> str:
    """How much of each part an SAE of the same budget leaves."""
    rows = {row["part"]: row for row in parts["means"].to_dicts()}
    told = [
        f"{number(*triple(rows[part], 'fvu'))} of {NAMES[part]}"
        for part in (("x", "linear", "nonlinear") if set(rows) != {"error"} else ("error",))
        if part in rows
    ]
    n = len(parts.about["seeds"])
    seeds = f" (mean of {n} seeds)" if n > 1 else ""
    return f"An SAE of {parts.about['width']:,} latents and L0 {parts.about['l0']} leaves an FVU of {', '.join(told)}{seeds}."


def harder_sentence(parts: Parts) -> str:
    """Whether the nonlinear part is harder than the linear one, and what the interval covers."""
    row = row_of(parts["differences"], part="nonlinear", other="linear") or row_of(
        parts["differences"], part="linear", other="nonlinear"
    )
    if row is None or row["difference_low"] is None:
        return ""
    sign = 1 if row["part"] == "nonlinear" else -1
    ends = sorted(sign * row[f"difference_{end}"] for end in ("low", "high"))
    value = sign * row["difference"]
    if ends[0] > 0:
        said = f"is harder to rewrite sparsely than the linear one: its FVU is {number(value, *ends)} higher."
    elif ends[1] < 0:
        said = (
            f"is easier to rewrite sparsely than the linear one: its FVU is {number(-value, -ends[1], -ends[0])} lower."
        )
    else:
        said = f"may be as hard to rewrite sparsely as the linear one: its FVU less that of the other is {number(value, *ends)}."
    return f"The nonlinear error {said} The interval covers the choice of texts, not the seed of training."
