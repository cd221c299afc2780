"""The one place for colours: parts of the error, widths, and the look of a saved picture.

On a page the colours come from the app's theme (`.streamlit/config.toml` repeats them; a test compares), because only the
browser knows whether the page is light or dark. A chart therefore names the *part*, and the scale's range stays open. A
saved picture has no theme around it, so `PICTURE_CONFIG` closes the range with the light colours.

pandas is loaded here, before any chart is made. Altair looks for it among the modules that are loaded; where the first pages
of two sessions load at the same moment it would find half of it ("partially initialized module 'pandas'").
"""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas  # noqa: F401
import polars as pl

ABSENT = "absent features"
LINEAR = "linear error"
ENCODER = "encoder error"
NONLINEAR = "nonlinear error"
TOTAL = "total error"

PARTS = (ABSENT, LINEAR, ENCODER, NONLINEAR, TOTAL)
"""Parts of the error in the order of the theme's categorical colours."""

LIGHT_COLOURS = {
    ABSENT: "#999999",
    LINEAR: "#0072B2",
    ENCODER: "#E69F00",
    NONLINEAR: "#D55E00",
    TOTAL: "#222222",
}
"""Colours on a light page and in saved pictures (Okabe and Ito's set, safe for the colour blind)."""

DARK_COLOURS = {**LIGHT_COLOURS, TOTAL: "#E6E6E6"}
"""On a dark page only the total error changes: near black would vanish."""

LIGHT_SEQUENCE = (
    "#E8F1F7", "#CBE1EF", "#A9CDE4", "#82B6D7", "#5B9DC8", "#3A84B6", "#226CA0", "#135586", "#0A3F69", "#052A4B",
)  # fmt: skip
"""Widths and densities, from few to many, on a light page."""

DARK_SEQUENCE = (
    "#16222E", "#143349", "#134463", "#16577E", "#206C99", "#3282B0", "#4F99C4", "#74B2D6", "#A1CBE6", "#D3E7F5",
)  # fmt: skip
"""The same on a dark page, where many is light."""

NEUTRAL = "#858585"
"""Reference lines and their labels; readable on both grounds."""

FONT = "Source Sans, Source Sans Pro, Helvetica, Arial, sans-serif"

PICTURE_CONFIG: dict[str, Any] = {
    "background": "#ffffff",
    "font": FONT,
    "padding": 14,
    "range": {
        "category": list(LIGHT_COLOURS.values()),
        "ramp": list(LIGHT_SEQUENCE),
        "heatmap": list(LIGHT_SEQUENCE),
        "ordinal": list(LIGHT_SEQUENCE),
    },
    "view": {"stroke": None},
    "title": {"anchor": "start", "fontSize": 16, "offset": 12, "subtitleColor": "#555555", "subtitleFontSize": 11},
    "axis": {"gridColor": "#e6e6e6", "domainColor": "#999999", "tickColor": "#999999", "labelFontSize": 12,
             "titleFontSize": 12, "titleFontWeight": "normal", "titlePadding": 8},
    "text": {"fontSize": 12},
}  # fmt: skip
"""Vega-Lite config of a saved picture."""


def part_colour(field: str = "part") -> alt.Color:
    """Colour by part of the error; every chart uses the same domain, so that a part keeps its colour."""
    return alt.Color(f"{field}:N", scale=alt.Scale(domain=list(PARTS)), legend=None)


def part_colour_if(test: str) -> alt.Color:
    """Colour by part where a Vega expression holds, the neutral grey elsewhere: one layer where two would be drawn."""
    return alt.condition(test, part_colour(), alt.value(NEUTRAL))


def as_part(table: pl.DataFrame, part: str) -> pl.DataFrame:
    """The table with every row marked as one part, for `part_colour`: a constant cannot carry the shared domain."""
    return table.with_columns(part=pl.lit(part))


def log2_axis(title: str, values: list[int]) -> alt.Axis:
    """An axis over dictionary widths with a tick at each width that exists."""
    return alt.Axis(title=title, values=values, format=",d", grid=False, labelFlush=False)


def log2_scale(values: list[int]) -> alt.Scale:
    """A log2 scale from the narrowest to the widest, with room for a marker at either end."""
    return alt.Scale(type="log", base=2, domain=[min(values) / 1.04, max(values) * 1.04], nice=False)
