"""The paper's statements: intervals against the ranges that decide, and a matrix of verdicts over groups of SAEs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, at_ticks
from dmcore.charts.numbers import number
from dmcore.charts.theme import NEUTRAL, TOTAL, as_part, part_colour
from dmcore.results.claims import FAILS, HOLDS, NOT_TESTED, STATEMENTS, UNDECIDED, VERDICTS

VERDICT_COLOURS = {HOLDS: "#009E73", FAILS: "#CC79A7", UNDECIDED: "#B8860B", NOT_TESTED: NEUTRAL}
"""Okabe and Ito's green and purple, which the colour blind tell apart, an ochre between, and grey: none is a part's colour."""
SYMBOLS = {HOLDS: "✓", FAILS: "✗", UNDECIDED: "?", NOT_TESTED: "–"}
"""Verdicts without colour."""
ROW, LABEL = 34, 290
"""Height of a row and room for its name, in pixels."""
_NO_AXIS = alt.Axis(labels=False, ticks=False, domain=False, grid=False)
"""Not None, which Vega-Lite cannot put together with the layers that say nothing of it."""
VERDICT_AT, NUMBERS_AT, END = 1.05, 1.46, 2.26
"""Where the columns of text begin, where the drawn part of a row is from 0 to 1."""


def range_words(low: float | None, high: float | None) -> str:
    """`0.35 to 0.65`, `0.7 or more`, `above 0`."""
    if low is None:
        return "" if high is None else f"{high:g} or less"
    return f"{low:g} to {high:g}" if high is not None else "above 0" if low == 0 else f"{low:g} or more"


def claims_table(claims: pl.DataFrame) -> pl.DataFrame:
    """Rows of `dmcore.results.claims.CLAIMS` with `short` (the statement in few words), `text` (number, interval) and `range`."""
    rows = claims.to_dicts()
    return claims.with_columns(
        short=pl.Series([STATEMENTS[row["claim"]].short for row in rows], dtype=pl.String),
        text=pl.Series(["" if row["value"] is None else _minus(number(row["value"], row["low"], row["high"])) for row in rows],
                       dtype=pl.String),
        range=pl.Series([range_words(row["range_low"], row["range_high"]) for row in rows], dtype=pl.String),
    )  # fmt: skip


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _placed(row: dict[str, Any]) -> dict[str, Any]:
    """A row on a scale of its own: its interval, the range and their bounds, from 0 to 1."""
    known = [row[c] for c in ("value", "low", "high", "range_low", "range_high") if row[c] is not None]
    low, high = min(known), max(known)
    pad = 0.22 * (high - low) or 0.1
    low, high = low - pad, high + pad

    def at(value: float | None, otherwise: float) -> float:
        return otherwise if value is None else (value - low) / (high - low)

    return {
        "from_at": at(row["range_low"], 0.0), "to_at": at(row["range_high"], 1.0),
        **({} if row["value"] is None else {f"{c}_at": at(row[c], 0.0) for c in ("value", "low", "high")}),
    }  # fmt: skip


_PLACES = {f"{name}_at": pl.Float64 for name in ("from", "to", "value", "low", "high")}


def claims_chart(claims: pl.DataFrame) -> alt.LayerChart:
    """A row a statement, on a scale of its own: its interval over the shaded range in which it holds, and the verdict in words.

    Args:
        claims: rows of `dmcore.results.claims.CLAIMS`, one a statement.
    """
    table = claims_table(claims).with_row_index("at")
    places = pl.DataFrame([_placed(row) for row in table.to_dicts()], schema=_PLACES)
    words = pl.Series("words", [f"{SYMBOLS[v]} {v}" for v in table["verdict"]], dtype=pl.String)
    drawn = pl.concat([table, places, words.to_frame()], how="horizontal").with_columns(
        top=pl.col("at") - 0.3, bottom=pl.col("at") + 0.3, numbers_at=pl.lit(NUMBERS_AT), verdict_at=pl.lit(VERDICT_AT)
    )
    x = {"title": None, "scale": alt.Scale(domain=[0, END], nice=False), "axis": _NO_AXIS}
    y = _names("at:Q", drawn["short"].to_list())
    tooltip = [alt.Tooltip("statement:N"), alt.Tooltip("paper:N", title="the paper reports"),
               alt.Tooltip("text:N", title="number"), alt.Tooltip("range:N", title="holds in"),
               alt.Tooltip("range_from:N", title="range"), alt.Tooltip("verdict:N"), alt.Tooltip("n:Q", title="mean of"),
               alt.Tooltip("unit:N", title="which are"), alt.Tooltip("n_inside:Q", title="of them in the range"),
               alt.Tooltip("reason:N", title="note")]  # fmt: skip
    base = alt.Chart(drawn)
    known = alt.Chart(drawn.filter(pl.col("value").is_not_null()))
    colour = _verdict_colour()
    return alt.layer(
        base.mark_rect(color=NEUTRAL, opacity=0.22).encode(
            x=alt.X("from_at:Q", **x), x2="to_at:Q", y=alt.Y("top:Q"), y2=alt.Y2("bottom:Q"), tooltip=tooltip
        ),
        *_bounds(drawn),
        known.mark_rule(strokeWidth=3).encode(x=alt.X("low_at:Q", **x), x2="high_at:Q", y=y, color=colour),
        known.mark_point(filled=True, size=75, opacity=1).encode(
            x=alt.X("value_at:Q", **x), y=y, color=colour, tooltip=tooltip
        ),
        alt.Chart(as_part(drawn, TOTAL)).mark_text(align="left", fontSize=12).encode(
            x=alt.X("numbers_at:Q", **x), y=y, text="text:N", color=part_colour(), tooltip=tooltip
        ),
        base.mark_text(align="left", fontSize=12, fontWeight="bold").encode(
            x=alt.X("verdict_at:Q", **x), y=y, text="words:N", color=colour, tooltip=tooltip
        ),
    ).resolve_scale(color="independent").properties(height=ROW * max(len(drawn), 1), autosize=FIT_WIDTH)  # fmt: skip


def _bounds(drawn: pl.DataFrame) -> list[alt.Chart]:
    """The ends of the ranges, as numbers beside their lines."""
    layers = []
    for place, value, align, dx in (("from_at", "range_low", "right", -3), ("to_at", "range_high", "left", 3)):
        rows = drawn.filter(pl.col(value).is_not_null())
        if len(rows):
            rows = rows.with_columns(bound=pl.Series([_minus(f"{v:g}") for v in rows[value]]))
            line = alt.Chart(rows).mark_rule(color=NEUTRAL, strokeWidth=1)
            layers.append(line.encode(x=alt.X(f"{place}:Q"), y=alt.Y("top:Q"), y2=alt.Y2("bottom:Q")))
            text = alt.Chart(rows).mark_text(color=NEUTRAL, fontSize=11, align=align, dx=dx, dy=11)  # type: ignore[arg-type]
            layers.append(text.encode(x=alt.X(f"{place}:Q"), y=alt.Y("at:Q"), text="bound:N"))
    return layers


def _names(channel: str, names: Sequence[str], **scale: Any) -> alt.Y:
    """Names at 0, 1, 2, ... from the top."""
    axis = alt.Axis(
        **at_ticks([float(i) for i in range(len(names))]), labelExpr=f"{json.dumps(list(names))}[round(datum.value)]",
        grid=False, ticks=False, domain=False, labelLimit=LABEL, labelFontSize=12, labelPadding=8, labelOverlap=False,
    )  # fmt: skip
    ends = alt.Scale(domain=[max(len(names), 1) - 0.5, -0.5], nice=False, zero=False, **scale)
    return alt.Y(channel, title=None, scale=ends, axis=axis)


def _verdict_colour() -> alt.Color:
    scale = alt.Scale(domain=list(VERDICTS), range=[VERDICT_COLOURS[v] for v in VERDICTS])
    return alt.Color("verdict:N", scale=scale, legend=None)


def matrix_table(groups: pl.DataFrame) -> pl.DataFrame:
    """Rows of `claims_table` of the groups' claims that were tested on some group."""
    tested = groups.filter(pl.col("verdict") != NOT_TESTED)["claim"].unique()
    return claims_table(groups.filter(pl.col("claim").is_in(tested.to_list())))


def matrix_chart(groups: pl.DataFrame, names: Sequence[str] | None = None) -> alt.LayerChart:
    """Verdicts of statements (rows) on groups of SAEs (columns, by what they are grouped by): a symbol and a colour.

    Args:
        groups: rows of `dmcore.results.claims.CLAIMS` with `by` and `group`.
        names: what each group is called, in their order; None for their own names.
    """
    table = matrix_table(groups)
    columns = table.select("by", "group").unique(maintain_order=True).with_row_index("column")
    gaps = (columns["by"] != columns["by"].shift(1)).fill_null(False).cast(pl.Int64).cum_sum()
    columns = columns.with_columns(across=pl.col("column") + 0.5 * gaps)
    order = {claim: place for place, claim in enumerate(c for c in STATEMENTS if c in set(table["claim"]))}
    drawn = table.join(columns, on=["by", "group"]).with_columns(
        at=pl.col("claim").replace_strict(order, return_dtype=pl.Float64),
        symbol=pl.col("verdict").replace_strict(SYMBOLS),
        left=pl.col("across") - 0.46, right=pl.col("across") + 0.46,
    ).with_columns(top=pl.col("at") - 0.44, bottom=pl.col("at") + 0.44)  # fmt: skip
    shown = list(names) if names is not None else columns["group"].to_list()
    across = columns["across"].to_list()
    labels = {f"{spot:.1f}": name for spot, name in zip(across, shown, strict=True)}
    axis = alt.Axis(
        **at_ticks(across), labelExpr=f"{json.dumps(labels)}[format(datum.value, '.1f')]", orient="top", labelAngle=-40,
        labelAlign="left", labelLimit=150, labelOverlap=False, grid=False, ticks=False, domain=False, labelFontSize=12,
    )  # fmt: skip
    last = max(across, default=0.0)
    x = alt.X("left:Q", title=None, axis=axis, scale=alt.Scale(domain=[-0.5, last + 1.5], nice=False, zero=False))
    y = _names("at:Q", [STATEMENTS[claim].short for claim in order])
    tooltip = [alt.Tooltip("statement:N"), alt.Tooltip("by:N"), alt.Tooltip("group:N"), alt.Tooltip("verdict:N"),
               alt.Tooltip("text:N", title="number"), alt.Tooltip("range:N", title="holds in"),
               alt.Tooltip("n:Q", title="mean of"), alt.Tooltip("unit:N", title="which are"),
               alt.Tooltip("reason:N", title="note")]  # fmt: skip
    base = alt.Chart(drawn)
    cells = base.mark_rect(cornerRadius=3).encode(
        x=x, x2="right:Q", y=alt.Y("top:Q"), y2="bottom:Q", color=_verdict_colour(), tooltip=tooltip,
        opacity=alt.condition(f"datum.verdict == '{NOT_TESTED}'", alt.value(0.12), alt.value(0.32)),
    )  # fmt: skip
    symbols = alt.Chart(as_part(drawn, TOTAL)).mark_text(fontSize=15, fontWeight="bold").encode(
        x=alt.X("across:Q"), y=y, text="symbol:N", color=part_colour(), tooltip=tooltip
    )  # fmt: skip
    # The marks are of the total error's colour, which alone is light on a dark page, and need a scale of their own.
    layers = alt.layer(cells, symbols).resolve_scale(color="independent")
    return layers.properties(height=28 * max(len(order), 1) + 110, autosize=FIT_WIDTH)
