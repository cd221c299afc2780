"""How much of an SAE's error, and of its parts, follows from what SAEs make of earlier components of the activation."""

from __future__ import annotations

import json

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, at_ticks, finite, known, with_text
from dmcore.charts.league import INPUT_NAMES
from dmcore.charts.numbers import point
from dmcore.charts.part_names import NAMES, with_names
from dmcore.charts.theme import NEUTRAL, part_colour
from dmcore.results.reduction import JOINED, TARGETS

ROW = 62
"""Height of a set of inputs, in pixels."""


def inputs_text(inputs: str) -> str:
    """`stream before + MLP`."""
    return " + ".join(INPUT_NAMES.get(name, name) for name in inputs.split(JOINED))


def earlier_table(regressions: pl.DataFrame) -> pl.DataFrame:
    """A row a set of inputs and part: `inputs` (in words), `part` (named), `r2`, `low`, `high`; few inputs first."""
    rows = regressions.filter(known("r2")).with_columns(
        n=pl.col("inputs").str.split(JOINED).list.len(),
        part=pl.col("target"),
        place=pl.col("target").replace_strict({t: k for k, t in enumerate(TARGETS)}, default=len(TARGETS)),
        words=pl.Series([inputs_text(i) for i in regressions.filter(known("r2"))["inputs"]], dtype=pl.String),
    )
    rows = with_names(rows).sort("n", "inputs", "place", maintain_order=True)
    return rows.select(inputs="words", part="part", r2="r2", low="r2_low", high="r2_high")


def earlier_chart(regressions: pl.DataFrame) -> alt.LayerChart:
    """A row a set of inputs, a bar a part with its interval and number; the parts named in the first row.

    Args:
        regressions: `REDUCTION_TABLES["regressions"]`.
    """
    table = earlier_table(regressions)
    order = table["inputs"].unique(maintain_order=True).to_list()
    parts = [NAMES[target] for target in TARGETS]
    lane = {part: 0.27 * (k - 1) for k, part in enumerate(parts)}
    low = min([0.0, *finite(table["r2"]), *finite(table["low"])])
    drawn = with_text(table, "r2", "low", "high").with_columns(
        at=pl.col("inputs").replace_strict({name: k for k, name in enumerate(order)}, return_dtype=pl.Float64)
        + pl.col("part").replace_strict(lane, return_dtype=pl.Float64),
        beside=pl.max_horizontal("r2", "high", pl.lit(0.0)), foot=pl.lit(0.0),
    ).with_columns(top=pl.col("at") - 0.12, bottom=pl.col("at") + 0.12)  # fmt: skip
    words = [f"{_short(r2, a, b)}{'  ' + part if name == order[0] else ''}"
             for name, part, r2, a, b in drawn.select("inputs", "part", "r2", "low", "high").rows()]  # fmt: skip
    drawn = drawn.with_columns(pl.Series("words", words, dtype=pl.String))
    x = alt.X("foot:Q", title="held-out R² (share of the part's variance)",
              scale=alt.Scale(domain=[min(low * 1.1, 0.0), 1.12], nice=False, zero=False),
              axis=alt.Axis(**at_ticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), format="~g"))  # fmt: skip
    axis = alt.Axis(**at_ticks(list(range(len(order)))), labelExpr=f"{json.dumps(order)}[datum.value]", grid=False,
                    ticks=False, domain=False, labelLimit=280, labelFontSize=13, labelPadding=8)  # fmt: skip
    y = alt.Y("at:Q", title=None, axis=axis, scale=alt.Scale(domain=[len(order) - 0.5, -0.5], nice=False, zero=False))
    tooltip = [alt.Tooltip("inputs:N", title="from"), alt.Tooltip("part:N"), alt.Tooltip("text:N", title="R²")]
    bars = alt.Chart(drawn)
    return alt.layer(
        bars.mark_rect(opacity=0.35).encode(
            x=x, x2=alt.X2("r2:Q"), y=alt.Y("top:Q"), y2=alt.Y2("bottom:Q"), color=part_colour(), tooltip=tooltip
        ),
        alt.Chart(drawn.filter(known("low") & known("high"))).mark_rule(strokeWidth=2.5).encode(
            x=alt.X("low:Q"), x2=alt.X2("high:Q"), y=y, color=part_colour()
        ),
        bars.mark_text(align="left", dx=7, fontSize=12, fontWeight="bold").encode(
            x=alt.X("beside:Q"), y=alt.Y("at:Q"), text=alt.Text("words:N"), color=part_colour()
        ),
        alt.Chart(pl.DataFrame({"foot": [0.0]})).mark_rule(color=NEUTRAL).encode(x=alt.X("foot:Q")),
    ).properties(height=ROW * max(len(order), 1), autosize=FIT_WIDTH)  # fmt: skip


def _short(r2: float, low: float | None, high: float | None) -> str:
    """An R² in at most three decimals."""
    text = point(r2, low, high)
    return text if len(text.partition(".")[2]) <= 3 else f"{r2:.3f}"
