"""The error budget over width, as far as it was measured and as the laws continue it: what no dictionary would recover.

1. From the top: absent features, between FVU and the floor c of its law; linear error, between c and nonlinear FVU; encoder
   error, between nonlinear FVU and that of pursuit codes, where those exist; nonlinear error below.
2. Where the floor is below nonlinear FVU, nothing is left between them: the linear area is empty there.
3. Up to the widest SAE the areas join the measured points; beyond it they follow the fitted laws, whose intervals are the wider
   of two: how a law moves with the texts, and how far the SAEs' scatter about it leaves it open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from dmcore.charts.area_names import area_names
from dmcore.charts.axes import FIT_WIDTH, METRICS, WIDTH_TITLE, finite, known, linear_y, width_ends, width_x, with_text
from dmcore.charts.theme import ABSENT, ENCODER, LINEAR, NEUTRAL, NONLINEAR, TOTAL, as_part, part_colour

HEIGHT = 390
REACH = 16.0
"""The laws are followed up to so many times the widest SAE."""


def budget_table(
    points: pl.DataFrame,
    curves: pl.DataFrame,
    laws: pl.DataFrame,
    encoder_floor: pl.DataFrame | None = None,
    law: str = "power",
    space: str = "log",
) -> pl.DataFrame:
    """A row for each width and part: `d_sae`, `measured`, `part`, `y_low`, `y_high`, `share_of_variance`, and the `fvu`,
    `nonlinear`, `floor` that they are made of, with the ends of the laws' intervals.

    Args:
        points: rows of `RECORD`, one per width: the SAEs of one set.
        curves, laws: rows of the tables of the same names, of that set; may be empty, then nothing is extrapolated.
        encoder_floor: `d_sae`, `fvu`: nonlinear FVU of pursuit codes. Its ratio to nonlinear FVU is held beyond what it covers.
        law: the law of nonlinear FVU; FVU itself always follows `power`, whose floor is c.
        space: in which the laws were fitted.
    """
    rows = _measured(points) + _continued(points, curves, law, space)
    floors = laws.filter(
        (pl.col("metric") == "fvu") & (pl.col("law") == "power") & (pl.col("space") == space) & known("c")
    )
    floor = float(floors["c"][0]) if len(floors) else None
    ratio = _pursuit_ratio(points, encoder_floor)
    table = pl.DataFrame([_bounds(row, floor, ratio) for row in rows], infer_schema_length=None)
    return pl.concat(
        table.select(
            "d_sae", "measured", part=pl.lit(part), y_low=low, y_high=high, share_of_variance=pl.col(high) - pl.col(low),
            fvu="fvu", fvu_low="fvu_low", fvu_high="fvu_high", nonlinear="nonlinear", nonlinear_low="nonlinear_low",
            nonlinear_high="nonlinear_high", floor="floor",
        )
        for part, low, high in ((ABSENT, "b3", "b4"), (LINEAR, "b2", "b3"), (ENCODER, "b1", "b2"), (NONLINEAR, "b0", "b1"))
        if not (part == ENCODER and encoder_floor is None) and not (part == ABSENT and floor is None)
    )  # fmt: skip


def _measured(points: pl.DataFrame) -> list[dict[str, Any]]:
    rows = points.filter(known("fvu") & known("fvu_nonlinear")).sort("d_sae").to_dicts()
    return [
        {"d_sae": float(row["d_sae"]), "measured": True, "fvu": row["fvu"], "nonlinear": row["fvu_nonlinear"],
         "fvu_low": row["fvu_low"], "fvu_high": row["fvu_high"], "nonlinear_low": row["fvu_nonlinear_low"],
         "nonlinear_high": row["fvu_nonlinear_high"]}
        for row in rows
    ]  # fmt: skip


def _continued(points: pl.DataFrame, curves: pl.DataFrame, law: str, space: str) -> list[dict[str, Any]]:
    """Both laws from the widest SAE on, at the widths of FVU's."""
    here = _widest_ends(curves.filter((pl.col("space") == space) & known("value"))).sort("d_sae")
    total = here.filter((pl.col("metric") == "fvu") & (pl.col("law") == "power"))
    rest = here.filter((pl.col("metric") == "fvu_nonlinear") & (pl.col("law") == law))
    if not len(total) or not len(rest):
        return []
    widest = float(points["d_sae"].max())
    beyond = total.filter((pl.col("d_sae") > widest * 1.001) & (pl.col("d_sae") <= widest * REACH * 1.001))
    widths = [widest, *beyond["d_sae"]]
    columns = {f"{name}{end}": _along(table, f"{column}", widths)
               for name, table in (("fvu", total), ("nonlinear", rest))
               for end, column in (("", "value"), ("_low", "low"), ("_high", "high"))}  # fmt: skip
    return [
        {"d_sae": width, "measured": False, **{name: values[k] for name, values in columns.items()}}
        for k, width in enumerate(widths)
    ]


def _widest_ends(curves: pl.DataFrame) -> pl.DataFrame:
    """Curves whose `low` and `high` are the wider of both intervals."""
    sides = {end: [pl.col(f"{kind}{end}").cast(pl.Float64).fill_nan(None) for kind in ("", "scatter_")]
             for end in ("low", "high")}  # fmt: skip
    return curves.with_columns(low=pl.min_horizontal(sides["low"]), high=pl.max_horizontal(sides["high"]))


def _along(curve: pl.DataFrame, column: str, widths: Sequence[float]) -> list[float | None]:
    """A column of a law at some widths, by interpolation over log width."""
    rows = curve.filter(known(column))
    if not len(rows):
        return [None] * len(widths)
    values = np.interp(np.log(widths), np.log(rows["d_sae"].to_numpy()), rows[column].to_numpy())
    return [float(v) for v in values]


def _pursuit_ratio(points: pl.DataFrame, encoder_floor: pl.DataFrame | None) -> Any:
    """Nonlinear FVU of pursuit codes over that of the encoder as a function of width; None without pursuit codes."""
    if encoder_floor is None or not len(encoder_floor):
        return None
    both = points.select(pl.col("d_sae").cast(pl.Float64), "fvu_nonlinear").join(
        encoder_floor.select(pl.col("d_sae").cast(pl.Float64), pursuit="fvu"), on="d_sae"
    )
    both = both.filter(known("pursuit") & (pl.col("fvu_nonlinear") > 0)).sort("d_sae")
    if not len(both):
        return None
    logs, ratios = np.log(both["d_sae"].to_numpy()), (both["pursuit"] / both["fvu_nonlinear"]).to_numpy()
    return lambda width: float(np.interp(math.log(width), logs, ratios))


def _bounds(row: dict[str, Any], floor: float | None, ratio: Any) -> dict[str, Any]:
    """The row with the borders of its areas from the bottom up, b0 to b4, none above the next."""
    total = max(row["fvu"], 0.0)
    rest = min(max(row["nonlinear"], 0.0), total)
    pursuit = rest if ratio is None else rest * min(max(ratio(row["d_sae"]), 0.0), 1.0)
    top = total if floor is None else min(max(floor, rest), total)
    return row | {"floor": floor, "b0": 0.0, "b1": pursuit, "b2": rest, "b3": top, "b4": total}


def budget_chart(
    points: pl.DataFrame,
    curves: pl.DataFrame,
    laws: pl.DataFrame,
    selected: str | None = None,
    encoder_floor: pl.DataFrame | None = None,
    law: str = "power",
    space: str = "log",
) -> alt.LayerChart:
    """Stacked areas over width: measured ones full, those that follow the laws lighter, with dashed ends of their intervals.

    Args:
        selected: id of the chosen SAE, which is marked.
    """
    table = budget_table(points, curves, laws, encoder_floor, law, space)
    measured, beyond = table.filter("measured"), table.filter(~pl.col("measured"))
    widths = measured["d_sae"].unique().sort().to_list()
    ticks = list(widths)
    while len(beyond) and ticks[-1] * 2 <= (beyond["d_sae"].max() or 0) * 1.01:
        ticks.append(ticks[-1] * 2)
    x = width_x(ticks)
    top = max(finite([*table["fvu"], *measured["fvu_high"]]), default=1.0) * 1.16
    y = linear_y("y_low:Q", METRICS["fvu"].title, 0.0, top)
    layers = [
        *_areas(measured, x, y, 0.95),
        *_areas(beyond, x, y, 0.5),
        *_law_ends(beyond, top),
        *_points(points.filter(known("fvu") & known("fvu_nonlinear")), selected, x),
        *_border(widths[-1], top, len(beyond) > 0),
        *area_names(table, top, HEIGHT, width_ends(ticks)),
    ]
    return alt.layer(*layers).properties(height=HEIGHT, autosize=FIT_WIDTH)


def _areas(table: pl.DataFrame, x: alt.X, y: alt.Y, opacity: float) -> list[alt.Chart]:
    if not len(table):
        return []
    tooltip = [alt.Tooltip("part:N"), alt.Tooltip("d_sae:Q", title="width", format=",.0f"),
               alt.Tooltip("share_of_variance:Q", title="share of variance", format=".2%")]  # fmt: skip
    base = alt.Chart(table).encode(x=x, y=y, y2=alt.Y2("y_high:Q"), color=part_colour(), tooltip=tooltip)
    alone = table["d_sae"].n_unique() == 1
    return [base.mark_bar(size=140, opacity=opacity) if alone else base.mark_area(opacity=opacity, line=False)]


def _law_ends(beyond: pl.DataFrame, top: float) -> list[alt.Chart]:
    """The laws beyond the widest SAE, solid; the ends of their intervals in long dashes (FVU) and short ones (nonlinear)."""
    if not len(beyond):
        return []
    one = beyond.filter(pl.col("part") == NONLINEAR)
    rows = pl.concat(
        one.select("d_sae", y=f"{name}{end}", line=pl.lit(f"{name}{end}"), kind=pl.lit(f"{name} end" if end else "law"))
        for name in ("fvu", "nonlinear")
        for end in ("", "_low", "_high")
    )
    rows = as_part(rows.filter(known("y")), TOTAL).with_columns(y=pl.col("y").clip(0.0, top))
    layers = []
    for kind, dash, width in (("law", [1, 0], 1.4), ("fvu end", [7, 3], 1.1), ("nonlinear end", [2, 2], 1.1)):
        line = alt.Chart(rows.filter(pl.col("kind") == kind)).mark_line(strokeWidth=width, strokeDash=dash)
        layers.append(line.encode(x=alt.X("d_sae:Q"), y=alt.Y("y:Q"), detail=alt.Detail("line:N"), color=part_colour()))
    return layers


def _points(points: pl.DataFrame, selected: str | None, x: alt.X) -> list[alt.Chart]:
    """The measured FVU and nonlinear FVU with their intervals; the chosen SAE's as diamonds."""
    rows = pl.concat(
        points.select(
            "sae", "d_sae", "l0", quantity=pl.lit(name), value=metric, low=f"{metric}_low", high=f"{metric}_high"
        )
        for metric, name in (("fvu", "FVU"), ("fvu_nonlinear", "nonlinear FVU"))
    )
    rows = with_text(as_part(rows, TOTAL), "value", "low", "high").with_columns(
        chosen=pl.col("sae") == (selected or "")
    )
    tooltip = [alt.Tooltip("sae:N", title="SAE"), alt.Tooltip("d_sae:Q", title="width", format=",d"),
               alt.Tooltip("l0:Q", title="L0", format=".1f"), alt.Tooltip("quantity:N"),
               alt.Tooltip("text:N", title="value")]  # fmt: skip
    base = alt.Chart(rows).encode(x=x, color=part_colour())
    shape = alt.Shape("chosen:N", scale=alt.Scale(domain=[False, True], range=["circle", "diamond"]), legend=None)
    size = alt.Size("chosen:O", scale=alt.Scale(domain=[False, True], range=[40, 150]), legend=None)
    return [
        base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        base.mark_point(filled=True, opacity=1).encode(y=alt.Y("value:Q"), shape=shape, size=size, tooltip=tooltip),
    ]


def _border(widest: float, top: float, beyond: bool) -> list[alt.Chart]:
    """Where measuring ends."""
    if not beyond:
        return []
    place = pl.DataFrame(
        {"d_sae": [widest], "top": [top], "zero": [0.0], "text": ["widest measured"], "law": ["as the laws continue"]}
    )
    base = alt.Chart(place).encode(x=alt.X("d_sae:Q", title=WIDTH_TITLE))
    return [
        base.mark_rule(color=NEUTRAL, strokeDash=[2, 3]).encode(y=alt.Y("zero:Q"), y2=alt.Y2("top:Q")),
        base.mark_text(align="right", dx=-6, dy=9, color=NEUTRAL).encode(y=alt.Y("top:Q"), text=alt.Text("text:N")),
        base.mark_text(align="left", dx=6, dy=9, color=NEUTRAL).encode(y=alt.Y("top:Q"), text=alt.Text("law:N")),
    ]
