"""What each method leaves of an SAE's error: a row a method, with the SAE's own error as the line to be left of."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, at_ticks, clipped, known, linear_ends, with_text
from dmcore.charts.numbers import MISSING, decimals_for, fixed, percent
from dmcore.charts.panels import even_ticks
from dmcore.charts.theme import NEUTRAL, NONLINEAR, TOTAL, part_colour
from dmcore.results.reduction import JOINED

REMOVED = ("removed", "removed_low", "removed_high")
FAR = 3.0
"""Errors above so many times the SAE's own are drawn as arrows at the edge: they would squeeze the others together."""
ROW = 27
"""Height of a row, in pixels."""
OWN = "encoder"
"""The SAE as it is."""
KIND_NAMES = {
    "encoder": "",
    "shrinkage": "Rescaled",
    "skip": "Affine skip: linear in x",
    "earlier": "Earlier components added",
    "coding": "Other codes of the same dictionary",
    "wider": "Wider dictionaries at this L0",
}
"""Of `dmcore.results.reduction.KINDS`, as heads above their rows."""
INPUT_NAMES = {"previous": "stream before", "mlp": "MLP", "attention": "attention", "x": "x"}
MEASURES = {"fvu": TOTAL, "fvu_nonlinear": NONLINEAR}
"""What is drawn, and whose colour it has."""
HEADS = {TOTAL: "FVU", NONLINEAR: "nonlinear FVU"}
"""What the dashed lines are called."""
COLUMN = 64
"""Pixels of a column of numbers."""
LABEL = 310
"""Room for the names of methods, in pixels."""


def short_title(row: dict[str, Any]) -> str:
    """What a row calls a method: the title, or for regressions the inputs alone, since the head says the rest."""
    inputs = row.get("inputs")
    if row["kind"] != "earlier" or not inputs:
        return str(row["title"])
    names = inputs.split(JOINED)
    return " + ".join(INPUT_NAMES.get(name, name) for name in names)


def featured(methods: pl.DataFrame) -> pl.DataFrame:
    """The rows that a chart has.

    Of skips the full rank and the least rank that removes half as much; of regressions on earlier components single inputs,
    and all of them with and without x; all rows of the other kinds.
    """
    skips = methods.filter(pl.col("kind") == "skip").sort("rank")
    kept = set(methods.filter(~pl.col("kind").is_in(["skip", "earlier"]))["method"])
    if len(skips):
        full = skips.row(-1, named=True)
        half = skips.filter(pl.col("error_removed") >= (full["error_removed"] or 0) / 2)
        kept |= {full["method"], *half["method"].head(1)}
    count = pl.col("inputs").str.split(JOINED).list.len()
    earlier = methods.filter(pl.col("kind") == "earlier").with_columns(n=count)
    with_x = pl.col("inputs").str.ends_with(f"{JOINED}x")
    without = earlier.filter(~with_x)
    kept |= {
        *earlier.filter(with_x)["method"],
        *without.filter((pl.col("n") == 1) | (pl.col("n") == pl.col("n").max()))["method"],
    }
    return methods.filter(pl.col("method").is_in(list(kept)))


def league_table(methods: pl.DataFrame) -> pl.DataFrame:
    """A row a method and measure: `method`, `title`, `kind`, `l0`, `extra_l0`, `parameters_added`, `n_tokens`,
    `measure`, `part`, `value`, `low`, `high`,
    `removed` (share of the SAE's own that is gone), `removed_low`, `removed_high`, in the order of methods.

    Args:
        methods: `REDUCTION_TABLES["methods"]`.
    """
    titles = pl.Series("title", [short_title(row) for row in methods.to_dicts()], dtype=pl.String)
    rows = methods.with_columns(titles).with_row_index("row")
    removed = {"fvu": "error_removed", "fvu_nonlinear": "nonlinear_removed"}
    tables = [
        rows.select(
            "row", "method", "title", "kind", "l0", "extra_l0", "parameters_added", "n_tokens",
            measure=pl.lit(measure),
            part=pl.lit(part), value=measure, low=f"{measure}_low", high=f"{measure}_high",
            removed=removed[measure],
            removed_low=f"{removed[measure]}_low", removed_high=f"{removed[measure]}_high",
        )
        for measure, part in MEASURES.items()
    ]  # fmt: skip
    return pl.concat(tables).filter(known("value")).sort("row", "measure").drop("row")


def league_chart(methods: pl.DataFrame) -> alt.LayerChart:
    """A row a method under the head of its kind: dots for FVU and nonlinear FVU with intervals, and what is removed of each.

    Args:
        methods: rows of `REDUCTION_TABLES["methods"]`; those of the method `encoder` are the dashed lines.
    """
    table = league_table(methods)
    places, labels, height = _places(table)
    near = table.filter(pl.col("value") <= FAR * (table.filter(pl.col("method") == OWN)["value"].max() or math.inf))
    low, high = linear_ends([*near["value"], *near["low"], *near["high"]])
    end = high + 0.5 * (high - low)  # room for the numbers at the right
    drawn = with_text(table, "value", "low", "high").with_columns(beyond=pl.col("value") > high)
    drawn = clipped(drawn, low, high, "value", "low", "high")
    drawn = drawn.join(places, on="method").with_columns(
        share=pl.Series([removed_text(*v) for v in drawn.select(REMOVED).rows()], dtype=pl.String),
        removed_words=pl.Series([percent(*v) for v in drawn.select(REMOVED).rows()], dtype=pl.String),
    )
    drawn = drawn.with_columns(at=pl.col("at") + pl.when(pl.col("part") == TOTAL).then(-0.14).otherwise(0.14))
    x = alt.X("value:Q", title="FVU (share of the activation's variance that is left)",
              scale=alt.Scale(domain=[low, end], nice=False, zero=False),
              axis=alt.Axis(**at_ticks(even_ticks(low, high, 5)), format="~g", grid=True))  # fmt: skip
    y = _names_axis("at:Q", labels, height)
    tooltip = [alt.Tooltip("title:N", title="method"), alt.Tooltip("part:N"), alt.Tooltip("text:N", title="FVU"),
               alt.Tooltip("removed_words:N", title="removed of the SAE's own"), alt.Tooltip("l0:Q", title="L0", format=".2f"),
               alt.Tooltip("extra_l0:Q", title="active latents of other SAEs", format=".1f"),
               alt.Tooltip("parameters_added:Q", title="parameters added", format=",d"),
               alt.Tooltip("n_tokens:Q", title="tokens", format=",d")]  # fmt: skip
    base = alt.Chart(drawn).encode(y=y, color=part_colour())
    return alt.layer(
        *_own(drawn),
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2=alt.X2("high:Q")),
        base.transform_filter("!datum.beyond").mark_point(filled=True, size=55, opacity=1).encode(x=x, tooltip=tooltip),
        base.transform_filter("datum.beyond")
        .mark_point(shape="triangle-right", size=70, filled=True, opacity=1)
        .encode(x=alt.X("value:Q"), tooltip=tooltip),
        *_removed(drawn, places, end),
    ).properties(height=round(ROW * height), autosize=FIT_WIDTH)


def removed_text(value: float | None, low: float | None, high: float | None) -> str:
    """`19.5 %` without its interval, rounded to what that supports; a minus where more is left than before."""
    if value is None:
        return MISSING
    decimals = 1 if low is None or high is None or low == high else min(decimals_for(100 * low, 100 * high), 1)
    return f"{fixed(100 * value, decimals)} %".replace("-", "−")


@dataclass
class _Labels:
    """The texts left of the rows, by place."""

    methods: dict[str, str] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)


def _places(table: pl.DataFrame) -> tuple[pl.DataFrame, _Labels, float]:
    """Where each method is, what stands at the left, and the height in rows."""
    rows, labels, at, kind = [], _Labels(), 0.0, ""
    for row in table.unique("method", keep="first", maintain_order=True).to_dicts():
        if row["kind"] != kind:
            kind = row["kind"]
            if KIND_NAMES.get(kind):
                at += 0.25
                labels.heads[f"{at:.2f}"] = KIND_NAMES[kind]
                at += 0.95
        rows.append((row["method"], at))
        labels.methods[f"{at:.2f}"] = row["title"]
        at += 1
    return pl.DataFrame(rows, schema={"method": pl.String, "at": pl.Float64}, orient="row"), labels, at


def _names_axis(channel: str, labels: _Labels, height: float) -> alt.Y:
    """Names at their places; heads are bold."""
    texts = labels.methods | labels.heads
    place = "format(datum.value, '.2f')"
    is_head = f"indexof({json.dumps(list(labels.heads))}, {place}) >= 0"
    axis = alt.Axis(
        **at_ticks([float(spot) for spot in texts]), labelExpr=f"{json.dumps(texts)}[{place}]",
        labelFontWeight=alt.condition(is_head, alt.value("bold"), alt.value("normal")),
        grid=False, ticks=False, domain=False, labelLimit=LABEL, labelFontSize=12, labelPadding=8, labelOverlap=False,
    )  # fmt: skip
    return alt.Y(channel, title=None, scale=alt.Scale(domain=[height - 0.45, -0.55], nice=False, zero=False), axis=axis)


def _own(drawn: pl.DataFrame) -> list[alt.Chart]:
    """The SAE's own FVU and nonlinear FVU as dashed lines, named above."""
    own = drawn.filter(pl.col("method") == OWN)
    if not len(own):
        return []
    own = own.with_columns(words=pl.col("part").replace(HEADS))
    layers = [
        alt.Chart(own).mark_rule(strokeDash=[5, 4], strokeWidth=1.5).encode(x=alt.X("value:Q"), color=part_colour())
    ]
    # The smaller number is named left of its line, the larger one right of it.
    for align, part, dx in (("right", NONLINEAR, -5), ("left", TOTAL, 5)):
        text = alt.Chart(own.filter(pl.col("part") == part)).mark_text(
            align=align, dx=dx, fontSize=12, fontWeight="bold"
        )  # type: ignore[arg-type]
        layers.append(text.encode(x=alt.X("value:Q"), y=alt.value(-10), text=alt.Text("words:N"), color=part_colour()))
    return layers


def _removed(drawn: pl.DataFrame, places: pl.DataFrame, end: float) -> list[alt.Chart]:
    """At the right of each row the shares of the error and of the nonlinear error that are gone: columns of pixels."""
    rows = drawn.filter(pl.col("method") != OWN).drop("at").join(places, on="method").with_columns(right=pl.lit(end))
    layers = []
    for part, word, dx in ((TOTAL, "error", -COLUMN), (NONLINEAR, "nonlinear", 0)):
        text = alt.Chart(rows.filter(pl.col("part") == part)).mark_text(align="right", fontSize=12, dx=dx)
        head = alt.Chart(pl.DataFrame({"right": [end], "part": [part], "words": [word]}))
        layers += [
            text.encode(x=alt.X("right:Q"), y=alt.Y("at:Q"), text=alt.Text("share:N"), color=part_colour()),
            head.mark_text(align="right", fontSize=12, fontWeight="bold", dx=dx).encode(
                x=alt.X("right:Q"), y=alt.value(-26), text=alt.Text("words:N"), color=part_colour()
            ),
        ]
    over = alt.Chart(pl.DataFrame({"right": [end], "words": ["removed of"]}))
    return [
        *layers,
        over.mark_text(align="right", color=NEUTRAL, fontSize=12).encode(
            x=alt.X("right:Q"), y=alt.value(-42), text=alt.Text("words:N")
        ),
    ]
