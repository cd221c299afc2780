"""Predicted against actual as a density: how good the prediction is everywhere, not on average."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl

from dmcore.charts.labels import decade_ticks
from dmcore.charts.theme import NEUTRAL, TOTAL, as_part, part_colour

HEIGHT = 420

CANVAS = {"embedOptions": {"renderer": "canvas"}}
"""Thousands of cells are drawn several times faster on a canvas than as SVG."""


@dataclass(frozen=True)
class Panel:
    """How a panel of the `density` table is drawn."""

    x_title: str
    y_title: str
    log10: bool
    """The table's edges are log10 of what the axes show."""


PANELS = {
    "norm_sq": Panel("predicted |e|² / mean |e|² (log scale)", "actual |e|² / mean |e|² (log scale)", True),
    "vector": Panel(
        "predicted coordinate (standard deviations of the error)",
        "actual coordinate (standard deviations of the error)",
        False,
    ),
}


def panel_table(density: pl.DataFrame, panel: str) -> pl.DataFrame:
    """The cells of one panel."""
    return density.filter(pl.col("panel") == panel).drop("panel")


def mean_actual(cells: pl.DataFrame, log10: bool) -> pl.DataFrame:
    """Mean of the actual value at each predicted one, from the cells' centres; columns `predicted`, `actual`, `count`."""
    centre = (pl.col("actual_low") + pl.col("actual_high")) / 2
    value = (10.0**centre) if log10 else centre
    mean = (value * pl.col("count")).sum() / pl.col("count").sum()
    return (
        cells.group_by("predicted_low", "predicted_high")
        .agg(actual=mean.log10() if log10 else mean, count=pl.col("count").sum())
        .filter(pl.col("count") >= 50)
        .select(((pl.col("predicted_low") + pl.col("predicted_high")) / 2).alias("predicted"), "actual", "count")
        .sort("predicted")
    )


def density_chart(density: pl.DataFrame, panel: str) -> alt.LayerChart:
    """Cells coloured by count, the line of a perfect prediction, and the mean actual value at each prediction."""
    look = PANELS[panel]
    cells = panel_table(density, panel)
    low = float(min(cells["actual_low"].min(), cells["predicted_low"].min()))  # type: ignore[type-var,arg-type]
    high = float(max(cells["actual_high"].max(), cells["predicted_high"].max()))  # type: ignore[type-var,arg-type]
    scale = alt.Scale(domain=[low, high], nice=False)
    axis = {"grid": False} | (_log_ticks(low, high) if look.log10 else {"tickCount": 7})
    rects = (
        alt.Chart(cells)
        .mark_rect()
        .encode(
            x=alt.X("predicted_low:Q", title=look.x_title, scale=scale, axis=alt.Axis(**axis)),
            x2=alt.X2("predicted_high:Q"),
            y=alt.Y("actual_low:Q", title=look.y_title, scale=scale, axis=alt.Axis(**axis)),
            y2=alt.Y2("actual_high:Q"),
            color=alt.Color(
                "count:Q",
                scale=alt.Scale(type="log"),
                legend=alt.Legend(title="count", orient="top-left", direction="horizontal", gradientLength=90,
                                  gradientThickness=8, format="~s", tickCount=3),
            ),
        )
    )  # fmt: skip
    ends = pl.DataFrame({"predicted": [low, high], "actual": [low, high], "text": ["", "perfect"]})
    perfect = alt.Chart(ends).encode(x=alt.X("predicted:Q"), y=alt.Y("actual:Q"))
    means = alt.Chart(as_part(mean_actual(cells, look.log10), TOTAL)).mark_line(strokeWidth=2.5)
    return (
        alt.layer(
            rects,
            perfect.mark_line(color=NEUTRAL, strokeDash=[5, 4], strokeWidth=1.5),
            perfect.mark_text(align="right", dx=-10, dy=2, baseline="top", color=NEUTRAL).encode(
                text=alt.Text("text:N")
            ),
            means.encode(x=alt.X("predicted:Q"), y=alt.Y("actual:Q"), color=part_colour()),
        )
        .resolve_scale(color="independent")
        .properties(height=HEIGHT, usermeta=CANVAS)
    )


def _log_ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks of an axis that is drawn in log10, labelled as plain multiples."""
    values = [math.log10(tick) for tick in decade_ticks(10**low, 10**high)]
    return {"values": values, "labelExpr": "format(pow(10, datum.value), '.2~r')"}
