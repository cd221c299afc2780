"""Error against L0 at one width, a line for each architecture: is a gap between architectures more than a gap in L0?"""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import polars as pl

from dmcore.charts.axes import (
    FIT_WIDTH,
    L0_TITLE,
    METRICS,
    clipped,
    known,
    linear_ends,
    linear_y,
    log_ends,
    log_x,
    log_y,
    with_text,
)
from dmcore.charts.labels import spread
from dmcore.charts.theme import NEUTRAL, as_part, part_colour

HEIGHT = 350

SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]
"""Architectures differ by shape and by the name at the end: colours say which number is drawn."""
_ROOM = 0.2


def sparsity_table(records: pl.DataFrame, metric: str = "fvu_nonlinear") -> pl.DataFrame:
    """What is drawn: `label`, `sae`, `d_sae`, `l0`, `value`, `low`, `high`, sorted by label and L0.

    Args:
        records: rows of `RECORD` of one site and width.
        metric: a column of `RECORD` with its interval.
    """
    return (
        records.filter(known(metric) & (pl.col("l0") > 0))
        .select("label", "sae", "d_sae", "l0", value=metric, low=f"{metric}_low", high=f"{metric}_high")
        .sort("label", "l0", "sae")
    )


def sparsity_chart(
    records: pl.DataFrame, metric: str = "fvu_nonlinear", selected: str | None = None, label: str = "architecture"
) -> alt.LayerChart:
    """A line an architecture on log axes (a linear y axis where a value is not positive), named at its end.

    Args:
        selected: id of the chosen SAE, which is ringed.
        label: what the column `label` names.
    """
    table = with_text(sparsity_table(records, metric), "value", "low", "high")
    log = bool((table["value"] > 0).all()) and metric.startswith("fvu")
    values = [*table["value"], *(v for v in [*table["low"], *table["high"]] if v is None or not log or v > 0)]
    low, high = log_ends(values) if log else linear_ends(values)
    first, last = log_ends(table["l0"], 1.1)
    end = last * (last / first) ** (_ROOM / (1 - _ROOM))
    y = (log_y if log else linear_y)("value:Q", METRICS[metric].title + (", log scale" if log else ""), low, high)
    x = log_x("l0:Q", L0_TITLE, first, end, last)
    drawn = clipped(as_part(table, METRICS[metric].part), low, high, "low", "high")
    labels = table["label"].unique(maintain_order=True).to_list()
    scale = alt.Scale(domain=labels, range=[SHAPES[k % len(SHAPES)] for k in range(len(labels))])
    tooltip = [alt.Tooltip("label:N", title=label), alt.Tooltip("sae:N", title="SAE"),
               alt.Tooltip("d_sae:Q", title="width", format=",d"), alt.Tooltip("l0:Q", title="L0", format=".1f"),
               alt.Tooltip("text:N", title=METRICS[metric].name)]  # fmt: skip
    base = alt.Chart(drawn).encode(x=x, color=part_colour())
    layers = [
        base.mark_line(strokeWidth=1.5, opacity=0.6).encode(y=y, detail=alt.Detail("label:N")),
        base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        base.mark_point(filled=True, size=75, opacity=1)
        .encode(y=y, shape=alt.Shape("label:N", scale=scale, legend=None), tooltip=tooltip),
        *_names(drawn, low, high, log),
    ]  # fmt: skip
    chosen = drawn.filter(pl.col("sae") == (selected or ""))
    if len(chosen):
        ring = alt.Chart(chosen).mark_point(filled=False, size=320, strokeWidth=2, opacity=1, color=NEUTRAL)
        layers.append(ring.encode(x=alt.X("l0:Q"), y=alt.Y("value:Q")))
    return alt.layer(*layers).properties(height=HEIGHT, autosize=FIT_WIDTH)


def _names(drawn: pl.DataFrame, low: float, high: float, log: bool) -> list[alt.Chart]:
    """Each architecture's name right of its last SAE; left of it, with a leader, where other lines go on to the right."""
    ends = drawn.group_by("label", maintain_order=True).last()
    passed = pl.Series([_is_passed(drawn, row) for row in ends.to_dicts()], dtype=pl.Boolean)
    gap = (math.log(high / low) if log else high - low) * 16 / HEIGHT

    def heights(rows: pl.DataFrame) -> list[float]:
        return (rows["value"].log() if log else rows["value"]).to_list()

    def placed(rows: pl.DataFrame, moved: list[float]) -> pl.DataFrame:
        at = pl.Series(moved, dtype=pl.Float64)
        return rows.with_columns(y=at.exp() if log else at)

    layers, at_end, inside = [], ends.filter(~passed), ends.filter(passed)
    if len(at_end):
        text = alt.Chart(placed(at_end, _apart(at_end["l0"].log().to_list(), heights(at_end), gap)))
        layers.append(_text(text, "l0", "left", 10))
    if len(inside):
        # clear of the lines that pass: they fall with L0 on log axes, so that below and left of them is free
        side = pl.col("l0").min() / 1.25
        left = alt.Chart(placed(inside, spread(heights(inside), gap)).with_columns(side=side))
        line = left.mark_rule(color=NEUTRAL, strokeWidth=1)
        layers += [
            line.encode(x=alt.X("side:Q"), x2=alt.X2("l0:Q"), y=alt.Y("y:Q"), y2=alt.Y2("value:Q")),
            _text(left, "side", "right", -4),
        ]
    return layers


def _text(chart: alt.Chart, across: str, align: Any, dx: int) -> alt.Chart:
    text = chart.mark_text(align=align, dx=dx, fontWeight="bold", fontSize=12, limit=170)
    return text.encode(x=alt.X(f"{across}:Q"), y=alt.Y("y:Q"), text=alt.Text("label:N"), color=part_colour())


def _is_passed(drawn: pl.DataFrame, end: dict[str, Any]) -> bool:
    """Whether another architecture's line goes on to the right of the end of this one's."""
    others = drawn.filter(pl.col("label") != end["label"]).group_by("label").agg(pl.col("l0").max(), n=pl.len())
    return bool((others.filter(pl.col("n") > 1)["l0"] > 1.2 * end["l0"]).any())


def _apart(across: list[float], heights: list[float], gap: float) -> list[float]:
    """Heights moved apart among labels that share a column (ends within a fifth of the axis of each other)."""
    near = (max(across) - min(across)) * 0.2 + 0.05
    moved = list(heights)
    for k in sorted(range(len(across)), key=lambda j: across[j]):
        group = [j for j in range(len(across)) if abs(across[j] - across[k]) <= near]
        for j, height in zip(group, spread([moved[j] for j in group], gap), strict=True):
            moved[j] = height
    return moved
