"""What a linear map from x to the error looks like: singular values, shares of its shape, what its directions lie along."""

from __future__ import annotations

import json

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, at_ticks, finite, known, linear_y, log_x, with_text
from dmcore.charts.labels import spread
from dmcore.charts.theme import LINEAR, NEUTRAL, TOTAL, as_part, part_colour

HEIGHT = 300
FACTS = {
    "identity": "α I: pure shrinkage",
    "diagonal": "one number a dimension",
    "symmetric": "symmetric",
    "antisymmetric": "antisymmetric (turns)",
}
"""Shares of |W|² in words; the first is part of the second, that of the third; the last two sum to 1."""
SIDES = {"reads": "read", "writes": "written"}
BASES = {"x": "x", "decoder": "decoder rows"}


def singular_table(spectrum: pl.DataFrame) -> pl.DataFrame:
    """The columns of `SHRINKAGE_TABLES["spectrum"]`, by direction."""
    return spectrum.filter(known("singular")).sort("direction")


def singular_chart(spectrum: pl.DataFrame, slope: float | None) -> alt.LayerChart:
    """Singular values with their intervals; dashed: the mean slope, at which all of them would be were the map α I."""
    table = with_text(as_part(singular_table(spectrum), LINEAR), "singular", "singular_low", "singular_high")
    last = max([2.0, *finite(table["direction"])])
    high = max([1e-9, *finite(table["singular_high"]), *finite(table["singular"]), abs(slope or 0.0)]) * 1.08
    x = log_x("direction:Q", "direction of the map, the largest first (log scale)", 0.95, last * 1.05)
    y = linear_y("singular:Q", "singular value", 0.0, high)
    tooltip = [alt.Tooltip("direction:Q", format="d"), alt.Tooltip("text:N", title="singular value")]
    base = alt.Chart(table).encode(x=x, color=part_colour())
    layers = [
        base.mark_area(opacity=0.2).encode(y=alt.Y("singular_low:Q"), y2=alt.Y2("singular_high:Q")),
        base.mark_line(strokeWidth=2.5).encode(y=y),
        base.mark_point(filled=True, size=18, opacity=1).encode(y=y, tooltip=tooltip),
    ]
    if slope is not None:
        flat = alt.Chart(pl.DataFrame({"singular": [abs(slope)], "direction": [1.0],
                                       "words": ["pure shrinkage of the same mean slope"]}))  # fmt: skip
        layers += [
            flat.mark_rule(color=NEUTRAL, strokeDash=[5, 4], strokeWidth=1.5).encode(y=alt.Y("singular:Q")),
            flat.mark_text(align="left", dx=6, dy=-8, color=NEUTRAL, fontSize=12, fontWeight="bold").encode(
                x=alt.X("direction:Q"), y=alt.Y("singular:Q"), text=alt.Text("words:N")
            ),
        ]
    return alt.layer(*layers).properties(height=HEIGHT, autosize=FIT_WIDTH)


def facts_table(shape: pl.DataFrame) -> pl.DataFrame:
    """The shares: `fact` in words, `value`, `low`, `high`, `chance`."""
    rows = shape.filter(pl.col("fact").is_in(list(FACTS)) & known("value"))
    return rows.select(pl.col("fact").replace(FACTS), "value", low="value_low", high="value_high", chance="chance")


def facts_chart(shape: pl.DataFrame) -> alt.LayerChart:
    """A row a share: dot with its interval, and a dashed tick where a random map would be."""
    table = with_text(as_part(facts_table(shape), LINEAR), "value", "low", "high")
    table = table.with_row_index("at").with_columns(pl.col("at").cast(pl.Float64))
    table = table.with_columns(top=pl.col("at") - 0.3, bottom=pl.col("at") + 0.3)
    names = table["fact"].to_list()
    axis = alt.Axis(**at_ticks(list(range(len(names)))), labelExpr=f"{json.dumps(names)}[datum.value]", grid=False,
                    ticks=False, domain=False, labelLimit=260, labelFontSize=13, labelPadding=8)  # fmt: skip
    y = alt.Y("at:Q", title=None, axis=axis, scale=alt.Scale(domain=[len(names) - 0.4, -0.6], nice=False, zero=False))
    x = alt.X("value:Q", title="share of |W|²", scale=alt.Scale(domain=[-0.01, 1.3], nice=False, zero=False),
              axis=alt.Axis(**at_ticks([0.0, 0.25, 0.5, 0.75, 1.0]), format="%"))  # fmt: skip
    tooltip = [alt.Tooltip("fact:N", title="share"), alt.Tooltip("text:N", title="of |W|²"),
               alt.Tooltip("chance:Q", title="of a random map", format=".2~%")]  # fmt: skip
    base = alt.Chart(table).encode(y=y, color=part_colour())
    chance = alt.Chart(table).encode(x=alt.X("chance:Q"))
    return alt.layer(
        chance.mark_rule(color=NEUTRAL, strokeDash=[3, 2], strokeWidth=2).encode(
            y=alt.Y("top:Q"), y2=alt.Y2("bottom:Q")
        ),
        base.mark_rule(strokeWidth=2.5).encode(x=alt.X("low:Q"), x2=alt.X2("high:Q")),
        base.mark_point(filled=True, size=75, opacity=1).encode(x=x, tooltip=tooltip),
        base.mark_text(align="left", dx=12, fontSize=12, fontWeight="bold").encode(
            x=alt.X("value:Q"), text=alt.Text("text:N")
        ),
    ).properties(height=max(36 * len(names), 60), autosize=FIT_WIDTH)


def alignment_table(alignment: pl.DataFrame, weighting: str) -> pl.DataFrame:
    """The lines of a weighting: `line` in words, `side`, `basis`, `k`, `overlap`, `low`, `high`, `chance`."""
    rows = alignment.filter((pl.col("weighting") == weighting) & known("overlap"))
    words = pl.format("{}, along {}", pl.col("side").replace(SIDES), pl.col("basis").replace(BASES))
    rows = rows.with_columns(line=words)
    return rows.select("line", "side", "basis", "k", "overlap", low="overlap_low", high="overlap_high", chance="chance")


def alignment_chart(alignment: pl.DataFrame, weighting: str) -> alt.LayerChart:
    """Overlap of the first k directions with the first k components, a line a side and basis; grey dashed: chance."""
    table = alignment_table(alignment, weighting)
    parts = {"reads": TOTAL, "writes": LINEAR}
    drawn = with_text(table, "overlap", "low", "high").with_columns(part=pl.col("side").replace(parts))
    last = max([2.0, *finite(table["k"])])
    x = log_x("k:Q", "directions and components, the first k (log scale)", 0.9, last**1.75, last)
    y = alt.Y("overlap:Q", title="mean squared cosine", scale=alt.Scale(domain=[0, 1], nice=False),
              axis=alt.Axis(tickCount=5))  # fmt: skip
    tooltip = [alt.Tooltip("line:N", title="directions"), alt.Tooltip("k:Q", format="d"),
               alt.Tooltip("text:N", title="overlap"), alt.Tooltip("chance:Q", format=".2~f")]  # fmt: skip
    layers: list[alt.Chart] = []
    chance = drawn.unique("k").sort("k")
    layers.append(alt.Chart(chance).mark_line(color=NEUTRAL, strokeDash=[5, 4]).encode(x=x, y=alt.Y("chance:Q")))
    for basis, dash in (("x", [1, 0]), ("decoder", [2, 3])):
        rows = drawn.filter(pl.col("basis") == basis)
        if rows.is_empty():
            continue
        base = alt.Chart(rows).encode(x=x, color=part_colour(), detail=[alt.Detail("line:N")])
        layers += [
            base.mark_line(strokeWidth=2.5, strokeDash=dash).encode(y=y),
            base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
            base.mark_point(filled=True, size=45, opacity=1).encode(y=y, tooltip=tooltip),
        ]
    ends = drawn.filter(pl.col("k") == pl.col("k").max()).select("k", "overlap", "line", "part")
    if len(chance):
        at = chance.tail(1).select("k", overlap="chance", line=pl.lit("chance, k / d"), part=pl.lit(""))
        ends = pl.concat([ends, at.cast(ends.schema)])  # type: ignore[arg-type]
    moved = spread(ends["overlap"].to_list(), 17 / HEIGHT)
    ends = ends.with_columns(pl.Series("label_at", moved, dtype=pl.Float64))
    for some, how in ((pl.col("part") != "", {}), (pl.col("part") == "", {"color": NEUTRAL})):
        text = alt.Chart(ends.filter(some)).mark_text(align="left", dx=9, fontSize=12, fontWeight="bold", **how)
        text = text.encode(x=alt.X("k:Q"), y=alt.Y("label_at:Q"), text=alt.Text("line:N"))
        layers.append(text if how else text.encode(color=part_colour()))
    return alt.layer(*layers).properties(height=HEIGHT, autosize=FIT_WIDTH)


def rows_table(rows: pl.DataFrame, weighting: str) -> pl.DataFrame:
    """Of a weighting: `side` in words, `direction`, `cosine`, `latent`, `chance`."""
    found = rows.filter((pl.col("weighting") == weighting) & known("cosine")).sort("side", "direction")
    return found.select(pl.col("side").replace(SIDES), "direction", "cosine", "latent", "chance")


def rows_chart(rows: pl.DataFrame, weighting: str) -> alt.LayerChart:
    """The largest cosine of each direction with a decoder row; grey dashed: what one random direction in twenty exceeds."""
    table = rows_table(rows, weighting)
    parts = {SIDES["reads"]: TOTAL, SIDES["writes"]: LINEAR}
    drawn = table.with_columns(part=pl.col("side").replace(parts))
    last = max([2.0, *finite(table["direction"])])
    ticks = [1, *range(4, int(last) + 1, 4)]
    x = alt.X("direction:Q", title="direction of the map, the largest first",
              scale=alt.Scale(domain=[0.3, last * 1.24], nice=False, zero=False),
              axis=alt.Axis(**at_ticks(ticks), format="d", grid=False))  # fmt: skip
    y = alt.Y("cosine:Q", title="largest |cosine| with a decoder row", scale=alt.Scale(domain=[0, 1], nice=False),
              axis=alt.Axis(tickCount=5))  # fmt: skip
    tooltip = [alt.Tooltip("side:N", title="direction"), alt.Tooltip("direction:Q", format="d"),
               alt.Tooltip("cosine:Q", format=".3f"), alt.Tooltip("latent:Q", format="d"),
               alt.Tooltip("chance:Q", format=".3f")]  # fmt: skip
    ends = drawn.filter(pl.col("direction") == pl.col("direction").max())
    names = pl.concat([
        ends.select("direction", "cosine", words="side", part="part"),
        ends.head(1).select("direction", cosine="chance", words=pl.lit("5 % of random ones"), part=pl.lit("")),
    ])  # fmt: skip
    names = names.with_columns(pl.Series("at", spread(names["cosine"].to_list(), 17 / HEIGHT), dtype=pl.Float64))
    base = alt.Chart(drawn).encode(x=x, y=y, color=part_colour(), detail=[alt.Detail("side:N")])
    text = alt.Chart(names.filter(pl.col("part") != "")).encode(color=part_colour())
    grey = alt.Chart(names.filter(pl.col("part") == ""))
    return alt.layer(
        alt.Chart(drawn.head(1)).mark_rule(color=NEUTRAL, strokeDash=[5, 4]).encode(y=alt.Y("chance:Q")),
        base.mark_line(strokeWidth=1.5, opacity=0.6),
        base.mark_point(filled=True, size=55, opacity=1).encode(tooltip=tooltip),
        *(
            one.mark_text(align="left", dx=9, fontSize=12, fontWeight="bold", **how).encode(
                x=alt.X("direction:Q"), y=alt.Y("at:Q"), text=alt.Text("words:N")
            )
            for one, how in ((text, {}), (grey, {"color": NEUTRAL}))
        ),
    ).properties(height=HEIGHT, autosize=FIT_WIDTH)
