"""Regression: how well a linear map of x predicts the error, in every detail that one would doubt."""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from dmcore.figures.regression import (
    baselines_by_layer_figure,
    baselines_figure,
    density_figure,
    dimensions_figure,
    layers_figure,
    positions_figure,
    ridge_figure,
    settings_figure,
)
from dmcore.results import over_layers
from dmcore.ui.controls_panel import draw_controls_line
from dmcore.ui.figure import Figure, draw
from dmcore.ui.glossary import glossary
from dmcore.ui.page import page
from dmcore.ui.sections import cards, finding, sample_words
from dmcore.ui.selection import Selection, option
from dmcore.words.regression import baseline_sentence, prediction_sentence, sink_sentence

OWN = ("skip", "bias", "part")  # this page's link parameters
PARTS = {
    "dimensions": "Dimensions and penalty",
    "settings": "Settings and positions",
    "baselines": "Baselines and layers",
}


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
    finding(
        prediction_sentence(shown),
        baseline_sentence(selection.summary.baselines),
    )


def draw_pair(left: Figure, right: Figure) -> None:
    for column, figure in zip(st.columns(2, gap="large"), (left, right), strict=True):
        with column:
            draw(figure, level=4)


def draw_baselines(selection: Selection, layers: pl.DataFrame) -> None:
    left = baselines_figure(selection.summary)
    if layers.height > 1:
        draw_pair(left, baselines_by_layer_figure(selection, layers))
        draw(layers_figure(selection, layers))
        return
    column, beside = st.columns(2, gap="large", vertical_alignment="center")
    with column:
        draw(left, level=4)
    with beside:
        st.info(
            "This study has one layer of this stream: add SAEs at other layers to compare.", icon=":material/layers:"
        )


def draw_part(selection: Selection, shown: dict[str, Any]) -> None:
    """One of the page's parts: drawing all of them would make every slider wait for charts far below."""
    part = option("part", "Look closer at", list(PARTS), list(PARTS.values()), "dimensions", kind=st.segmented_control)
    summary = selection.summary
    if part == "dimensions":
        draw_pair(dimensions_figure(summary), ridge_figure(summary))
    elif part == "settings":
        draw_pair(settings_figure(summary, shown), positions_figure(summary))
        st.markdown(sink_sentence(summary.positions))
    else:
        draw_baselines(selection, over_layers(selection.published.records, selection.record))


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
- **Baselines** are held out in the same folds, token identity too. Each is a table of means of |e|²: per token id, per position,
  and per 1/32 of the tokens by size for the other numbers, so that any shape of dependence counts, not a straight line alone.
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
        draw_controls_line(selection)
        glossary("linear error", "nonlinear error", "R²", "pooled, mean over dimensions", "held out by context", "interval",
                 "ridge", "attention sink")  # fmt: skip
        summary = selection.summary
        st.subheader("How close are the predictions, token by token?", anchor=False)
        draw_pair(density_figure(summary, "norm_sq"), density_figure(summary, "vector"))
        draw_part(selection, shown)
        draw_methods(selection)


main()
