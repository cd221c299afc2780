"""Which latents, and which kinds of tokens, are met more often, or less, where much of the error is nonlinear."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, at_ticks, known, log_ends, log_x, with_text
from dmcore.charts.theme import NEUTRAL, NONLINEAR, part_colour
from dmcore.charts.token_text import visible

ROW = 24
"""Height of a row, in pixels."""
MOST = 12
"""Latents of either side."""
LONGEST = 34
"""Letters of a name."""

_COLUMNS = ["name", "latent", "lift", "lift_low", "lift_high", "n_active", "n_high", "n_contexts"]


def lift_table(latents: pl.DataFrame, names: Mapping[int, str] | None = None, most: int = MOST) -> pl.DataFrame:
    """The latents with the largest lifts, then those with the smallest, from the largest to the smallest.

    Columns: `name`, `latent`, `lift`, `lift_low`, `lift_high`, `n_active`, `n_high`, `n_contexts`, `side`.

    Args:
        latents: the table of that name of a structure.
        names: a text for latents that have one (raw), shown beside the number.
        most: of either side.
    """
    rows = latents.filter(known("lift")).sort("rank")
    kept = pl.concat([
        rows.filter(pl.col("side") == "largest").head(most).sort("rank"),
        rows.filter(pl.col("side") == "smallest").head(most).sort("rank", descending=True),
    ])  # fmt: skip
    said = [_name(latent, names or {}) for latent in kept["latent"]]
    return kept.with_columns(name=pl.Series(said, dtype=pl.String)).select(*_COLUMNS, "side")


def _name(latent: int, names: Mapping[int, str]) -> str:
    text = names.get(latent, "")
    return f"latent {latent}" + (f": {visible(text, LONGEST)}" if text else "")


def group_lift_table(groups: pl.DataFrame, by: str = "class") -> pl.DataFrame:
    """The groups of tokens of one kind, in their order: the columns of `lift_table`, without `side`."""
    rows = groups.filter((pl.col("by") == by) & known("lift")).sort("order")
    short = pl.Series([visible_name(g) for g in rows["group"]], dtype=pl.String)
    return rows.with_columns(name=short, latent=pl.lit(None, dtype=pl.Int32)).select(_COLUMNS)


def visible_name(group: str) -> str:
    """A group's name, cut where it is long."""
    return group if len(group) <= LONGEST else group[: LONGEST - 1] + "…"


def lift_chart(latents: pl.DataFrame, names: Mapping[int, str] | None = None, most: int = MOST) -> alt.LayerChart:
    """A dot with interval a latent over its lift (log scale), 1 dashed; a click picks (`pick`, by `latent`)."""
    table = lift_table(latents, names, most)
    chart = _drawn(table, table["side"].to_list())
    pick = alt.selection_point(name="pick", fields=["latent"], on="click", toggle=False)
    chart.layer[-2] = chart.layer[-2].add_params(pick)
    return chart


def group_lift_chart(groups: pl.DataFrame, by: str = "class") -> alt.LayerChart:
    """A dot with interval a group of tokens over its lift (log scale), 1 dashed."""
    table = group_lift_table(groups, by)
    return _drawn(table, [""] * len(table))


def _drawn(table: pl.DataFrame, sides: list[str]) -> alt.LayerChart:
    """The rows; a gap where the side changes."""
    places, at = [], 0.0
    for k, side in enumerate(sides):
        at += (1.6 if side != sides[k - 1] else 1.0) if k else 0.0
        places.append(at)
    # one is always on the axis; a lift of 0 is drawn at its left end
    low, high = log_ends([*table["lift"], *table["lift_low"], *table["lift_high"], 1.0], 1.2)
    low, high = max(low, 1e-3), min(high, 1e4)
    rows = with_text(table, "lift", "lift_low", "lift_high").with_columns(
        pl.Series("at", places, dtype=pl.Float64),
        part=pl.lit(NONLINEAR),
        **{f"x_{c}": pl.col(c).clip(low, high) for c in ("lift", "lift_low", "lift_high")},
    )
    labels = {f"{place:.3f}": name for place, name in zip(places, table["name"], strict=True)}
    axis = alt.Axis(**at_ticks(places), labelExpr=f"{json.dumps(labels)}[format(datum.value, '.3f')]",
                    ticks=False, domain=False, grid=True, gridOpacity=0.5, labelLimit=330, labelFontSize=12,
                    labelPadding=8, labelOverlap=False)  # fmt: skip
    y = alt.Y("at:Q", title=None, axis=axis, scale=alt.Scale(domain=[at + 0.7, -0.7], nice=False, zero=False))
    x = log_x("x_lift:Q", "lift where the error is most nonlinear (log scale)", low, high)
    tooltip = [alt.Tooltip("name:N"), alt.Tooltip("text:N", title="lift"),
               alt.Tooltip("n_active:Q", title="active tokens", format=",d"),
               alt.Tooltip("n_high:Q", title="of them most nonlinear", format=",d"),
               alt.Tooltip("n_contexts:Q", title="contexts", format=",d")]  # fmt: skip
    one = alt.Chart(pl.DataFrame({"x": [1.0], "text": ["as often as anywhere"]}))
    base = alt.Chart(rows).encode(y=y, color=part_colour())
    return alt.layer(
        one.mark_rule(color=NEUTRAL, strokeDash=[5, 4]).encode(x=alt.X("x:Q")),
        alt.Chart(rows.filter(known("x_lift_low") & known("x_lift_high"))).mark_rule(strokeWidth=2).encode(
            x=alt.X("x_lift_low:Q"), x2=alt.X2("x_lift_high:Q"), y=y, color=part_colour()
        ),
        base.mark_point(filled=True, size=60, opacity=1).encode(x=x, tooltip=tooltip),
        one.mark_text(color=NEUTRAL, fontSize=12).encode(x=alt.X("x:Q"), y=alt.value(-10), text=alt.Text("text:N")),
    ).properties(height=math.ceil(ROW * (at + 1.4)), autosize=FIT_WIDTH)  # fmt: skip
