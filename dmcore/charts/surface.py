"""A metric over width and L0 together: cells between the measured SAEs, lines of equal value, and the SAEs themselves."""

from __future__ import annotations

import math

import altair as alt
import numpy as np
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, L0_TITLE, METRICS, known, log_ends, log_y, width_x, with_text

HEIGHT = 420

MOST_CELLS = 4000
"""More cells than this are merged by two by two: they cost a reader time and show nothing."""

_DARK, _PALE = "#1a1a1a", "#ffffff"
"""Lines and rings on cells, one around the other: seen on dark and on pale cells, on either page."""


def surface_table(points: pl.DataFrame, metric: str = "fvu") -> pl.DataFrame:
    """The measured SAEs: `sae`, `d_sae`, `l0`, `value`, `low`, `high`.

    Args:
        points: rows of `RECORD`: the SAEs of one site and label.
        metric: a column of `RECORD` with its interval.
    """
    return (
        points.filter(known(metric) & (pl.col("l0") > 0))
        .select("sae", "d_sae", "l0", value=metric, low=f"{metric}_low", high=f"{metric}_high")
        .sort("d_sae", "l0")
    )


def surface_chart(
    cells: pl.DataFrame, isolines: pl.DataFrame, points: pl.DataFrame, selected: str | None, metric: str = "fvu"
) -> alt.LayerChart:
    """Cells coloured by value, lines of equal value with their levels, SAEs as circles, the selected one ringed.

    A click selects an SAE (`pick`, by `sae`): a circle itself, a cell the SAE that is nearest on both log scales.

    Args:
        cells, isolines: tables `surfaces` and `isolines`; rows of other metrics are left out, labels are the caller's.
        points: rows of `RECORD`: the SAEs of the same label.
        selected: id of the chosen SAE.
    """
    table = with_text(surface_table(points, metric), "value", "low", "high")
    cells = merged(cells.filter((pl.col("metric") == metric) & known("value")))
    lines = isolines.filter((pl.col("metric") == metric) & known("width") & known("l0"))
    widths = table["d_sae"].unique().sort().to_list()
    low, high = log_ends([*table["l0"], *cells["l0_low"], *cells["l0_high"]], 1.12)
    span = max(widths) / min(widths)
    x = width_x(widths).scale(type="log", base=2, nice=False,
                              domain=[min(widths) / max(span**0.05, 1.3), max(widths) * max(span**0.05, 1.3)])  # fmt: skip
    y = log_y("l0:Q", L0_TITLE, low, high, grid=False)
    layers = [
        *_cells(cells, table, metric),
        *_lines(lines),
        _circles(table, x, y, metric),
        *_ring(table, selected),
    ]
    return alt.layer(*layers).properties(height=HEIGHT, autosize=FIT_WIDTH)


def merged(cells: pl.DataFrame) -> pl.DataFrame:
    """The cells, neighbours merged by two in both directions until there are at most `MOST_CELLS`."""
    while len(cells) > MOST_CELLS:
        by = [
            ((pl.col(f"{axis}_low").rank("dense").cast(pl.Int64) - 1) // 2).alias(f"_{axis}")
            for axis in ("width", "l0")
        ]
        ends = [
            getattr(pl.col(f"{axis}_{end}"), how)()
            for axis in ("width", "l0")
            for end, how in (("low", "min"), ("high", "max"))
        ]
        cells = cells.group_by(*by).agg(*ends, pl.col("value").mean()).drop("_width", "_l0").sort("width_low", "l0_low")
    return cells


def _nearest(cells: pl.DataFrame, table: pl.DataFrame) -> list[str]:
    """The SAE that is nearest to the middle of each cell on both log scales."""
    middle = [
        np.log(cells[f"{axis}_low"].to_numpy() * cells[f"{axis}_high"].to_numpy()) / 2 for axis in ("width", "l0")
    ]
    spot = [np.log(table[column].to_numpy().astype(float)) for column in ("d_sae", "l0")]
    far = sum((m[:, None] - s[None, :]) ** 2 for m, s in zip(middle, spot, strict=True))
    return table["sae"].gather(np.argmin(far, axis=1)).to_list()


def _cells(cells: pl.DataFrame, table: pl.DataFrame, metric: str) -> list[alt.Chart]:
    if not len(cells):
        return []
    drawn = cells.select("width_low", "width_high", "l0_low", "l0_high", "value").cast(pl.Float64)
    drawn = drawn.with_columns(sae=pl.Series(_nearest(drawn, table)))
    # cells that only touch leave a pale seam where their border falls inside a pixel
    drawn = drawn.with_columns(
        (pl.col(f"{axis}_high") * (pl.col(f"{axis}_high") / pl.col(f"{axis}_low")) ** 0.1).alias(f"{axis}_high")
        for axis in ("width", "l0")
    )
    legend = alt.Legend(title=METRICS[metric].title, orient="top", direction="horizontal", gradientLength=160,
                        gradientThickness=8, tickCount=4, titleLimit=500)  # fmt: skip
    tooltip = [alt.Tooltip("value:Q", title=f"{METRICS[metric].name}, between SAEs", format=".3~g"),
               alt.Tooltip("sae:N", title="nearest SAE")]  # fmt: skip
    scale = alt.Scale(zero=False, nice=False)
    return [
        alt.Chart(drawn)
        .mark_rect(aria=False)
        .encode(x=alt.X("width_low:Q"), x2=alt.X2("width_high:Q"), y=alt.Y("l0_low:Q"), y2=alt.Y2("l0_high:Q"),
                color=alt.Color("value:Q", scale=scale, legend=legend), tooltip=tooltip)
    ]  # fmt: skip


def _lines(lines: pl.DataFrame) -> list[alt.Chart]:
    """Lines of equal value, with the level on the longest of each."""
    if not len(lines):
        return []
    lines = (
        lines.sort("level", "line", "order")
        .select("level", "line", "order", "width", "l0")
        .cast({"width": pl.Float64, "l0": pl.Float64})
    )
    base = alt.Chart(lines).encode(
        x=alt.X("width:Q"),
        y=alt.Y("l0:Q"),
        order=alt.Order("order:Q"),
        detail=[alt.Detail("line:N"), alt.Detail("level:N")],
    )
    longest = lines.group_by("level", "line").len().sort("len", "line").group_by("level", maintain_order=True).last()
    places = [
        (*(math.sqrt(rows[c][(len(rows) - 1) // 2] * rows[c][len(rows) // 2]) for c in ("width", "l0")), f"{level:.3g}")
        for level, line in longest.select("level", "line").rows()
        for rows in [lines.filter((pl.col("level") == level) & (pl.col("line") == line))]
    ]
    labels = alt.Chart(pl.DataFrame(places, schema=["width", "l0", "text"], orient="row"))
    place = {"x": alt.X("width:Q"), "y": alt.Y("l0:Q"), "text": alt.Text("text:N")}
    return [
        base.mark_line(color=_PALE, strokeWidth=3, opacity=0.55),
        base.mark_line(color=_DARK, strokeWidth=1.1),
        labels.mark_text(stroke=_PALE, strokeWidth=4, strokeJoin="round", fontWeight="bold", fontSize=12).encode(
            **place
        ),
        labels.mark_text(color=_DARK, fontWeight="bold", fontSize=12).encode(**place),
    ]


def _circles(table: pl.DataFrame, x: alt.X, y: alt.Y, metric: str) -> alt.Chart:
    """The measured SAEs; these hear the click."""
    pick = alt.selection_point(name="pick", fields=["sae"], on="click", toggle=False)
    tooltip = [alt.Tooltip("sae:N", title="SAE"), alt.Tooltip("d_sae:Q", title="width", format=",d"),
               alt.Tooltip("l0:Q", title="L0", format=".1f"), alt.Tooltip("text:N", title=METRICS[metric].name)]  # fmt: skip
    dots = alt.Chart(table).mark_circle(
        size=80, opacity=1, color=_PALE, stroke=_DARK, strokeWidth=1.3, cursor="pointer"
    )
    return dots.encode(x=x, y=y, tooltip=tooltip).add_params(pick)


def _ring(table: pl.DataFrame, selected: str | None) -> list[alt.Chart]:
    """A ring around the selected SAE, with its value."""
    chosen = table.filter(pl.col("sae") == (selected or ""))
    if not len(chosen):
        return []
    left = (
        math.log(chosen["d_sae"][0] / table["d_sae"].min())
        < math.log(table["d_sae"].max() / table["d_sae"].min() + 1e-9) / 2
    )
    side = {"align": "left", "dx": 16} if left else {"align": "right", "dx": -16}
    base = alt.Chart(chosen.select("d_sae", "l0", "text")).encode(x=alt.X("d_sae:Q"), y=alt.Y("l0:Q"))
    words = {"fontWeight": "bold", "fontSize": 13, **side}
    return [
        base.mark_point(filled=False, size=340, stroke=_PALE, strokeWidth=5, opacity=1),
        base.mark_point(filled=False, size=340, stroke=_DARK, strokeWidth=2.5, opacity=1),
        base.mark_text(stroke=_PALE, strokeWidth=4, strokeJoin="round", **words).encode(text=alt.Text("text:N")),
        base.mark_text(color=_DARK, **words).encode(text=alt.Text("text:N")),
    ]
