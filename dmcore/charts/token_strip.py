"""The text of a context as coloured boxes, one a token: where in a text a quantity is large."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, finite
from dmcore.charts.theme import NEUTRAL
from dmcore.charts.token_text import cells, visible

LINE = 25
"""Height of a line of text, in pixels."""
COLUMNS = 100
"""Characters of a line."""
CUT = 24

MOST = 2.5
"""Colours end at so many times the 90 % quantile of the values: one attention sink would leave all other tokens pale."""


def token_strip_table(tokens: pl.DataFrame, columns: int = COLUMNS) -> pl.DataFrame:
    """The boxes: `position`, `token` (its text, made visible), `value`, `line`, `start`, `end`, in characters.

    A box does not break: it goes to the next line where it does not fit. A token with a line break ends its line.

    Args:
        tokens: `position`, `text` (raw), `value` (null or nan for none).
    """
    rows, line, column = [], 0, 0
    for row in tokens.select("position", "text", "value").sort("position").to_dicts():
        shown = visible(row["text"] or "", CUT)
        width = max(cells(shown), 1) + 1
        if column and column + width > columns:
            line, column = line + 1, 0
        rows.append((row["position"], shown, row["value"], line, column, column + width))
        column += width
        if "\n" in (row["text"] or ""):
            line, column = line + 1, 0
    schema = {"position": pl.Int64, "token": pl.String, "value": pl.Float64,
              "line": pl.Int64, "start": pl.Int64, "end": pl.Int64}  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def token_strip_chart(
    tokens: pl.DataFrame,
    selected: int | None = None,
    columns: int = COLUMNS,
    title: str = "value",
    ends: Sequence[float] | None = None,
) -> alt.LayerChart:
    """Boxes coloured by value, text on them; a click selects (`token`, by `position`).

    Args:
        tokens: `position`, `text`, `value`.
        selected: position that is framed.
        title: what the colours and the tooltip show, with its unit.
        ends: values at which the colours start and end; chosen from the values where none are given.
    """
    table = token_strip_table(tokens, columns)
    lines = int(table["line"].max()) + 1
    drawn = table.with_columns(
        value=pl.col("value").fill_nan(None), middle=(pl.col("start") + pl.col("end")) / 2,
        top=pl.col("line") + 0.06, bottom=pl.col("line") + 0.94, right=pl.col("end") - 0.12, height=pl.col("line") + 0.5,
    ).drop("line", "end")  # fmt: skip
    x = alt.X("start:Q", axis=None, scale=alt.Scale(domain=[0, columns], nice=False))
    y = alt.Y("top:Q", axis=None, scale=alt.Scale(domain=[lines, 0], nice=False, zero=False))
    legend = alt.Legend(title=title, orient="top", direction="horizontal", gradientLength=160, gradientThickness=8,
                        tickCount=4, titleLimit=500)  # fmt: skip
    colour = alt.Color("value:Q", scale=alt.Scale(domain=_ends(table, ends), clamp=True), legend=legend)
    tooltip = [alt.Tooltip("position:Q"), alt.Tooltip("token:N"), alt.Tooltip("value:Q", title=title, format=".3~g")]
    pick = alt.selection_point(name="token", fields=["position"], on="click", toggle=False)
    known_value = drawn["value"].is_not_null()
    place = {"x": x, "x2": alt.X2("right:Q"), "y": y, "y2": alt.Y2("bottom:Q"), "tooltip": tooltip}
    layers = []
    if not known_value.all():
        pale = alt.Chart(drawn.filter(~known_value)).mark_rect(cornerRadius=2, color=NEUTRAL)
        layers.append(pale.encode(**place))
    boxes = alt.Chart().mark_rect(cornerRadius=2, cursor="pointer")
    # The text has no tooltip, so that it hears no clicks either: they reach the box below it.
    text = alt.Chart().mark_text(font=MONOSPACE, fontSize=_size(columns), aria=False)
    ink = alt.condition(READABLE, alt.value("#ffffff"), alt.value("#1a1a1a"))
    layers += [
        boxes.encode(**place, color=colour).add_params(pick),
        text.encode(x=alt.X("middle:Q"), y=alt.Y("height:Q"), text=alt.Text("token:N"), color=ink),
        *_frame(drawn, selected),
    ]
    return alt.layer(*layers, data=drawn).properties(height=lines * LINE, autosize=FIT_WIDTH)


MONOSPACE = "Source Code Pro, Menlo, Consolas, monospace"
READABLE = "isValid(datum.value) && luminance(scale('color', datum.value)) < 0.2"
"""A Vega expression: the box under a text is dark, whatever the theme. A box without a value is grey on either."""


def _size(columns: int) -> alt.ExprRef:
    """Font size at which a monospace text of so many characters fits the plot's width."""
    return alt.ExprRef(f"min(14, max(5, width / {columns} * 1.62))")


def _ends(table: pl.DataFrame, ends: Sequence[float] | None) -> list[float]:
    if ends is not None:
        return list(ends)
    values = pl.Series(finite(table["value"]), dtype=pl.Float64)
    if not len(values):
        return [0.0, 1.0]
    low, high = min(0.0, float(values.min())), float(values.max())
    usual = MOST * float(values.quantile(0.9))
    high = min(high, usual) if usual > low else high
    return [low, high if high > low else low + 1.0]


def _frame(drawn: pl.DataFrame, selected: int | None) -> list[alt.Chart]:
    """A frame around the selected token."""
    chosen = drawn.filter(pl.col("position") == (selected if selected is not None else -1))
    if not len(chosen):
        return []
    base = alt.Chart(chosen).mark_rect(filled=False, stroke=NEUTRAL, strokeWidth=3, cornerRadius=2, aria=False)
    return [base.encode(x=alt.X("start:Q"), x2=alt.X2("right:Q"), y=alt.Y("top:Q"), y2=alt.Y2("bottom:Q"))]
