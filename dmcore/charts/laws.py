"""Measured error over dictionary width, and the laws that were fitted to it, each named at its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from dmcore.charts.axes import (
    FIT_WIDTH,
    METRICS,
    clipped,
    finite,
    known,
    linear_ends,
    linear_y,
    log_ends,
    log_y,
    width_ends,
    width_x,
    with_text,
)
from dmcore.charts.labels import spread
from dmcore.charts.numbers import number
from dmcore.charts.theme import NEUTRAL, TOTAL, as_part, part_colour

HEIGHT = 350

LAW_NAMES = {"power": "with floor", "power_zero": "no floor", "exponential": "exponential", "constant": "constant"}
"""What the laws of the `laws` table are called: c + a W^-m, a W^-m, c + a exp(-W / m), c."""

REACH = 4.0
"""Laws are drawn up to so many times the widest SAE."""

_DASHES = {"power": [1, 0], "power_zero": [6, 3], "exponential": [2, 2], "constant": [8, 3, 2, 3]}
_KEPT = ["kind", "law", "sae", "d_sae", "l0", "value", "low", "high", "scatter_low", "scatter_high"]


def law_table(
    points: pl.DataFrame,
    curves: pl.DataFrame,
    laws: pl.DataFrame,
    metric: str = "fvu",
    space: str = "log",
    reach: float = REACH,
) -> pl.DataFrame:
    """What is drawn, by `kind`: `measured` (an SAE), `law` (a point of a fitted law), `left out` (the widest, predicted
    from the others), `floor` (c of the law with a floor).

    Args:
        points: rows of `RECORD`, one per width: the SAEs of one set.
        curves, laws: rows of the tables of the same names, of that set; others' metrics and spaces are left out.
        metric: `fvu` or `fvu_nonlinear`.
        space: in which the laws were fitted: `log` or `linear`.
        reach: how far the laws are drawn, in times the widest SAE.
    """
    here = (pl.col("metric") == metric) & (pl.col("space") == space)
    widest = float(points["d_sae"].max())
    measured = points.filter(known(metric)).select(
        "sae", "d_sae", "l0", kind=pl.lit("measured"), value=metric, low=f"{metric}_low", high=f"{metric}_high"
    )
    lines = curves.filter(here & known("value") & (pl.col("d_sae") <= widest * reach * 1.001)).select(
        "law", "d_sae", "value", "low", "high", "scatter_low", "scatter_high", kind=pl.lit("law")
    )
    fitted = laws.filter(here)
    predicted = fitted.filter(known("left_out")).select(
        "law",
        d_sae=pl.lit(widest),
        kind=pl.lit("left out"),
        value="left_out",
        low="left_out_low",
        high="left_out_high",
    )
    floor = fitted.filter((pl.col("law") == "power") & known("c")).select(
        "law", kind=pl.lit("floor"), value="c", low="c_low", high="c_high",
        scatter_low="c_scatter_low", scatter_high="c_scatter_high",
    )  # fmt: skip
    tables = [t.with_columns(pl.col(c).cast(pl.Float64) for c in t.columns if c in _KEPT[3:])
              for t in (measured, lines, predicted, floor)]  # fmt: skip
    table = pl.concat(tables, how="diagonal")
    missing = [pl.lit(None, dtype=pl.Float64).alias(c) for c in _KEPT if c not in table.columns]
    return table.with_columns(missing).select(_KEPT).sort("kind", "law", "d_sae", nulls_last=True)


def law_chart(
    points: pl.DataFrame,
    curves: pl.DataFrame,
    laws: pl.DataFrame,
    selected: str | None = None,
    metric: str = "fvu",
    space: str = "log",
    log: bool = True,
    reach: float = REACH,
) -> alt.LayerChart:
    """Measured points with intervals; the law with a floor solid, with the band of the texts and the wider one of the
    SAEs' scatter; its rivals thin; the floor dashed; what each law predicted of the widest SAE without it, hollow.

    Args:
        selected: id of the chosen SAE, which is marked.
        log: a log y axis; else a linear one.
    """
    table = law_table(points, curves, laws, metric, space, reach)
    measured, lines = table.filter(pl.col("kind") == "measured"), table.filter(pl.col("kind") == "law")
    floor = table.filter(pl.col("kind") == "floor")
    low, high = _ends(table, log)
    title = METRICS[metric].title + (", log scale" if log else "")
    y = (log_y if log else linear_y)("value:Q", title, low, high)
    ticks, room = _ticks(points, lines), 0.16 if len(lines) else 0.0
    end = max([*ticks, *lines["d_sae"]])
    x = width_x(ticks, right=room, end=end)
    layers = [
        *_floor(floor, [width_ends(ticks)[0], end], low, high),
        *_bands(lines, METRICS[metric].part, low, high),
        *_lines(lines, METRICS[metric].part, low, high, log),
        *_left_out(table.filter(pl.col("kind") == "left out"), METRICS[metric].part, low, high),
        *_points(measured, selected, metric, x, y, low, high),
    ]
    return alt.layer(*layers).properties(height=HEIGHT, autosize=FIT_WIDTH)


def _ends(table: pl.DataFrame, log: bool) -> tuple[float, float]:
    """Ends of the y axis: the points and their intervals, the lines; the floor where it is not far below them."""
    measured = table.filter(pl.col("kind") == "measured")
    lines = table.filter(pl.col("kind").is_in(["law", "left out"]))
    values = finite([*measured["value"], *measured["low"], *measured["high"], *lines["value"]])
    floor = finite(table.filter(pl.col("kind") == "floor")["value"])
    if not log:
        low, high = linear_ends([*values, *floor])
        return (0.0 if low < 0.25 * high else low), high
    least = min((v for v in values if v > 0), default=0.1)
    return log_ends([*(v for v in values if v > 0), *(v for v in floor if v > 0.4 * least)])


def _ticks(points: pl.DataFrame, lines: pl.DataFrame) -> list[float]:
    """Measured widths, and doublings beyond them as far as the lines go."""
    ticks = sorted({float(w) for w in points["d_sae"]})
    end = float(lines["d_sae"].max() or 0) if len(lines) else 0.0
    while ticks[-1] * 2 <= end * 1.01:
        ticks.append(ticks[-1] * 2)
    return ticks


def _floor(floor: pl.DataFrame, ends: Sequence[float], low: float, high: float) -> list[alt.Chart]:
    """The floor c as a dashed line, with the interval of the SAEs' scatter where it is known, else that of the texts; a note
    at the bottom where it is below the axis."""
    if not len(floor):
        return []
    row = floor.row(0, named=True)
    inside = low < row["value"] < high
    scatter = [row["scatter_low"], row["scatter_high"]]
    interval = scatter if len(finite(scatter)) == 2 else [row["low"], row["high"]]
    text = f"floor c = {number(row['value'], *interval)}{'' if inside else ', below this axis ↓'}"
    place = {"start": ends[0], "end": ends[1], "value": row["value"] if inside else low, "text": text}
    base = alt.Chart(pl.DataFrame([place])).encode(x=alt.X("start:Q"))
    words = base.mark_text(align="left", dx=6, dy=-9, color=NEUTRAL, fontWeight="bold")
    layers = [words.encode(y=alt.Y("value:Q"), text=alt.Text("text:N"))]
    if inside:
        rule = base.mark_rule(color=NEUTRAL, strokeDash=[5, 4])
        layers = [rule.encode(x2=alt.X2("end:Q"), y=alt.Y("value:Q")), *layers]
    return layers


def _bands(lines: pl.DataFrame, part: str, low: float, high: float) -> list[alt.Chart]:
    """Both bands of the law with a floor: scatter of the SAEs, wider and lighter, and texts."""
    layers: list[alt.Chart] = []
    for prefix, opacity in (("scatter_", 0.10), ("", 0.22)):
        ends = [f"{prefix}low", f"{prefix}high"]
        rows = lines.filter((pl.col("law") == "power") & known(ends[0]) & known(ends[1]))
        if len(rows):
            rows = clipped(as_part(rows, part), low, high, *ends)
            band = alt.Chart(rows).mark_area(opacity=opacity).encode(x=alt.X("d_sae:Q"), color=part_colour())
            layers.append(band.encode(y=alt.Y(f"{ends[0]}:Q"), y2=alt.Y2(f"{ends[1]}:Q")))
    return layers


def _lines(lines: pl.DataFrame, part: str, low: float, high: float, log: bool) -> list[alt.Chart]:
    """The laws, their names at their ends."""
    if not len(lines):
        return []
    names = pl.col("law").replace_strict(LAW_NAMES, default=pl.col("law"))
    rows = as_part(lines.with_columns(name=names).filter(pl.col("value").is_between(low, high)), part)
    tooltip = [alt.Tooltip("name:N", title="law"), alt.Tooltip("d_sae:Q", title="width", format=",.0f"),
               alt.Tooltip("value:Q", format=".4f"), alt.Tooltip("low:Q", format=".4f"),
               alt.Tooltip("high:Q", format=".4f")]  # fmt: skip
    ends = rows.sort("d_sae").group_by("law", maintain_order=True).last()
    heights = ends["value"].log() if log else ends["value"]
    size = (math.log(high / low) if log else high - low) * 17 / HEIGHT
    moved = pl.Series(spread(heights.to_list(), size), dtype=pl.Float64)
    ends = ends.with_columns(label_at=moved.exp() if log else moved)
    dash = alt.StrokeDash("law:N", scale=alt.Scale(domain=list(_DASHES), range=list(_DASHES.values())), legend=None)
    layers = []
    for kept, colour, width in ((pl.col("law") != "power", alt.value(NEUTRAL), 1.5),
                                (pl.col("law") == "power", part_colour(), 2.5)):  # fmt: skip
        base = alt.Chart(rows.filter(kept)).encode(
            x=alt.X("d_sae:Q"), y=alt.Y("value:Q"), color=colour, strokeDash=dash, tooltip=tooltip
        )
        text = alt.Chart(ends.filter(kept)).mark_text(align="left", dx=8, fontWeight="bold", fontSize=12)
        text = text.encode(x=alt.X("d_sae:Q"), y=alt.Y("label_at:Q"), text=alt.Text("name:N"), color=colour)
        layers += [base.mark_line(strokeWidth=width), text]
    return layers


def _left_out(rows: pl.DataFrame, part: str, low: float, high: float) -> list[alt.Chart]:
    """What each law says of the widest SAE when it has not seen it: hollow, beside its place, in the order of the laws."""
    rows = rows.filter(pl.col("value").is_between(low, high))
    if not len(rows):
        return []
    names = pl.col("law").replace_strict(LAW_NAMES, default=pl.col("law"))
    rows = as_part(clipped(rows.with_columns(name=names), low, high, "low", "high"), part)
    rows = with_text(rows, "value", "low", "high").with_columns(
        beside=pl.col("d_sae") * 1.09 ** pl.int_range(1, pl.len() + 1)
    )
    tooltip = [alt.Tooltip("name:N", title="predicted without the widest SAE, law"),
               alt.Tooltip("text:N", title="value")]  # fmt: skip
    layers = []
    for kept, colour in ((pl.col("law") != "power", alt.value(NEUTRAL)), (pl.col("law") == "power", part_colour())):
        base = alt.Chart(rows.filter(kept)).encode(x=alt.X("beside:Q"), color=colour)
        hollow = base.mark_point(filled=False, size=60, strokeWidth=1.8, opacity=1)
        layers += [
            base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
            hollow.encode(y=alt.Y("value:Q"), tooltip=tooltip),
        ]
    return layers


def _points(
    rows: pl.DataFrame, selected: str | None, metric: str, x: alt.X, y: alt.Y, low: float, high: float
) -> list[alt.Chart]:
    """The measured SAEs with their intervals, the chosen one as a diamond."""
    rows = with_text(as_part(rows, METRICS[metric].part), "value", "low", "high")
    rows = clipped(rows, low, high, "low", "high").with_columns(chosen=pl.col("sae") == (selected or ""))
    base = alt.Chart(rows).encode(color=part_colour())
    tooltip: list[Any] = [alt.Tooltip("sae:N", title="SAE"), alt.Tooltip("d_sae:Q", title="width", format=",d"),
                          alt.Tooltip("l0:Q", title="L0", format=".1f"),
                          alt.Tooltip("text:N", title=METRICS[metric].name)]  # fmt: skip
    chosen = rows.filter("chosen")
    layers = [
        base.mark_rule(strokeWidth=2).encode(x=alt.X("d_sae:Q"), y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        base.mark_point(filled=True, size=60, opacity=1).encode(x=x, y=y, tooltip=tooltip),
    ]
    if len(chosen):
        mark = alt.Chart(as_part(chosen, METRICS[metric].part)).encode(x=alt.X("d_sae:Q"), y=alt.Y("value:Q"))
        diamond = mark.mark_point(filled=True, size=150, shape="diamond", opacity=1, stroke="white", strokeWidth=1.5)
        words = alt.Chart(as_part(chosen, TOTAL)).mark_text(align="left", dx=9, dy=-17, fontWeight="bold", fontSize=13)
        layers += [
            diamond.encode(color=part_colour(), tooltip=tooltip),
            words.encode(x=alt.X("d_sae:Q"), y=alt.Y("value:Q"), text=alt.Text("text:N"), color=part_colour()),
        ]
    return layers
