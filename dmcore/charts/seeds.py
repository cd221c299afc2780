"""Do SAEs of two seeds learn the same latents? Matched decoder rows, against random and noise-like ones."""

from __future__ import annotations

import json

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, at_ticks, known
from dmcore.charts.panels import Panel, Panels
from dmcore.charts.part_names import colour, in_order, with_names
from dmcore.charts.theme import NEUTRAL

ROW = 58
"""Height of a part, in pixels."""

MEASURES = {
    "mean_cosine": "mean cosine of matched latents",
    "share_above_07": "latents matched above 0.7",
    "share_above_09": "latents matched above 0.9",
}
"""Columns of the table, and what its panel is called."""
BASELINES = {"random": "random directions", "shaped": "random, with their second moments"}
"""Prefixes of the baselines' columns, and what they are called."""

_DASHES = {"random": [2, 3], "shaped": [7, 3]}


def seeds_table(stability: pl.DataFrame) -> pl.DataFrame:
    """A row a number: `part` (named), `first`, `second` (seeds), `n_pairs`, `method`, `measure`, `kind`, `value`.

    Args:
        stability: the table of that name, of one base; kind is `matched`, `random` or `shaped`.
    """
    order = {part: k for k, part in enumerate(in_order(stability))}
    rows = [
        stability.select(
            "part", "first", "second", "n_pairs", "method",
            measure=pl.lit(measure), kind=pl.lit(prefix.removesuffix("_") or "matched"), value=f"{prefix}{measure}",
        )
        for measure in MEASURES
        for prefix in ("", *(f"{name}_" for name in BASELINES))
    ]  # fmt: skip
    table = with_names(pl.concat(rows)).filter(known("value"))
    return table.sort(pl.col("part").replace_strict(order), "measure", "kind", "first", "second")


def seeds_chart(stability: pl.DataFrame) -> alt.LayerChart:
    """A row a part, a panel a measure: a dot for each two seeds, their mean in words, baselines as dashed lines."""
    table, order = seeds_table(stability), in_order(stability)
    shown = [m for m in MEASURES if m in set(table["measure"])] or list(MEASURES)
    ticks = (0.0, 0.5, 1.0)
    panels = [Panel(m, 0.0, 1.0, ticks=ticks, percent=m != "mean_cosine") for m in shown]
    panels = Panels(panels, gap=0.3, room=1e-4)
    row = pl.col("part").replace_strict({part: k for k, part in enumerate(order)}, return_dtype=pl.Float64)
    drawn = panels.place(table, "measure", x="value").with_columns(row=row)
    matched = drawn.filter(pl.col("kind") == "matched")
    matched = matched.with_columns(at=_apart(matched))
    means = matched.group_by("part", "measure", "row", maintain_order=True).agg(pl.col("value").mean(), beside="x")
    means = means.with_columns(beside=pl.col("beside").list.max()).with_columns(
        text=pl.Series([_words(m, v) for m, v in means.select("measure", "value").rows()], dtype=pl.String)
    )
    scale = alt.Scale(domain=[len(order) - 0.5, -0.5], nice=False, zero=False)
    axis = alt.Axis(**at_ticks(list(range(len(order)))), labelExpr=f"{json.dumps(order)}[datum.value]", grid=False,
                    ticks=False, domain=False, labelLimit=240, labelFontSize=13, labelPadding=8)  # fmt: skip
    y = alt.Y("at:Q", title=None, scale=scale, axis=axis)
    tooltip = [alt.Tooltip("part:N"), alt.Tooltip("first:Q", title="seed"), alt.Tooltip("second:Q", title="and seed"),
               alt.Tooltip("measure:N"), alt.Tooltip("value:Q", format=".3f"),
               alt.Tooltip("n_pairs:Q", title="pairs", format=",d"), alt.Tooltip("method:N", title="matched by")]  # fmt: skip
    words = alt.Chart(means).mark_text(align="left", dx=9, fontWeight="bold", fontSize=12)
    dots = alt.Chart(matched).mark_point(filled=True, size=65, opacity=1)
    return alt.layer(
        *_baselines(drawn, panels),
        dots.encode(x=alt.X("x:Q", **panels.axis(None, grid=False)), y=y, color=colour(), tooltip=tooltip),
        words.encode(x=alt.X("beside:Q"), y=alt.Y("row:Q"), text=alt.Text("text:N"), color=colour()),
        _heads(panels),
    ).properties(height=ROW * len(order), autosize=FIT_WIDTH)


def _apart(matched: pl.DataFrame) -> pl.Series:
    """Rows of the dots: the pairs of seeds of a part one under the other."""
    group = ["part", "measure"]
    rank = pl.int_range(pl.len()).over(group)
    apart = 0.5 * ((rank + 0.5) / pl.len().over(group) - 0.5)
    return matched.select(pl.col("row") + apart).to_series()


def _words(measure: str, value: float) -> str:
    return f"{value:.2f}" if measure == "mean_cosine" else f"{100 * value:.0f} %"


def _baselines(drawn: pl.DataFrame, panels: Panels) -> list[alt.LayerChart | alt.Chart]:
    """A dashed line through the row at the mean of each baseline; and what each is, above the plot."""
    layers: list[alt.LayerChart | alt.Chart] = []
    spans = panels.spans()
    for k, (kind, name) in enumerate(BASELINES.items()):
        rows = drawn.filter(pl.col("kind") == kind)
        if not len(rows):
            continue
        rows = rows.group_by("part", "measure", "row", maintain_order=True).agg(pl.col("value", "x").mean())
        rows = rows.with_columns(top=pl.col("row") - 0.4, bottom=pl.col("row") + 0.4, name=pl.lit(name))
        tooltip = [alt.Tooltip("part:N"), alt.Tooltip("name:N", title="baseline"), alt.Tooltip("value:Q", format=".3f")]
        rule = alt.Chart(rows).mark_rule(color=NEUTRAL, strokeWidth=2, strokeDash=_DASHES[kind])
        start = float(spans["start"][0]) + k * 0.28 * panels.total
        key = alt.Chart(pl.DataFrame({"x": [start], "end": [start + 0.035 * panels.total], "text": [name]}))
        layers += [
            rule.encode(x=alt.X("x:Q"), y=alt.Y("top:Q"), y2=alt.Y2("bottom:Q"), tooltip=tooltip),
            key.mark_rule(color=NEUTRAL, strokeWidth=2, strokeDash=_DASHES[kind]).encode(
                x=alt.X("x:Q"), x2=alt.X2("end:Q"), y=alt.value(-34)
            ),
            key.mark_text(align="left", dx=6, color=NEUTRAL, fontSize=12).encode(
                x=alt.X("end:Q"), y=alt.value(-34), text=alt.Text("text:N")
            ),
        ]
    return layers


def _heads(panels: Panels) -> alt.Chart:
    spans = panels.spans().with_columns(text=pl.col("name").replace_strict(MEASURES))
    words = alt.Chart(spans).mark_text(align="left", color=NEUTRAL, fontSize=12)
    return words.encode(x=alt.X("start:Q"), y=alt.value(-11), text=alt.Text("text:N"))
