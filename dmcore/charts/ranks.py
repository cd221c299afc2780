"""How much of an SAE's error an affine skip of each rank removes, between the SAE as it is and its nonlinear error."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, finite, known, linear_ends, linear_y, log_x, with_text
from dmcore.charts.numbers import percent
from dmcore.charts.theme import LINEAR, NEUTRAL, NONLINEAR, TOTAL, as_part, part_colour

HEIGHT = 340


def ranks_table(ranks: pl.DataFrame) -> pl.DataFrame:
    """The columns of `REDUCTION_TABLES["ranks"]`, by rank; rows without an FVU are left out."""
    return ranks.filter(known("fvu")).sort("rank")


def half_rank(ranks: pl.DataFrame) -> dict[str, Any] | None:
    """The row of the least rank that removes at least half of what the full rank does; None where nothing is removed."""
    table = ranks_table(ranks).filter(known("error_removed"))
    if table.is_empty() or table["error_removed"][-1] <= 0:
        return None
    return table.filter(pl.col("error_removed") >= table["error_removed"][-1] / 2).row(0, named=True)


def ranks_chart(ranks: pl.DataFrame, own: dict[str, Any]) -> alt.LayerChart:
    """FVU over rank with its interval, the SAE's own FVU and nonlinear FVU as dashed lines, and the rank that does half.

    Args:
        ranks: `REDUCTION_TABLES["ranks"]`. Rank 0, which has no place on a log axis, is in the table alone.
        own: the row of the method `encoder`.
    """
    table = ranks_table(ranks).filter(pl.col("rank") > 0)
    drawn = as_part(with_text(table, "fvu", "fvu_low", "fvu_high"), LINEAR)
    shares = [percent(*v) for v in drawn.select("error_removed", "error_removed_low", "error_removed_high").rows()]
    drawn = drawn.with_columns(pl.Series("removed", shares, dtype=pl.String))
    lines = {
        part: value for part, value in ((TOTAL, own["fvu"]), (NONLINEAR, own["fvu_nonlinear"])) if value is not None
    }
    low, high = linear_ends([*table["fvu"], *table["fvu_low"], *table["fvu_high"], *lines.values()])
    last = max(finite(table["rank"]), default=2.0)
    right = max(last, 2.0) * 1.05
    x = log_x("rank:Q", "rank of the skip (log scale)", 0.95, right)
    y = linear_y("fvu:Q", "FVU (share of the activation's variance that is left)", low, high)
    tooltip = [alt.Tooltip("rank:Q", format="d"), alt.Tooltip("text:N", title="FVU"),
               alt.Tooltip("removed:N", title="error removed"),
               alt.Tooltip("parameters_added:Q", title="parameters added", format=",d")]  # fmt: skip
    base = alt.Chart(drawn).encode(x=x, color=part_colour())
    return alt.layer(
        *_levels(lines, right),
        base.mark_area(opacity=0.2).encode(y=alt.Y("fvu_low:Q"), y2=alt.Y2("fvu_high:Q")),
        base.mark_line(strokeWidth=2.5).encode(y=y),
        base.mark_point(filled=True, size=20, opacity=1).encode(y=y, tooltip=tooltip),
        *_half(table, low, right),
    ).properties(height=HEIGHT, autosize=FIT_WIDTH)


def _levels(lines: dict[str, float], right: float) -> list[alt.Chart]:
    names = {TOTAL: "the SAE as it is", NONLINEAR: "its nonlinear error, which no affine map of x removes"}
    rows = pl.DataFrame(
        [
            {"part": part, "fvu": value, "left": 0.95, "rank": right, "words": names[part]}
            for part, value in lines.items()
        ],
        schema={"part": pl.String, "fvu": pl.Float64, "left": pl.Float64, "rank": pl.Float64, "words": pl.String},
    )
    if rows.is_empty():
        return []
    rule = alt.Chart(rows).mark_rule(strokeDash=[5, 4], strokeWidth=1.5)
    layers = [rule.encode(x=alt.X("left:Q"), x2=alt.X2("rank:Q"), y=alt.Y("fvu:Q"), color=part_colour())]
    for part, across, align, dy in ((TOTAL, "rank", "right", 12), (NONLINEAR, "left", "left", -10)):
        text = alt.Chart(rows.filter(pl.col("part") == part))
        text = text.mark_text(align=align, dx=4 if align == "left" else -4, dy=dy, fontWeight="bold", fontSize=12)  # type: ignore[arg-type]
        layers.append(
            text.encode(x=alt.X(f"{across}:Q"), y=alt.Y("fvu:Q"), text=alt.Text("words:N"), color=part_colour())
        )
    return layers


def _half(table: pl.DataFrame, low: float, right: float) -> list[alt.Chart]:
    """A line down from the rank that does half, and its rank in words."""
    row = half_rank(table)
    if row is None:
        return []
    words = f"half of what full rank removes: rank {row['rank']}, {row['parameters_added']:,} parameters"
    mark = alt.Chart(pl.DataFrame({"rank": [row["rank"]], "fvu": [row["fvu"]], "foot": [low], "words": [words]}))
    beyond = row["rank"] > right**0.5
    return [
        mark.mark_rule(color=NEUTRAL, strokeWidth=1.5).encode(
            x=alt.X("rank:Q"), y=alt.Y("foot:Q"), y2=alt.Y2("fvu:Q")
        ),
        mark.mark_point(filled=False, size=260, strokeWidth=2, opacity=1, color=NEUTRAL).encode(
            x=alt.X("rank:Q"), y=alt.Y("fvu:Q")
        ),
        mark.mark_text(align="right" if beyond else "left", dx=-12 if beyond else 12, dy=10, color=NEUTRAL,
                       fontSize=12, fontWeight="bold").encode(
            x=alt.X("rank:Q"), y=alt.Y("fvu:Q"), text=alt.Text("words:N")
        ),
    ]  # fmt: skip
