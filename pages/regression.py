"""Regression: how well a linear map of x predicts the error, in every detail that one would doubt."""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from dmcore.charts.baselines import (
    PREDICTOR_NAMES,
    baselines_by_layer_chart,
    baselines_chart,
    baselines_table,
)
from dmcore.charts.density import density_chart, panel_table
from dmcore.charts.dimensions import dimensions_chart, dimensions_table
from dmcore.charts.layers import layers_chart, layers_table
from dmcore.charts.numbers import percent, times
from dmcore.charts.positions import positions_chart, positions_table, sink
from dmcore.charts.ridge import ridge_chart, ridge_table
from dmcore.charts.variants import setting_name, variants_chart, variants_table
from dmcore.ui.figure import Figure, draw
from dmcore.ui.glossary import glossary
from dmcore.ui.grid import over_layers
from dmcore.ui.page import page
from dmcore.ui.sections import cards, finding, sample_words
from dmcore.ui.selection import Selection, option
from dmcore.ui.words import architecture_name, compact, l0_text, stream_name

OWN = ("skip", "bias")  # this page's link parameters


def choose_variant(selection: Selection) -> dict[str, Any]:
    """The row of `variants` that the page's two controls choose; the study's own at first."""
    record, variants = selection.record, selection.summary.variants
    if not len(variants):
        return record | {"fit_bias": record["fit_bias"]}
    skips = sorted(set(variants["skip_positions"].to_list()))
    biases = [b for b in (True, False) if b in variants["fit_bias"].to_list()]
    left, right = st.columns(2)
    with left:
        texts = [f"{skip}{' (this study)' if skip == record['skip_positions'] else ''}" for skip in skips]
        skip = option("skip", "Skipped first positions of each context", [str(s) for s in skips], texts,
                      _own(str(record["skip_positions"]), [str(s) for s in skips]), horizontal=True)  # fmt: skip
    with right:
        values = ["yes" if b else "no" for b in biases]
        texts = [
            f"{v}{' (this study)' if b == record['fit_bias'] else ''}" for v, b in zip(values, biases, strict=True)
        ]
        bias = option("bias", "Linear map with a bias", values, texts,
                      _own("yes" if record["fit_bias"] else "no", values), horizontal=True)  # fmt: skip
    rows = variants.filter((pl.col("skip_positions") == int(skip)) & (pl.col("fit_bias") == (bias == "yes")))
    return rows.row(0, named=True) if len(rows) else record


def _own(value: str, values: list[str]) -> str:
    return value if value in values else values[0]


def draw_findings(selection: Selection, shown: dict[str, Any]) -> None:
    vector, norm = (
        percent(*(shown[f"{metric}{end}"] for end in ("", "_low", "_high")))
        for metric in ("r2_error", "r2_error_norm_sq")
    )
    baselines = selection.summary.baselines.filter((pl.col("predictor") != "x") & pl.col("r2").is_finite())
    second = ""
    if len(baselines):
        best = baselines.sort("r2").row(-1, named=True)
        share = percent(best["r2"], best["r2_low"], best["r2_high"])
        second = f"Of the simple baselines, {PREDICTOR_NAMES.get(best['predictor'], best['predictor'])} predicts most of the "
        second += f"squared norm: {share}."
    finding(
        f"On contexts that it never saw, a linear map of x predicts {vector} of the variance of this SAE's error vector and "
        f"{norm} of that of its squared norm.",
        second,
    )


def draw_density(selection: Selection) -> None:
    summary, record = selection.summary, selection.record
    if not len(summary.density):
        st.caption(
            ":material/info: This entry has no table of predictions against actual values: sweep the study again."
        )
        return
    st.subheader("How close are the predictions, token by token?", anchor=False)
    notes = {
        "norm_sq": (
            "Squared norm of the error",
            "One count is a token. Predictions at or below the axis, zero and negative ones too, are in its lowest bin.",
            "predicted_norm",
        ),
        "vector": (
            "Coordinates of the error vector",
            "One count is a coordinate of a token, in standard deviations of that dimension of the error.",
            "predicted_vector",
        ),
    }
    for column, (panel, (title, note, name)) in zip(st.columns(2, gap="large"), notes.items(), strict=True):
        with column:
            caption = f"{note} Dashed: a perfect prediction; line: mean of the actual values. {sample_words(record)}"
            chart = density_chart(summary.density, panel)
            draw(Figure(title, chart, caption, panel_table(summary.density, panel), name), level=4)


def draw_dimensions_and_ridge(selection: Selection) -> None:
    summary, record = selection.summary, selection.record
    left, right = st.columns(2, gap="large")
    with left:
        caption = (
            "R² of dimension d = 1 − Σ(e − ê)² / Σ(e − mean e)² over tokens. Pooled adds up all dimensions before dividing; the "
            f"mean over dimensions counts each the same. {sample_words(record)}"
        )
        chart = dimensions_chart(summary.dims, record["r2_error"], record["r2_error_mean_dims"])
        draw(
            Figure("Which dimensions are predicted?", chart, caption, dimensions_table(summary.dims), "r2_dimensions"),
            level=4,
        )
    with right:
        title = "Does shrinking the map help?"
        metric = "r2_error"
        caption = (
            "Ridge regression: held-out R² (pooled) of the error vector, mean over folds; band: lowest to highest fold. "
            f"0 is plain least squares. {sample_words(record)}"
        )
        chart = ridge_chart(summary.ridge, metric, record["ridge"])
        draw(Figure(title, chart, caption, ridge_table(summary.ridge, metric), "ridge_path"), level=4)


def draw_settings(selection: Selection, shown: dict[str, Any]) -> None:
    summary = selection.summary
    left, right = st.columns(2, gap="large")
    with left:
        caption = (
            "The same split with other first positions skipped, with and without a bias. Bars: 95 % intervals over contexts. "
            f"Large dots: the setting chosen above. Held out over {selection.record['n_folds']} folds of whole contexts."
        )
        name = setting_name(shown["skip_positions"], shown["fit_bias"])
        chart = variants_chart(summary.variants, name)
        draw(Figure("Do these settings matter?", chart, caption, variants_table(summary.variants), "settings"), level=4)
    with right:
        table = summary.positions
        caption = (
            "Means over contexts at each position. Shaded: skipped in this study; those positions are predicted by maps that "
            f"never saw them. Late positions share a point. n = {selection.record['n_contexts']:,} contexts."
        )
        chart = positions_chart(table, selection.record["skip_positions"])
        draw(Figure("What do the first positions do?", chart, caption, positions_table(table), "positions"), level=4)
        st.markdown(sink_sentence(table))


def sink_sentence(positions: pl.DataFrame) -> str:
    """What position 0 does, from the numbers."""
    ratios = sink(positions)
    act, error = ratios.get("act_norm_sq"), ratios.get("error_sq")
    if act is None or error is None:
        return ""
    if act < 2:
        return (
            f"Position 0 is no outlier here: its mean squared norm is {times(act)} that of a typical later position, and its "
            f"squared error {times(error)}."
        )
    kind = (
        "an **attention sink**: attention goes there when it has nowhere to go, and its activation is"
        if act > 5
        else "unlike the rest:"
    )
    return (
        f"Position 0 is {kind} {times(act)} as large in squared norm as a typical later one. Its squared error is "
        f"{times(error)} as large, so a few tokens like it can dominate a pooled number: that is why first positions are skipped."
    )


def draw_baselines(selection: Selection) -> None:
    record, layers = selection.record, over_layers(selection.published.records, selection.record)
    left, right = st.columns(2, gap="large")
    table = selection.summary.baselines
    with left:
        caption = (
            "Held-out R² of |e|² from one predictor each: token identity by the mean of that token in the other folds, the "
            f"others by linear regression. Bars: 95 % intervals over contexts. {sample_words(record)}"
        )
        draw(Figure("What else predicts the size of the error?", baselines_chart(table), caption,
                    baselines_table(table), "baselines"), level=4)  # fmt: skip
    with right:
        if layers.height == 1:
            st.subheader("Is it the same at every layer?", anchor=False)
            st.info(
                "This study has one layer of this stream: add SAEs at other layers to compare.",
                icon=":material/layers:",
            )
            return
        frames = [
            selection.summary_of(row).baselines.with_columns(layer=pl.lit(row["layer"])) for row in layers.to_dicts()
        ]
        by_layer = pl.concat(frames)
        draw(Figure("Is it the same at every layer?", baselines_by_layer_chart(by_layer), layers_caption(record, layers),
                    by_layer, "baselines_by_layer"), level=4)  # fmt: skip


def draw_layers(selection: Selection) -> None:
    record, layers = selection.record, over_layers(selection.published.records, selection.record)
    if layers.height > 1:
        draw(Figure("How linear is the error over layers?", layers_chart(layers, record), layers_caption(record, layers),
                    layers_table(layers), "r2_by_layer"))  # fmt: skip


def layers_caption(record: dict[str, Any], layers: pl.DataFrame) -> str:
    """Which SAEs stand for the layers."""
    l0s = sorted(l0_text(l0) for l0 in {layers["l0"].min(), layers["l0"].max()})
    l0_range = l0s[0] if len(set(l0s)) == 1 else f"{l0_text(layers['l0'].min())} to {l0_text(layers['l0'].max())}"  # type: ignore[arg-type]
    widths = sorted(set(layers["d_sae"].to_list()))
    width_range = compact(widths[0]) if len(widths) == 1 else f"{compact(widths[0])} to {compact(widths[-1])}"
    return (
        f"{stream_name(record['stream'])} stream, {architecture_name(layers['label'][0])} SAEs with {width_range} latents at L0 "
        f"{l0_range}: at each layer the width, then the L0, nearest to the selected one. {sample_words(record)}"
    )


def draw_methods(selection: Selection) -> None:
    record = selection.record
    with st.expander("Methods and caveats", icon=":material/science:"):
        st.markdown(
            f"""
- **Regression.** Error e = x − Sae(x); prediction ê = x W + b by least squares (ridge {record["ridge"]:g},
  {"with" if record["fit_bias"] else "without"} bias), and |e|² by another linear map of x. Each fold of contexts is
  predicted by a map fitted on the others. {sample_words(record)}
- **Two aggregates.** Pooled: R² = 1 − Σ|e − ê|² / Σ|e − mean e|². Mean over dimensions: the average of each dimension's R², as
  the paper reports. They differ when dimensions with more error are easier or harder to predict.
- **Squared norm**, not norm: heavy tails make a few tokens matter; compare the density and the position profile.
- **Baselines** are held out in the same folds, token identity too. Position and L0 are single numbers, so a low R² says only that
  a straight line in them does not do it.
- **Penalties and settings** other than the study's are shown to check that the conclusion does not hang on them; none was
  chosen because it scored better.
"""
        )


def main() -> None:
    with page("How linear is the error?", own=OWN) as selection:
        if selection is None:
            return
        findings = st.container()
        shown = choose_variant(selection)
        with findings:
            draw_findings(selection, shown)
        cards(
            shown,
            [
                ("R² of vector, pooled", "r2_error", "pooled, mean over dimensions"),
                ("R² of vector, mean over dims", "r2_error_mean_dims", "pooled, mean over dimensions"),
                ("R² of squared norm", "r2_error_norm_sq", "R²"),
                ("Nonlinear FVU", "fvu_nonlinear", "nonlinear FVU"),
            ],
        )
        glossary("linear error", "nonlinear error", "R²", "pooled, mean over dimensions", "held out by context", "interval",
                 "ridge", "attention sink")  # fmt: skip
        draw_density(selection)
        draw_dimensions_and_ridge(selection)
        draw_settings(selection, shown)
        draw_baselines(selection)
        draw_layers(selection)
        draw_methods(selection)


main()
