"""Squared norms over the position in the context: what the first tokens do, and how soon it settles."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from dmcore.charts.labels import decade_ticks, spread
from dmcore.charts.theme import LINEAR, NEUTRAL, NONLINEAR, TOTAL, part_colour_if

HEIGHT = 340

SERIES = {
    "act_norm_sq": "activation |x|²",
    "error_sq": TOTAL,
    "linear_sq": LINEAR,
    "nonlinear_sq": NONLINEAR,
}
"""Columns of the `positions` table, and the name of each."""

_COLOUR = part_colour_if("datum.series !== 'act_norm_sq'")

EXACT = 32
"""Positions that keep a point of their own; later ones share points that grow like the position."""


def positions_table(positions: pl.DataFrame) -> pl.DataFrame:
    """Means over `position` (its first, where some share a point), token-weighted, in the columns of `SERIES`."""
    steps = (pl.col("position") / EXACT).log(1.06).floor()
    group = pl.when(pl.col("position") < EXACT).then(pl.col("position").cast(pl.Float64)).otherwise(EXACT + steps)
    weight = pl.col("n_tokens").cast(pl.Float64)
    means = [((pl.col(name) * weight).sum() / weight.sum()).alias(name) for name in SERIES]
    return (
        positions.filter(pl.col("n_tokens") > 0)
        .group_by(group.alias("group"))
        .agg(pl.col("position").min(), pl.col("n_tokens").sum(), *means)
        .sort("position")
        .drop("group")
    )


def sink(positions: pl.DataFrame) -> dict[str, Any]:
    """How position 0 compares with the median position after the first 16 (or after 0): ratios by column of `SERIES`."""
    first = positions.filter(pl.col("position") == 0)
    later = positions.filter(pl.col("position") >= 16)
    later = later if len(later) else positions.filter(pl.col("position") > 0)
    if not len(first) or not len(later):
        return {}
    return {
        name: float(first[name][0]) / float(later[name].median())  # type: ignore[arg-type]
        for name in SERIES
        if float(later[name].median() or 0) > 0  # type: ignore[arg-type]
    }


def positions_chart(positions: pl.DataFrame, skip: int) -> alt.LayerChart:
    """Four lines on log axes, with the skipped positions shaded.

    Args:
        positions: the table of a `Summary`.
        skip: how many first positions the shown numbers leave out.
    """
    table = positions_table(positions)
    long = (
        table.unpivot(list(SERIES), index="position", variable_name="series", value_name="mean")
        .filter(pl.col("mean") > 0)
        .with_columns(part=pl.col("series").replace_strict(SERIES))
    )
    last = int(table["position"].max() or 1)  # type: ignore[arg-type]
    ticks = [t for t in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192) if t <= last]
    x = alt.X("position:Q", title="position in the context (log scale)",
              scale=alt.Scale(type="symlog", domain=[0, last * 5], nice=False),
              axis=alt.Axis(values=ticks, grid=False))  # fmt: skip
    low, high = (float(v) for v in long.select(pl.col("mean").min(), b=pl.col("mean").max()).row(0))
    y = alt.Y("mean:Q", title="mean squared norm (log scale)",
              scale=alt.Scale(type="log", domain=[low / 1.3, high * 1.3], nice=False),
              axis=alt.Axis(format="~s", values=decade_ticks(low / 1.3, high * 1.3)))  # fmt: skip
    tooltip = [alt.Tooltip("part:N", title="of"), alt.Tooltip("position:Q"), alt.Tooltip("mean:Q", format=".3s")]
    layers: list[alt.Chart] = []
    if skip > 0:
        band = pl.DataFrame({"start": [0], "end": [skip - 0.5], "text": ["skipped"]})
        layers.append(
            alt.Chart(band).mark_rect(color=NEUTRAL, opacity=0.14).encode(x=alt.X("start:Q"), x2=alt.X2("end:Q"))
        )
    lines = alt.Chart(long).encode(x=x, y=y, color=_COLOUR, detail=alt.Detail("part:N"))
    layers += [
        lines.mark_line(strokeWidth=2),
        lines.mark_point(filled=True, size=14, opacity=1, aria=False).encode(tooltip=tooltip),
        *_end_labels(long, last),
    ]
    return alt.layer(*layers).properties(height=HEIGHT)


def _end_labels(long: pl.DataFrame, last: int) -> list[alt.Chart]:
    """The name of each line beside its end."""
    ends = long.filter(pl.col("position") == last)
    if not len(ends):
        return []
    decades = (long["mean"].log10().max() or 1) - (long["mean"].log10().min() or 0)  # type: ignore[operator]
    moved = spread(ends["mean"].log10().to_list(), float(decades) * 16 / HEIGHT)  # type: ignore[arg-type]
    ends = ends.with_columns(mean=10.0 ** pl.Series(moved))
    text = alt.Chart(ends).mark_text(align="left", dx=7, fontWeight="bold", fontSize=12)
    return [text.encode(x=alt.X("position:Q"), y=alt.Y("mean:Q"), text=alt.Text("part:N"), color=_COLOUR)]
