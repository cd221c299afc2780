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

MOST_CELLS = 1400
"""More cells than this cost a reader time and show nothing."""

OUTSIDE = 0.0005
"""Share of the counts at either end that may be in the outermost cells."""

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


@dataclass(frozen=True)
class Frame:
    """The cells that a chart draws, and the ends of both of its axes."""

    cells: pl.DataFrame
    """As in the table; what lies beyond the ends is in the outermost cells."""
    low: float
    high: float


def frame_cells(cells: pl.DataFrame) -> Frame:
    """Cut both axes to where all but `OUTSIDE` of the counts are, and merge cells by two until there are `MOST_CELLS`."""
    width = float(cells["actual_high"][0] - cells["actual_low"][0])
    base = float(cells.select(pl.min_horizontal(pl.col("actual_low").min(), pl.col("predicted_low").min())).item())
    grid = cells.select(
        *(
            ((pl.col(f"{axis}_low") - base) / width).round().cast(pl.Int64).alias(axis)
            for axis in ("actual", "predicted")
        ),
        pl.col("count").cast(pl.Int64),
    )
    ends = [_ends(grid, axis) for axis in ("actual", "predicted")]
    first, last = min(low for low, _ in ends), max(high for _, high in ends)
    factor = 1
    while True:
        indices = ((pl.col(axis).clip(first, last) - first) // factor for axis in ("actual", "predicted"))
        merged = grid.group_by(*indices).agg(pl.col("count").sum()).sort("actual", "predicted")
        if len(merged) <= MOST_CELLS:
            break
        factor *= 2
    start, step = base + first * width, width * factor
    edges = [
        (start + (pl.col(axis) + end) * step).alias(f"{axis}_{name}")
        for axis in ("actual", "predicted")
        for end, name in ((0, "low"), (1, "high"))
    ]
    n_steps = (last - first) // factor + 1
    return Frame(merged.select(*edges, "count"), start, start + n_steps * step)


def _ends(grid: pl.DataFrame, axis: str) -> tuple[int, int]:
    """The bins of an axis that hold all but `OUTSIDE` of the counts at either end; the first of all bins is an overflow."""
    marginal = grid.filter(pl.col(axis) > 0).group_by(axis).agg(pl.col("count").sum()).sort(axis)
    if not len(marginal):
        return 0, int(grid[axis].max() or 0)
    share = marginal["count"].cum_sum() / marginal["count"].sum()
    inside = marginal.filter((share > OUTSIDE) & (share - marginal["count"] / marginal["count"].sum() < 1 - OUTSIDE))
    return int(inside[axis].min()), int(inside[axis].max())


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
    frame = frame_cells(cells)
    low, high = frame.low, frame.high
    scale = alt.Scale(domain=[low, high], nice=False)
    axis = {"grid": False} | (_log_ticks(low, high) if look.log10 else {"tickCount": 7})
    rects = (
        alt.Chart(frame.cells)
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
    means = alt.Chart(as_part(within(mean_actual(cells, look.log10), frame), TOTAL)).mark_line(strokeWidth=2.5)
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


def within(means: pl.DataFrame, frame: Frame) -> pl.DataFrame:
    """The means at predictions inside the axes; those at the very ends are of everything beyond."""
    step = float(frame.cells["predicted_high"][0] - frame.cells["predicted_low"][0])
    inside = pl.col("predicted").is_between(frame.low + step, frame.high - step)
    return means.filter(inside & pl.col("actual").is_between(frame.low, frame.high))


def _log_ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks of an axis that is drawn in log10, labelled as plain multiples."""
    values = [math.log10(tick) for tick in decade_ticks(10**low, 10**high)]
    return {"values": values, "labelExpr": "format(pow(10, datum.value), '.2~r')"}
