"""The charts of the view *Width*: the error budget continued past the widest SAE, and the laws behind it."""

from __future__ import annotations

import polars as pl

from dmcore.charts.extrapolation import budget_chart, budget_table
from dmcore.charts.laws import law_chart, law_table
from dmcore.figures.figure import Figure
from dmcore.words.chosen import Chosen
from dmcore.words.laws import (
    METRIC_OPTIONS,
    hollow_words,
)
from dmcore.words.sample import sample_words

PURSUIT = "gradient_pursuit"


ENCODER_WORDS = (
    "Encoder error: what gradient pursuit takes off the nonlinear FVU with the same dictionary at the same L0 (*Error "
    "reduction*), so what another encoder could avoid; beyond the widths that it was run on its share is held."
)


def encoder_floor(chosen: Chosen, points: pl.DataFrame) -> pl.DataFrame | None:
    """`d_sae`, `fvu`: nonlinear FVU of pursuit codes by width, where it is known; None where it is of no SAE.

    The share that pursuit removes, which is paired on the contexts that it ran on, is taken off the nonlinear FVU of all.
    """
    rows = []
    for point in points.to_dicts():
        found = chosen.reduction(point["summary_key"])
        pursuit = None if found is None else found["methods"].filter(pl.col("method") == PURSUIT)
        removed = None if pursuit is None or pursuit.is_empty() else pursuit["nonlinear_removed"][0]
        if removed is not None:
            rows.append({"d_sae": point["d_sae"], "fvu": point["fvu_nonlinear"] * (1 - removed)})
    return pl.DataFrame(rows) if rows else None


def _question(n_widths: int, n_laws: int) -> str:
    if n_laws:
        return "What would a still wider dictionary leave?"
    return "What does width leave?" if n_widths > 1 else "What is the error made of?"


def extrapolated_figure(
    chosen: Chosen, points: pl.DataFrame, curves: pl.DataFrame, laws: pl.DataFrame, what: str, l0s: str
) -> Figure:
    """The error budget past the widest SAE; `what`, `l0s`: which SAEs they are, and where their L0s differ."""
    record = chosen.record
    extrapolated = (
        "Right of the line the areas follow the fitted laws c + a·W⁻ᵐ; dashed: their 95 % intervals, the wider of what the "
        "choice of texts and the SAEs' scatter about the law leave open (long dashes: FVU, short: nonlinear FVU). Absent "
        "features: what the law of FVU says that width would still remove, down to its floor c or to the nonlinear error, "
        "whichever comes first. Linear error: from there down to nonlinear FVU = Σ|e − ê|² / Σ|x − mean x|²."
        if len(laws)
        else "Linear error: between FVU = Σ|e|² / Σ|x − mean x|² and nonlinear FVU = Σ|e − ê|² / Σ|x − mean x|². "
        "Without a fitted "
        "law nothing is said of wider dictionaries or of absent features."
    )
    floor = encoder_floor(chosen, points)
    return Figure(
        name="error_budget_extrapolated",
        key=(record["summary_key"], *points["summary_key"], *(() if floor is None else floor["fvu"])),
        question=_question(len(points), len(laws)),
        caption=f"{what}. {l0s} {extrapolated} {'' if floor is None else ENCODER_WORDS} {sample_words(record)}",
        chart=lambda: budget_chart(points, curves, laws, record["sae"], floor),
        data=lambda: budget_table(points, curves, laws, floor),
    )


def law_figure(
    chosen: Chosen, points: pl.DataFrame, curves: pl.DataFrame, laws: pl.DataFrame, metric: str, space: str
) -> Figure:
    """The laws of a metric over width."""
    record = chosen.record
    fitted = laws.filter((pl.col("metric") == metric) & (pl.col("space") == space))
    return Figure(
        name=f"law_{metric}_{space}",
        key=(record["summary_key"], *points["summary_key"], metric, space),
        question="Which law does the error follow?",
        caption=f"Points: measured {METRIC_OPTIONS[metric]}, bars 95 % over contexts. Solid: c + a·W⁻ᵐ, W in latents; dark "
        "band: how the law moves with the texts, light band: how far the SAEs' own scatter leaves it open (95 %). Dashed: "
        "the floor c, with the interval of that scatter. "
        f"{hollow_words(fitted)} {sample_words(record)}",
        chart=lambda: law_chart(points, curves, laws, record["sae"], metric, space),
        data=lambda: law_table(points, curves, laws, metric, space),
    )
