"""The ridge path: held-out R2 over the size of the penalty, with the spread between folds."""

from __future__ import annotations

import math

import altair as alt
import polars as pl

from dmcore.charts.theme import LINEAR, NEUTRAL, TOTAL, as_part, part_colour

HEIGHT = 300

METRIC_PARTS = {"r2_error": LINEAR, "r2_error_norm_sq": TOTAL}
"""Colour of each curve: that of the vector and of the squared norm everywhere on the page."""


def ridge_table(ridge: pl.DataFrame, metric: str) -> pl.DataFrame:
    """Per penalty: `mean`, `low`, `high` over folds, and `x`, where it is drawn (zero one decade below the least)."""
    table = (
        ridge.group_by("ridge", "ridge_relative")
        .agg(
            mean=pl.col(metric).mean(),
            low=pl.col(metric).min(),
            high=pl.col(metric).max(),
            n_folds=pl.col(metric).len(),
        )
        .sort("ridge_relative")
    )
    least = table.filter(pl.col("ridge_relative") > 0)["ridge_relative"].min()
    zero_at = 10 ** (math.floor(math.log10(float(least))) - 1) if least is not None else 1e-6  # type: ignore[arg-type]
    return table.with_columns(x=pl.when(pl.col("ridge_relative") > 0).then("ridge_relative").otherwise(zero_at))


def ridge_chart(ridge: pl.DataFrame, metric: str, chosen: float) -> alt.LayerChart:
    """Mean over folds as a line, lowest to highest fold as a band, the study's own penalty marked.

    Args:
        ridge: the table of a `Summary`.
        metric: `r2_error` or `r2_error_norm_sq`.
        chosen: the study's ridge, in the units of the table's `ridge`.
    """
    table = ridge_table(ridge, metric)
    zero_at = float(table["x"].min())  # type: ignore[arg-type]
    has_zero = bool((table["ridge_relative"] == 0).any())
    decades = range(math.floor(math.log10(zero_at)), math.floor(math.log10(float(table["x"].max()))) + 1)  # type: ignore[arg-type]
    ticks = [10.0**k for k in decades][:: max(1, len(decades) // 7)]
    label = "format(datum.value, '.0e')"
    if has_zero:
        label = f"datum.value < {zero_at * 1.01!r} ? '0' : {label}"
    x = alt.X("x:Q", title="penalty, relative to the mean variance of x (log scale; 0 at the left)",
              scale=alt.Scale(type="log", nice=False, padding=6),
              axis=alt.Axis(values=ticks, labelExpr=label, grid=False))  # fmt: skip
    floor, ceiling = float(table["low"].min()), float(table["high"].max())  # type: ignore[arg-type]
    margin = 0.12 * (ceiling - floor) + 1e-3
    y = alt.Y("low:Q", title="held-out R²", scale=alt.Scale(domain=[floor - margin, ceiling + 2 * margin], nice=False))
    base = alt.Chart(as_part(table, METRIC_PARTS[metric])).encode(x=x, color=part_colour())
    tooltip = [alt.Tooltip("ridge_relative:Q", title="relative penalty", format=".1e"),
               alt.Tooltip("ridge:Q", title="penalty", format=".3g"),
               alt.Tooltip("mean:Q", title="mean over folds", format=".4f"),
               alt.Tooltip("low:Q", title="lowest fold", format=".4f"),
               alt.Tooltip("high:Q", title="highest fold", format=".4f")]  # fmt: skip
    own = table.with_columns(off=(pl.col("ridge") - chosen).abs()).sort("off").head(1)
    own = own.with_columns(text=pl.lit("this study"), top=pl.lit(ceiling + 2 * margin))
    at_left = float(own["x"][0]) < 10 ** ((math.log10(zero_at) + math.log10(float(table["x"].max()))) / 2)  # type: ignore[arg-type]
    mark = alt.Chart(own).encode(x="x:Q")
    return alt.layer(
        base.mark_area(opacity=0.18).encode(y=y, y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y="mean:Q"),
        base.mark_point(filled=True, size=45, opacity=1).encode(y="mean:Q", tooltip=tooltip),
        mark.mark_rule(color=NEUTRAL, strokeDash=[2, 3]),
        mark.mark_text(align="left" if at_left else "right", dx=6 if at_left else -6, baseline="top", dy=2,
                       color=NEUTRAL).encode(y="top:Q", text="text:N"),
    ).properties(height=HEIGHT)  # fmt: skip
