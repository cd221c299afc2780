"""The figures of the Regression page: each chart with its question and caption."""

from __future__ import annotations

from typing import Any

import polars as pl

from dmcore.charts.baselines import baselines_by_layer_chart, baselines_chart, baselines_table
from dmcore.charts.density import density_chart, panel_table
from dmcore.charts.dimensions import dimensions_chart, dimensions_table
from dmcore.charts.layers import layers_chart, layers_table
from dmcore.charts.numbers import compact
from dmcore.charts.positions import positions_chart, positions_table
from dmcore.charts.ridge import ridge_chart, ridge_table
from dmcore.charts.variants import setting_name, variants_chart, variants_table
from dmcore.figures.figure import Figure
from dmcore.results import Summary
from dmcore.words.chosen import Chosen
from dmcore.words.names import architecture_name, l0_text, plain
from dmcore.words.sample import sample_words
from dmcore.words.streams import stream_name

_INTERVALS = "Bars: 95 % intervals over contexts."

_DENSITY_NOTES = {
    "norm_sq": (
        "Squared norm of the error",
        "A count is a token. What lies beyond the axes, as predictions of zero and less, is in their outermost cells.",
    ),
    "vector": (
        "Coordinates of the error vector",
        "A count is one coordinate of a token, in standard deviations of that dimension of the error. What lies beyond the axes "
        "is in their outermost cells.",
    ),
}


def density_figure(summary: Summary, panel: str) -> Figure:
    """Predicted against actual, `panel` as in the `density` table."""
    question, note = _DENSITY_NOTES[panel]
    return Figure(
        name=f"predicted_{panel}",
        key=(summary.record["summary_key"],),
        question=question,
        caption=f"{note} Dashed: a perfect prediction. Line: mean of the actual values. {sample_words(summary.record)}",
        chart=lambda: density_chart(summary.density, panel),
        data=lambda: panel_table(summary.density, panel),
    )


def dimensions_figure(summary: Summary) -> Figure:
    """R2 of each dimension."""
    record = summary.record
    return Figure(
        name="r2_dimensions",
        key=(record["summary_key"],),
        question="Which dimensions are predicted?",
        caption="A dot is a dimension of the activation: R² = 1 − Σ(e − ê)² / Σ(e − mean e)² over tokens. Pooled adds up all "
        f"dimensions before dividing; the mean counts each the same. {sample_words(record)}",
        chart=lambda: dimensions_chart(summary.dims, record["r2_error"], record["r2_error_mean_dims"]),
        data=lambda: dimensions_table(summary.dims),
    )


def ridge_figure(summary: Summary) -> Figure:
    """Cross-validated ridge path."""
    return Figure(
        name="ridge_path",
        key=(summary.record["summary_key"],),
        question="Does shrinking the map help?",
        caption="Ridge regression with a bias: held-out R², mean over folds. Band: lowest to highest fold. Penalty in units of "
        "the mean eigenvalue of Σ(x − mean x)(x − mean x)ᵀ; 0 is plain least "
        f"squares. {sample_words(summary.record)}",
        chart=lambda: ridge_chart(summary.ridge, summary.record["ridge"]),
        data=lambda: ridge_table(summary.ridge),
    )


def settings_figure(summary: Summary, shown: dict[str, Any]) -> Figure:
    """The split under other settings; `shown` is the row of `variants` whose numbers the page shows."""
    name = setting_name(shown["skip_positions"], shown["fit_bias"])
    return Figure(
        name="settings",
        key=(summary.record["summary_key"], name),
        question="Do these settings matter?",
        caption="The same split with other first positions skipped, with and without a bias. Large dots: "
        f"{name}. {_INTERVALS} Held out over {summary.record['n_folds']} folds of whole contexts.",
        chart=lambda: variants_chart(summary.variants, name),
        data=lambda: variants_table(summary.variants),
    )


def positions_figure(summary: Summary) -> Figure:
    """Squared norms over positions."""
    skip = summary.record["skip_positions"]
    return Figure(
        name="positions",
        key=(summary.record["summary_key"],),
        question="What do the first positions do?",
        caption="Mean over contexts at each position. Shaded: skipped in this study; those positions are predicted by maps that "
        f"never saw them. Late positions share a point. n = {summary.record['n_contexts']:,} contexts.",
        chart=lambda: positions_chart(summary.positions, skip),
        data=lambda: positions_table(summary.positions),
    )


def baselines_figure(summary: Summary) -> Figure:
    """What simple quantities predict of the squared norm."""
    return Figure(
        name="baselines",
        key=(summary.record["summary_key"],),
        question="What predicts the error's size?",
        caption="Held-out R² of |e|² from one predictor each: means of |e|² per token id, per position, and per 1/32 of the "
        f"tokens by size for the others, taken from the other folds. {_INTERVALS} {sample_words(summary.record)}",
        chart=lambda: baselines_chart(summary.baselines),
        data=lambda: baselines_table(summary.baselines).drop("zero", "part"),
    )


def baselines_by_layer_figure(chosen: Chosen, layers: pl.DataFrame) -> Figure:
    """The baselines of one SAE per layer."""

    def table() -> pl.DataFrame:
        return pl.concat(
            chosen.summary_of(row).baselines.with_columns(layer=pl.lit(row["layer"])) for row in layers.to_dicts()
        )

    return Figure(
        name="baselines_by_layer",
        key=tuple(layers["summary_key"]),
        question="Is it the same at every layer?",
        caption=f"Held-out R² of |e|². {layers_caption(chosen.record, layers)}",
        chart=lambda: baselines_by_layer_chart(table()),
        data=table,
    )


def layers_figure(chosen: Chosen, layers: pl.DataFrame) -> Figure:
    """R2 of the vector and of the squared norm over layers."""
    return Figure(
        name="r2_by_layer",
        key=(chosen.record["summary_key"], *layers["summary_key"]),
        question="How linear is the error over layers?",
        caption=f"{_INTERVALS} {layers_caption(chosen.record, layers)}",
        chart=lambda: layers_chart(layers, chosen.record),
        data=lambda: layers_table(layers),
    )


def layers_caption(record: dict[str, Any], layers: pl.DataFrame) -> str:
    """Which SAEs stand for the layers."""
    l0s = list(dict.fromkeys(l0_text(l0) for l0 in layers["l0"].sort()))
    widths = list(dict.fromkeys(compact(width) for width in layers["d_sae"].sort()))
    kind = plain(architecture_name(layers["label"][0]))
    return (
        f"{stream_name(record['stream'])} stream, {kind} SAEs with {_range(widths)} latents at "
        f"L0 {_range(l0s)}: at each layer the width, then the L0, nearest to the selected one. {sample_words(record)}"
    )


def _range(ordered: list[str]) -> str:
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"
