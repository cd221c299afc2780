"""What the view *Width* says of laws, made from the numbers."""

from __future__ import annotations

from typing import Any

import polars as pl

from dmcore.charts.laws import LAW_NAMES
from dmcore.charts.numbers import span
from dmcore.words.scaling import (
    freedom,
)

METRIC_OPTIONS = {"fvu": "FVU", "fvu_nonlinear": "Nonlinear FVU"}


SPACES = {"log": "of log FVU", "linear": "of FVU"}


FORMULAS = {
    "power": "c + a·W⁻ᵐ",
    "power_zero": "a·W⁻ᵐ",
    "exponential": "c + a·exp(−W/w₀)",
    "constant": "c",
}


def few_points(power: dict[str, Any]) -> str:
    """How little a law through few points says."""
    n, k = power["n_widths"], power["n_params"]
    return (
        f":material/warning: **{n} points, {k} parameters**: {freedom(n - k)} {'is' if n - k == 1 else 'are'} left to tell "
        "the laws apart. "
        "Take the law as a description of these widths; what it says beyond them, its floor above all, is an extrapolation."
    )


def hollow_words(fitted: pl.DataFrame) -> str:
    """Which hollow mark is whose: they stand side by side in the order of the laws' names in the table of laws."""
    names = [LAW_NAMES[law] for law in fitted.filter(pl.col("left_out").is_not_null())["law"].sort()]
    if not names:
        return ""
    return f"Hollow, from the left: the widest SAE as each law fitted without it predicts it ({', '.join(names)})."


def aic_text(aic: float | None, best: Any) -> str:
    """`0` for the best law, `+12.3` for another."""
    return "" if aic is None or best is None else "0" if aic == best else f"+{aic - best:.1f}"


def scatter_span(row: dict[str, Any], name: str) -> str:
    return span(row[f"{name}_scatter_low"], row[f"{name}_scatter_high"]) or "not known"


def left_out_text(row: dict[str, Any]) -> str:
    """`+3.1 %`: how far a law's prediction of the widest SAE is from what was measured."""
    predicted, actual = row["left_out"], row["left_out_actual"]
    if predicted is None or not actual:
        return ""
    return f"{100 * (predicted / actual - 1):+.1f} %".replace("-", "−")
