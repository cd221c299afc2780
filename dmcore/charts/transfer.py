"""Maps fitted in one place and tested in another, as a matrix: a row is where a map was fitted, a column where it is tested."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, finite, known
from dmcore.charts.numbers import fixed, number, percent
from dmcore.charts.theme import NEUTRAL, TOTAL, as_part, part_colour

ROW = 36
"""Height of a row, in pixels."""
SHOWN = {
    "r2": "held-out R² of the error vector",
    "relative": "R² as a share of that of the map fitted where it is tested",
}
"""What a cell may hold, in words."""


def matrix_table(cells: pl.DataFrame, labels: Sequence[str], kept: str, shown: str) -> pl.DataFrame:
    """The cells of a kind: `fitted`, `tested` (labels), `value`, `low`, `high`, `own` (fitted where it is tested), `scale`.

    Args:
        cells: `TRANSFER_TABLES["cells"]`.
        labels: of the members, by number; no two alike.
        kept: of `dmcore.results.transfer.KEPT`.
        shown: of `SHOWN`.
    """
    rows = cells.filter((pl.col("kept") == kept) & known(shown)).sort("fitted", "tested")
    names = dict(enumerate(labels))
    named = [pl.col(c).replace_strict(names, return_dtype=pl.String).alias(c) for c in ("fitted", "tested")]
    return rows.select(
        *named, value=shown, low=f"{shown}_low", high=f"{shown}_high", own=pl.col("fitted") == pl.col("tested"),
        scale="scale",
    )  # fmt: skip


def matrix_chart(cells: pl.DataFrame, labels: Sequence[str], kept: str, shown: str) -> alt.LayerChart:
    """The matrix with a number in each cell, below 0 without colour; framed: tested where it was fitted."""
    table = as_part(matrix_table(cells, labels, kept, shown), TOTAL)
    say = percent if shown == "relative" else number
    words = [cell_text(value, shown) for value in table["value"]]
    full = [say(*row) for row in table.select("value", "low", "high").rows()]
    drawn = table.with_columns(
        pl.Series("words", words, dtype=pl.String), pl.Series("text", full, dtype=pl.String),
        shade=pl.col("value").clip(0.0, None),
    )  # fmt: skip
    top = max([1e-6, *finite(drawn["shade"])])
    angle = -30 if max((len(label) for label in labels), default=0) > 9 and len(labels) > 4 else 0
    order = list(labels)
    x = alt.X("tested:N", sort=order, title="tested on",
              axis=alt.Axis(orient="top", labelAngle=angle, labelLimit=180, ticks=False, domain=False, labelFontSize=12,
                            labelOverlap=False, labelFlush=False, labelAlign="left" if angle else "center"))  # fmt: skip
    y = alt.Y("fitted:N", sort=order, title="fitted on",
              axis=alt.Axis(labelLimit=240, labelPadding=6, ticks=False, domain=False, labelFontSize=12,
                            labelOverlap=False, labelFlush=False))  # fmt: skip
    # Twice as far as the values go: the darker half of the scale would hide the numbers in it.
    colour = alt.Color("shade:Q", scale=alt.Scale(domain=[0.0, 2.0 * top], nice=False), legend=None)
    tooltip = [alt.Tooltip("fitted:N", title="fitted on"), alt.Tooltip("tested:N", title="tested on"),
               alt.Tooltip("text:N", title=SHOWN[shown])]  # fmt: skip
    if kept == "scaled":
        tooltip.append(alt.Tooltip("scale:Q", title="slope times", format=".3~f"))
    base = alt.Chart(drawn).encode(x=x, y=y)
    own = alt.Chart(drawn.filter(pl.col("own"))).encode(x=x, y=y)
    return (
        alt.layer(
            base.mark_rect(stroke=NEUTRAL, strokeWidth=0.3).encode(color=colour, tooltip=tooltip),
            own.mark_rect(filled=False, stroke=NEUTRAL, strokeWidth=2.5, fillOpacity=0),
            base.mark_text(fontSize=12, fontWeight="bold").encode(
                text=alt.Text("words:N"), color=part_colour(), tooltip=tooltip
            ),
        )
        .resolve_scale(color="independent")
        .properties(height=max(ROW * len(labels), 80), autosize=FIT_WIDTH)
    )


def cell_text(value: float, shown: str) -> str:
    """A number that fits a cell: two decimals, or whole percent; fewer where it is far below 0."""
    if shown == "relative":
        return fixed(100 * value, 0).replace("-", "−") + " %" if value > -10 else "< −999 %"
    return fixed(value, 2 if value > -10 else 0).replace("-", "−")
