"""The norm of the error and of its parts over a window of a text, a line for each width: do wide SAEs fail on the same
tokens as narrow ones?"""

from __future__ import annotations

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, at_ticks, finite, known, width_colour, with_shade
from dmcore.charts.labels import spread
from dmcore.charts.panels import Panel, Panels, even_ticks
from dmcore.charts.theme import LINEAR, NEUTRAL, NONLINEAR, TOTAL, part_colour
from dmcore.charts.token_text import visible

HEIGHT = 440

ROWS = {"error": TOTAL, "linear": LINEAR, "nonlinear": NONLINEAR}
"""Parts of `norms.npy`, from the top, and what they are called and coloured as."""

_ROOM = 0.13
"""Room for the widths right of the lines, as a share of the axis."""


def token_lines_table(norms: pl.DataFrame, first: int | None = None, last: int | None = None) -> pl.DataFrame:
    """The rows of a window: `position`, `token` (made visible), `d_sae`, `part`, `norm`.

    Args:
        norms: `position`, `token` (raw text), `d_sae`, `part` (`error`, `linear`, `nonlinear`), `norm`: over the root mean
            square of |x - mean x|.
        first, last: positions of the window, both inside it; all of them where none are given.
    """
    at = pl.col("position")
    inside = (at >= first if first is not None else pl.lit(True)) & (at <= last if last is not None else pl.lit(True))
    texts = {text: visible(text or "") for text in norms["token"].unique()}
    return (
        norms.filter(inside & pl.col("part").is_in(list(ROWS)))
        .select("position", pl.col("token").replace_strict(texts, default=None), "d_sae", "part", "norm")
        .sort("part", "d_sae", "position")
    )


def token_lines_chart(
    norms: pl.DataFrame, first: int | None = None, last: int | None = None, selected: int | None = None
) -> alt.LayerChart:
    """Three rows that share positions and scale, widths named at their ends; a click selects (`token`, by `position`).

    Args:
        selected: position that is marked.
    """
    table = with_shade(token_lines_table(norms, first, last).filter(known("norm")))
    top = max(finite(table["norm"]), default=1.0) * 1.05 or 1.0
    rows = Panels([Panel(part, 0.0, top) for part in ROWS], downwards=True, gap=0.22)
    drawn = rows.place(table, "part", place="norm")
    start, end = (int(table["position"].min()), int(table["position"].max()))  # type: ignore[arg-type]
    span = max(end - start, 1)
    x = alt.X("position:Q", title="position in the context (tokens)",
              scale=alt.Scale(domain=[start - 0.01 * span, end + _ROOM * span], nice=False, zero=False),
              axis=alt.Axis(format="d", grid=False, **at_ticks(_positions(start, end))))  # fmt: skip
    y = alt.Y("place:Q", **rows.axis("norm of the part of the error (relative to the activation's spread)"))
    tooltip = [alt.Tooltip("position:Q"), alt.Tooltip("token:N"), alt.Tooltip("d_sae:Q", title="width", format=",d"),
               alt.Tooltip("part:N"), alt.Tooltip("norm:Q", format=".3f")]  # fmt: skip
    base = alt.Chart(drawn).encode(x=x, y=y, color=width_colour())
    layers = [
        _columns(drawn, rows.total),
        *_marked(drawn, selected, rows.total),
        base.mark_line(strokeWidth=1.6).encode(
            x=alt.X("position:Q"), y=alt.Y("place:Q"), detail=[alt.Detail("part:N"), alt.Detail("d_sae:N")]
        ),
        base.mark_point(filled=True, size=28, opacity=1, cursor="pointer", aria=False).encode(
            x=x, y=y, tooltip=tooltip
        ),
        _ends(drawn, rows),
        _names(rows, start),
    ]
    return alt.layer(*layers).resolve_scale(color="independent").properties(height=HEIGHT, autosize=FIT_WIDTH)


def _positions(start: int, end: int) -> list[int]:
    """Ticks of the window."""
    return sorted({round(tick) for tick in even_ticks(start, end, 12)}) if end > start else [start]


def _columns(drawn: pl.DataFrame, total: float) -> alt.Chart:
    """An unseen column over each position: it hears the click, so that no one has to hit a point."""
    pick = alt.selection_point(name="token", fields=["position"], on="click", toggle=False)
    columns = drawn.select("position", "token").unique("position", keep="first", maintain_order=True).sort("position")
    half = pl.lit(0.5)
    columns = columns.with_columns(
        left=pl.col("position") - half, right=pl.col("position") + half, low=pl.lit(0.0), high=pl.lit(total)
    )
    area = alt.Chart(columns).mark_rect(fillOpacity=0, color=NEUTRAL, cursor="pointer", aria=False)
    tooltip = [alt.Tooltip("position:Q"), alt.Tooltip("token:N")]
    place = {"x": alt.X("left:Q"), "x2": alt.X2("right:Q"), "y": alt.Y("low:Q"), "y2": alt.Y2("high:Q")}
    return area.encode(**place, tooltip=tooltip).add_params(pick)


def _marked(drawn: pl.DataFrame, selected: int | None, total: float) -> list[alt.Chart]:
    """A line through the rows at the selected position, with its token; beside the name of the first row, not on it."""
    here = drawn.filter(pl.col("position") == (selected if selected is not None else -1)).head(1)
    if not len(here):
        return []
    start, end = drawn["position"].min(), drawn["position"].max()
    near = (here["position"][0] - start) < 0.2 * (end - start)  # type: ignore[operator]
    here = here.select("position", "token", low=pl.lit(0.0), high=pl.lit(total))
    base = alt.Chart(here).encode(x=alt.X("position:Q"))
    return [
        base.mark_rule(color=NEUTRAL, strokeDash=[2, 3]).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        base.mark_text(color=NEUTRAL, dy=-26 if near else -8, fontWeight="bold").encode(
            y=alt.Y("high:Q"), text=alt.Text("token:N")
        ),
    ]


def _ends(drawn: pl.DataFrame, rows: Panels) -> alt.Chart:
    """The widths beside the ends of the lines of each row, moved apart; every other one where there are many."""
    last = drawn.filter(pl.col("position") == drawn["position"].max())
    kept = []
    gap = rows.domain[1] * 13 / HEIGHT
    for part in last["part"].unique(maintain_order=True):
        ends = last.filter(pl.col("part") == part).sort("d_sae")
        step = 1 + len(ends) // 7
        ends = ends.gather_every(step)
        kept.append(ends.with_columns(label_at=pl.Series(spread(ends["place"].to_list(), gap), dtype=pl.Float64)))
    labels = pl.concat(kept).with_columns(text=pl.Series([f"{w:,}" for ends in kept for w in ends["d_sae"]]))
    text = alt.Chart(labels).mark_text(align="left", dx=8, fontSize=11, fontWeight="bold")
    return text.encode(x=alt.X("position:Q"), y=alt.Y("label_at:Q"), text=alt.Text("text:N"), color=width_colour())


def _names(rows: Panels, start: int) -> alt.Chart:
    """The name of each row above its start."""
    names = rows.spans().with_columns(part=pl.col("name").replace_strict(ROWS), position=pl.lit(start))
    text = alt.Chart(names).mark_text(align="left", baseline="bottom", dx=4, dy=-3, fontSize=13, fontWeight="bold")
    return text.encode(x=alt.X("position:Q"), y=alt.Y("end:Q"), text=alt.Text("part:N"), color=part_colour())
