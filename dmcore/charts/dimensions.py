"""R2 of each dimension of the error, against how much of the error is in that dimension."""

from __future__ import annotations

import altair as alt
import polars as pl

from dmcore.charts.labels import decade_ticks, spread
from dmcore.charts.theme import LINEAR, NEUTRAL, as_part, part_colour

HEIGHT = 340

_X_TITLE = "share of the error's variance in the dimension (log scale)"
_Y_TITLE = "held-out R² of the dimension"

MOST_POINTS = 600
"""More dimensions than this are drawn as a density of `_BINS` x `_BINS` cells."""

_BINS = 36


def dimensions_table(dims: pl.DataFrame) -> pl.DataFrame:
    """Dimensions whose error varies: `dimension`, `r2`, `share` of the error's variance; best predicted first."""
    alive = dims.filter(pl.col("r2").is_not_null() & pl.col("r2").is_not_nan() & (pl.col("error_variance") > 0))
    return alive.select(
        "dimension", "r2", share=pl.col("error_variance") / pl.col("error_variance").sum(), act_variance="act_variance"
    ).sort("r2", descending=True)


def dimensions_chart(dims: pl.DataFrame, pooled: float, mean_dims: float) -> alt.LayerChart:
    """A dot a dimension, with the two aggregates as lines.

    Args:
        dims: the table of a `Summary`.
        pooled, mean_dims: `r2_error` and `r2_error_mean_dims` of the same fit.
    """
    table = dimensions_table(dims)
    least, most = (float(v) for v in table.select(pl.col("share").min(), b=pl.col("share").max()).row(0))
    ticks = decade_ticks(least, most)
    x = alt.X("share:Q", title=_X_TITLE, axis=alt.Axis(format="~%", values=ticks),
              scale=alt.Scale(type="log", domain=[least / 1.1, most * (most / least) ** 0.28], nice=False))  # fmt: skip
    lowest, highest = (float(v) for v in table.select(pl.col("r2").min(), b=pl.col("r2").max()).row(0))
    low, top = max(min(lowest, 0.0), -0.5), min(1.0, highest * 1.15)
    y = alt.Y("r2:Q", title=_Y_TITLE, scale=alt.Scale(domain=[low, top], clamp=True))
    marks = _points(table, x, y) if len(table) <= MOST_POINTS else _cells(table, x, y)
    lines = pl.DataFrame(
        {
            "r2": [pooled, mean_dims],
            "start": [least, least],
            "end": [most * 1.08, most * 1.08],
            "text": [f"pooled {pooled:.3f}", f"mean {mean_dims:.3f}"],
            "label_at": spread([pooled, mean_dims], (top - low) * 17 / HEIGHT),
        }
    )
    base = alt.Chart(lines)
    return alt.layer(
        marks,
        base.mark_rule(strokeWidth=1.5, strokeDash=[5, 4], color=NEUTRAL).encode(
            x=alt.X("start:Q", title=_X_TITLE), x2=alt.X2("end:Q"), y=alt.Y("r2:Q")
        ),
        base.mark_text(align="left", dx=4, fontWeight="bold", color=NEUTRAL).encode(
            x=alt.X("end:Q", title=_X_TITLE), y=alt.Y("label_at:Q", title=_Y_TITLE), text=alt.Text("text:N")
        ),
    ).properties(height=HEIGHT)


def _points(table: pl.DataFrame, x: alt.X, y: alt.Y) -> alt.Chart:
    tooltip = [alt.Tooltip("dimension:Q"), alt.Tooltip("r2:Q", title="R²", format=".3f"),
               alt.Tooltip("share:Q", title="share of error variance", format=".2%")]  # fmt: skip
    dots = alt.Chart(as_part(table, LINEAR)).mark_circle(size=38, opacity=0.65, aria=False)
    return dots.encode(x=x, y=y, color=part_colour(), tooltip=tooltip)


def _cells(table: pl.DataFrame, x: alt.X, y: alt.Y) -> alt.Chart:
    """Dots whose size is the number of dimensions in a cell of (log share, R2)."""
    log_share = pl.col("share").log()
    grid = [
        ((c - c.min()) / (c.max() - c.min() + 1e-12) * _BINS).floor().alias(name)
        for c, name in ((log_share, "column"), (pl.col("r2"), "row"))
    ]
    cells = (
        table.with_columns(grid)
        .group_by("column", "row")
        .agg(share=log_share.mean().exp(), r2=pl.col("r2").mean(), dimensions=pl.len())
    )
    size = alt.Size("dimensions:Q", scale=alt.Scale(range=[8, 160]), legend=None)
    tooltip = [alt.Tooltip("dimensions:Q"), alt.Tooltip("r2:Q", title="mean R²", format=".3f")]
    return (
        alt.Chart(as_part(cells, LINEAR))
        .mark_circle(opacity=0.65)
        .encode(x=x, y=y, size=size, color=part_colour(), tooltip=tooltip)
    )
