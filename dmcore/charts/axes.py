"""Axes and columns that the charts of the page *Scaling* share: log scales, widths and their colours, metrics, intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl

from dmcore.charts.labels import decade_ticks
from dmcore.charts.numbers import number
from dmcore.charts.theme import LINEAR, NONLINEAR, TOTAL, log2_axis

WIDTH_TITLE = "dictionary width (latents, log scale)"
L0_TITLE = "L0 (active latents per token, log scale)"


@dataclass(frozen=True)
class Metric:
    """How a metric of `RECORD` is drawn."""

    name: str
    title: str
    """Of its axis, with the unit."""
    part: str
    """Whose colour it has."""


METRICS = {
    "fvu": Metric("FVU", "FVU (share of the activation's variance)", TOTAL),
    "fvu_nonlinear": Metric("nonlinear FVU", "nonlinear FVU (share of the variance)", NONLINEAR),
    "r2_error": Metric("R² of the error", "held-out R² of the error vector", LINEAR),
    "r2_error_norm_sq": Metric("R² of |e|²", "held-out R² of |error|²", TOTAL),
}


def known(column: str) -> pl.Expr:
    """Where a column has a number: neither null nor nan nor infinite."""
    return pl.col(column).cast(pl.Float64).is_finite().fill_null(False)


def finite(values: Iterable[Any]) -> list[float]:
    """The numbers among values."""
    return [float(v) for v in values if v is not None and math.isfinite(v)]


def with_text(table: pl.DataFrame, value: str, low: str, high: str, text: str = "text") -> pl.DataFrame:
    """The table with a column that says a value and its interval, rounded to what the interval supports."""
    columns = (table[c].to_list() for c in (value, low, high))
    words = [number(*row) for row in zip(*columns, strict=True)]
    return table.with_columns(pl.Series(text, words, dtype=pl.String))


def clipped(table: pl.DataFrame, low: float, high: float, *columns: str) -> pl.DataFrame:
    """The table with columns held inside an axis, so that a bar that goes beyond it ends at its border."""
    return table.with_columns(pl.col(c).cast(pl.Float64).fill_nan(None).clip(low, high) for c in columns)


def log_ends(values: Iterable[Any], margin: float = 1.15) -> tuple[float, float]:
    """Ends of a log axis around the positive ones of some values; 0.1 to 1 where there is none."""
    positive = [v for v in finite(values) if v > 0] or [0.1, 1.0]
    low, high = min(positive) / margin, max(positive) * margin
    return (low, high) if high / low > 1.5 else (low / 1.3, high * 1.3)


def linear_ends(values: Iterable[Any], margin: float = 0.08) -> tuple[float, float]:
    """Ends of a linear axis around some values; 0 to 1 where there is none."""
    numbers = finite(values) or [0.0, 1.0]
    pad = (max(numbers) - min(numbers)) * margin or abs(max(numbers)) * margin or 0.1
    return min(numbers) - pad, max(numbers) + pad


def log_y(field: str, title: str, low: float, high: float, **axis: Any) -> alt.Y:
    """A log y axis with plain ticks."""
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    ticks = few(decade_ticks(low, high))
    return alt.Y(field, title=title, scale=scale, axis=alt.Axis(**at_ticks(ticks), format="~g", **axis))


def linear_y(field: str, title: str, low: float, high: float, **axis: Any) -> alt.Y:
    """A linear y axis; `zero` is said because a layer of areas would otherwise stretch the axis down to it."""
    scale = alt.Scale(domain=[low, high], nice=False, zero=False)
    return alt.Y(field, title=title, scale=scale, axis=alt.Axis(**({"tickCount": 6} | axis)))


def log_x(field: str, title: str, low: float, high: float, last: float | None = None) -> alt.X:
    """A log x axis with plain ticks up to `last` and no grid."""
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    ticks = few(decade_ticks(low, high if last is None else last))
    return alt.X(field, title=title, scale=scale, axis=alt.Axis(**at_ticks(ticks), format="~g", grid=False))


def at_ticks(values: Sequence[float]) -> dict[str, Any]:
    """Options of an axis with exactly these ticks: a page's own tick count would thin them out."""
    return {"values": list(values), "tickCount": len(values)}


FIT_WIDTH = alt.AutoSizeParams(type="fit-x", contains="padding")
"""For charts whose height is that of their plot, on a page too: legends and axes come on top."""


def few(ticks: list[float], most: int = 10) -> list[float]:
    """At most so many of the ticks, at equal steps."""
    return ticks[:: math.ceil(len(ticks) / most)] if ticks else ticks


def width_x(
    widths: Sequence[float], *, right: float = 0.0, end: float = 0.0, field: str = "d_sae:Q", title: str = WIDTH_TITLE
) -> alt.X:
    """A log2 axis over widths, with a tick at each.

    Args:
        widths: what gets a tick.
        right: room for labels at the right, as a share of the axis.
        end: how far the axis goes before that room, where that is beyond the widest.
    """
    scale = alt.Scale(type="log", base=2, domain=width_ends([*widths, max([end, *widths])], right), nice=False)
    return alt.X(field, scale=scale).axis(log2_axis(title, [round(w) for w in widths]))


def width_ends(widths: Sequence[float], right: float = 0.0) -> list[float]:
    """The ends of the axis of `width_x`."""
    left, last = min(widths) / 1.04, max(widths) * 1.04
    if last / left < 1.5:
        left, last = left / 2, last * 2
    return [left, last * (last / left) ** (right / (1 - right))]


FAINTEST = 0.38
"""Where on the theme's sequence the narrowest width is: what is below cannot be seen as a line."""


def with_shade(table: pl.DataFrame) -> pl.DataFrame:
    """The table with `shade`, the place of each row's `d_sae` on the sequence of widths."""
    log = pl.col("d_sae").cast(pl.Float64).log(2)
    share = (log - log.min()) / (log.max() - log.min())
    return table.with_columns(shade=FAINTEST + (1 - FAINTEST) * share.fill_nan(1.0).fill_null(1.0))


def width_colour() -> alt.Color:
    """Colour by `shade`: one sequential scale for widths, light or dark as the theme's."""
    return alt.Color("shade:Q", scale=alt.Scale(domain=[0, 1]), legend=None)
