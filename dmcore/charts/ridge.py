"""The ridge path: held-out R2 over the size of the penalty, with the spread between folds."""

from __future__ import annotations

import math

import altair as alt
import polars as pl

from dmcore.charts.labels import spread
from dmcore.charts.theme import LINEAR, NEUTRAL, TOTAL, part_colour

HEIGHT = 340

METRIC_PARTS = {"r2_error": LINEAR, "r2_error_norm_sq": TOTAL}
"""Colour of each curve: that of the vector and of the squared norm everywhere on the page."""

METRIC_NAMES = {"r2_error": "error vector (pooled)", "r2_error_norm_sq": "squared norm"}

_X_TITLE = "penalty (log scale, 0 at the left)"


def ridge_table(ridge: pl.DataFrame) -> pl.DataFrame:
    """Per metric and penalty: `mean`, `low`, `high` over folds, and `x`, where it is drawn (zero a decade below the least)."""
    least = ridge.filter(pl.col("ridge_relative") > 0)["ridge_relative"].min()
    zero_at = 10.0 ** (math.floor(math.log10(float(least))) - 1) if least is not None else 1e-6  # type: ignore[arg-type]
    return pl.concat(
        ridge.group_by("ridge", "ridge_relative")
        .agg(
            mean=pl.col(metric).mean(),
            low=pl.col(metric).min(),
            high=pl.col(metric).max(),
            n_folds=pl.col(metric).len(),
        )
        .with_columns(
            x=pl.when(pl.col("ridge_relative") > 0).then("ridge_relative").otherwise(zero_at),
            metric=pl.lit(METRIC_NAMES[metric]),
            part=pl.lit(part),
        )
        .sort("ridge_relative")
        for metric, part in METRIC_PARTS.items()
    )


def ridge_chart(ridge: pl.DataFrame, chosen: float) -> alt.LayerChart:
    """Mean over folds as lines, lowest to highest fold as bands, the study's own penalty marked.

    Args:
        ridge: the table of a `Summary`.
        chosen: the study's ridge, in the units of the table's `ridge`.
    """
    table = ridge_table(ridge)
    left, right = (float(v) for v in table.select(pl.col("x").min(), b=pl.col("x").max()).row(0))
    floor, ceiling = (float(v) for v in table.select(pl.col("low").min(), b=pl.col("high").max()).row(0))
    margin = 0.1 * (ceiling - floor) + 1e-3
    top = ceiling + 2 * margin
    x = alt.X("x:Q", title=_X_TITLE, scale=alt.Scale(type="log", domain=[left / 1.6, right * 1.6], nice=False),
              axis=_axis(left, right, bool((table["ridge_relative"] == 0).any())))  # fmt: skip
    y = alt.Y("low:Q", title="held-out R²", scale=alt.Scale(domain=[floor - margin, top], nice=False))
    base = alt.Chart(table).encode(x=x, color=part_colour())
    tooltip = [alt.Tooltip("metric:N"),
               alt.Tooltip("ridge_relative:Q", title="relative penalty", format=".1e"),
               alt.Tooltip("ridge:Q", title="penalty", format=".3g"),
               *(alt.Tooltip(f"{c}:Q", title=f"{c} over folds", format=".4f") for c in ("mean", "low", "high"))]  # fmt: skip
    return alt.layer(
        base.mark_area(opacity=0.18).encode(y=y, y2=alt.Y2("high:Q")),
        base.mark_line(strokeWidth=2).encode(y=alt.Y("mean:Q")),
        base.mark_point(filled=True, size=40, opacity=1).encode(y=alt.Y("mean:Q"), tooltip=tooltip),
        *_own(table, chosen, top, (left * right) ** 0.5),
        _names(table, top - floor + margin),
    ).properties(height=HEIGHT)


def _axis(left: float, right: float, has_zero: bool) -> alt.Axis:
    decades = range(round(math.log10(left)), math.floor(math.log10(right)) + 1)
    step = max(1, math.ceil(len(decades) / 7))
    ticks = [10.0**k for k in decades if (k - decades[0]) % step == 0]
    label = "format(datum.value, '.0e')"
    if has_zero:
        label = f"datum.value < {left * 1.5!r} ? '0' : {label}"
    return alt.Axis(values=ticks, labelExpr=label, grid=False)


def _own(table: pl.DataFrame, chosen: float, top: float, middle: float) -> list[alt.Chart]:
    """A line at the study's own penalty."""
    own = table.with_columns(off=(pl.col("ridge") - chosen).abs()).sort("off").head(1).select("x")
    own = own.with_columns(text=pl.lit("this study"), top=pl.lit(top))
    side = {"align": "left", "dx": 6} if float(own["x"][0]) < middle else {"align": "right", "dx": -6}
    base = alt.Chart(own).encode(x=alt.X("x:Q"))
    return [
        base.mark_rule(color=NEUTRAL, strokeDash=[2, 3]),
        base.mark_text(baseline="top", dy=2, color=NEUTRAL, **side).encode(y=alt.Y("top:Q"), text=alt.Text("text:N")),
    ]


def _names(table: pl.DataFrame, height: float) -> alt.Chart:
    """The name of each curve, above its start."""
    first = table.filter(pl.col("x") == table["x"].min())
    lift = 14 * height / HEIGHT
    first = first.with_columns(mean=pl.Series(spread((first["high"] + lift).to_list(), lift * 1.3)))
    text = alt.Chart(first).mark_text(align="left", dx=2, fontWeight="bold", fontSize=12)
    return text.encode(x=alt.X("x:Q"), y=alt.Y("mean:Q"), text=alt.Text("metric:N"), color=part_colour())
