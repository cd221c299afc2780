"""How much of an SAE's error each of a ladder of ever larger maps explains: one number, one a dimension, every rank."""

from __future__ import annotations

import json

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, at_ticks, clipped, finite, known, linear_ends, linear_y, log_x, with_text
from dmcore.charts.numbers import MISSING, percent
from dmcore.charts.panels import even_ticks
from dmcore.charts.theme import LINEAR, NEUTRAL, TOTAL, as_part, part_colour

ROW = 30
"""Height of a rung, in pixels."""
HEIGHT = 340
FULL = "full"
SHARE = ("share", "share_low", "share_high")


def ladder_table(ladder: pl.DataFrame) -> pl.DataFrame:
    """The columns of `SHRINKAGE_TABLES["ladder"]`; rungs without an R2 are left out."""
    return ladder.filter(known("r2"))


def ladder_chart(ladder: pl.DataFrame) -> alt.LayerChart:
    """A row a rung: held-out R2 with its interval, and at the right its share of the linear part; dashed: every rank."""
    table = ladder_table(ladder).with_row_index("at").with_columns(pl.col("at").cast(pl.Float64))
    shares = [percent(*row) for row in table.select(SHARE).rows()]
    short = ["100 %" if rung == FULL and words != MISSING else words.split(" (")[0].replace(MISSING, "")
             for rung, words in zip(table["rung"], shares, strict=True)]  # fmt: skip
    left = [percent(*row) if row[0] is not None else "" for row in table.select("left", "left_low", "left_high").rows()]
    low, high = linear_ends([0.0, *table["r2"], *table["r2_low"], *table["r2_high"]])
    end = high + 0.2 * (high - low)
    drawn = with_text(as_part(clipped(table, low, high, "r2_low", "r2_high"), LINEAR), "r2", "r2_low", "r2_high")
    drawn = drawn.with_columns(
        pl.Series("share_words", shares, dtype=pl.String), pl.Series("short", short, dtype=pl.String),
        pl.Series("left_words", left, dtype=pl.String), end=pl.lit(end),
    )  # fmt: skip
    titles = table["title"].to_list()
    axis = alt.Axis(**at_ticks(list(range(len(titles)))), labelExpr=f"{json.dumps(titles)}[datum.value]", grid=False,
                    ticks=False, domain=False, labelLimit=260, labelFontSize=13, labelPadding=8, labelOverlap=False)  # fmt: skip
    y = alt.Y("at:Q", title=None, axis=axis, scale=alt.Scale(domain=[len(titles) - 0.4, -0.6], nice=False, zero=False))
    x = alt.X("r2:Q", title="held-out R² of the error vector", scale=alt.Scale(domain=[low, end], nice=False, zero=False),
              axis=alt.Axis(**at_ticks(even_ticks(low, high, 6)), format="~g"))  # fmt: skip
    tooltip = [alt.Tooltip("title:N", title="map"), alt.Tooltip("text:N", title="R²"),
               alt.Tooltip("share_words:N", title="of the linear part"),
               alt.Tooltip("left_words:N", title="R² of what is left, from x"),
               alt.Tooltip("n_weights:Q", title="numbers fitted", format=",d"),
               alt.Tooltip("alpha:Q", title="α", format=".3~f")]  # fmt: skip
    base = alt.Chart(drawn).encode(y=y, color=part_colour())
    head = pl.DataFrame({"end": [end], "words": ["of the linear part"]})
    return alt.layer(
        *_marks(drawn),
        base.mark_rule(strokeWidth=2.5).encode(x=alt.X("r2_low:Q"), x2=alt.X2("r2_high:Q")),
        base.mark_point(filled=True, size=75, opacity=1).encode(x=x, tooltip=tooltip),
        base.mark_text(align="right", fontSize=12, fontWeight="bold").encode(
            x=alt.X("end:Q"), text=alt.Text("short:N")
        ),
        alt.Chart(head).mark_text(align="right", fontSize=12, color=NEUTRAL).encode(
            x=alt.X("end:Q"), y=alt.value(-10), text=alt.Text("words:N")
        ),
    ).properties(height=max(ROW * len(titles), 60), autosize=FIT_WIDTH)  # fmt: skip


def _marks(drawn: pl.DataFrame) -> list[alt.Chart]:
    """Zero, and R2 of every rank."""
    full = drawn.filter(pl.col("rung") == FULL)
    zero = alt.Chart(pl.DataFrame({"r2": [0.0]})).mark_rule(color=NEUTRAL).encode(x=alt.X("r2:Q"))
    if full.is_empty():
        return [zero]
    line = alt.Chart(full).mark_rule(strokeDash=[5, 4], strokeWidth=1.5).encode(x=alt.X("r2:Q"), color=part_colour())
    return [zero, line]


def rank_table(ranks: pl.DataFrame) -> pl.DataFrame:
    """A row a rank and line: `rank`, `line` (`rank`: a map of that rank; `scaled`: with α x beside it), `r2`, `low`, `high`."""
    lines = {"rank": "r2", "scaled": "scaled"}
    found = [
        ranks.select("rank", line=pl.lit(line), r2=column, low=f"{column}_low", high=f"{column}_high")
        for line, column in lines.items()
    ]
    return pl.concat(found).filter(known("r2")).sort("line", "rank")


def rank_chart(ranks: pl.DataFrame) -> alt.LayerChart:
    """R2 over the rank (log scale) with its interval: of the map alone, and with α x beside it, which is dashed."""
    table = rank_table(ranks).filter(pl.col("rank") > 0)
    names = {"rank": "a map of that rank", "scaled": "that rank, and α x"}
    drawn = table.with_columns(
        part=pl.col("line").replace({"rank": LINEAR, "scaled": TOTAL}), name=pl.col("line").replace(names)
    )
    drawn = with_text(drawn, "r2", "low", "high")
    low, high = linear_ends([0.0, *table["r2"], *table["low"], *table["high"]])
    last = max(finite(table["rank"]), default=2.0)
    x = log_x("rank:Q", "rank of the map (log scale)", 0.95, max(last, 2.0) * 1.05)
    y = linear_y("r2:Q", "held-out R² of the error vector", low, high)
    tooltip = [alt.Tooltip("name:N", title="map"), alt.Tooltip("rank:Q", format="d"), alt.Tooltip("text:N", title="R²")]
    layers: list[alt.Chart] = []
    for line, dash in (("rank", [1, 0]), ("scaled", [6, 4])):
        base = alt.Chart(drawn.filter(pl.col("line") == line)).encode(x=x, color=part_colour())
        layers += [
            base.mark_area(opacity=0.2).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
            base.mark_line(strokeWidth=2.5, strokeDash=dash).encode(y=y),
            base.mark_point(filled=True, size=18, opacity=1).encode(y=y, tooltip=tooltip),
        ]
    middle = sorted(finite(table["rank"]), key=lambda r: abs(r - last**0.5))[:1]
    named = drawn.filter(pl.col("rank").cast(pl.Float64).is_in(middle))
    for line, dy, align, dx in (("rank", 14, "left", 8), ("scaled", -12, "right", -8)):
        text = alt.Chart(named.filter(pl.col("line") == line))
        text = text.mark_text(align=align, dx=dx, dy=dy, fontSize=12, fontWeight="bold")  # type: ignore[arg-type]
        layers.append(text.encode(x=alt.X("rank:Q"), y=alt.Y("r2:Q"), text=alt.Text("name:N"), color=part_colour()))
    return alt.layer(*layers).properties(height=HEIGHT, autosize=FIT_WIDTH)


def ablation_table(ablations: pl.DataFrame) -> pl.DataFrame:
    """A row a group and bar: `group`, `what` (`drop`: share of R2 that goes without it; `variance`: its share of x's),
    `value`, `low`, `high`."""
    named = ablations.filter(known("drop")).with_columns(group=pl.format("{} to {}", "first", "last"))
    drop = named.select("group", what=pl.lit("drop"), value="drop_share", low="drop_share_low", high="drop_share_high")
    none = pl.lit(None, dtype=pl.Float64)
    variance = named.select("group", what=pl.lit("variance"), value="variance_share", low=none, high=none)
    return pl.concat([drop, variance]).filter(known("value"))


def ablation_chart(ablations: pl.DataFrame) -> alt.LayerChart:
    """A row a group of principal components: share of R2 that goes when it is ablated, over its share of x's variance."""
    table = ablation_table(ablations)
    order = table["group"].unique(maintain_order=True).to_list()
    lane = {"drop": -0.17, "variance": 0.17}
    names = {"drop": "of the linear part goes", "variance": "of x's variance is there"}
    drawn = with_text(table, "value", "low", "high").with_columns(
        at=pl.col("group").replace_strict({name: k for k, name in enumerate(order)}, return_dtype=pl.Float64)
        + pl.col("what").replace_strict(lane, return_dtype=pl.Float64),
        part=pl.col("what").replace({"drop": LINEAR, "variance": TOTAL}), name=pl.col("what").replace(names),
        foot=pl.lit(0.0), beside=pl.max_horizontal("value", "high", pl.lit(0.0)),
    ).with_columns(top=pl.col("at") - 0.13, bottom=pl.col("at") + 0.13)  # fmt: skip
    words = [
        percent(*row[:3]) + (f"  {row[3]}" if row[4] == order[0] else "")
        for row in drawn.select("value", "low", "high", "name", "group").rows()
    ]
    drawn = drawn.with_columns(pl.Series("words", words, dtype=pl.String))
    low, high = min([0.0, *finite(table["value"])]), max([0.1, *finite(table["value"]), *finite(table["high"])])
    x = alt.X("foot:Q", title="share", scale=alt.Scale(domain=[low, high + 0.45 * (high - low)], nice=False, zero=False),
              axis=alt.Axis(**at_ticks(even_ticks(low, high, 5)), format="%"))  # fmt: skip
    axis = alt.Axis(**at_ticks(list(range(len(order)))), labelExpr=f"{json.dumps(order)}[datum.value]", grid=False,
                    ticks=False, domain=False, labelFontSize=13, labelPadding=8)  # fmt: skip
    y = alt.Y("at:Q", title="principal components of x", axis=axis,
              scale=alt.Scale(domain=[len(order) - 0.5, -0.5], nice=False, zero=False))  # fmt: skip
    tooltip = [alt.Tooltip("group:N", title="components"), alt.Tooltip("words:N", title="share")]
    bars = alt.Chart(drawn)
    return alt.layer(
        bars.mark_rect(opacity=0.35).encode(
            x=x, x2=alt.X2("value:Q"), y=alt.Y("top:Q"), y2=alt.Y2("bottom:Q"), color=part_colour(), tooltip=tooltip
        ),
        alt.Chart(drawn.filter(known("low") & known("high"))).mark_rule(strokeWidth=2.5).encode(
            x=alt.X("low:Q"), x2=alt.X2("high:Q"), y=y, color=part_colour()
        ),
        bars.mark_text(align="left", dx=7, fontSize=12, fontWeight="bold").encode(
            x=alt.X("beside:Q"), y=alt.Y("at:Q"), text=alt.Text("words:N"), color=part_colour()
        ),
    ).properties(height=max(52 * len(order), 60), autosize=FIT_WIDTH)  # fmt: skip
