"""A chart as a picture file: on white, at a fixed size, with its title and caption, drawn only when it is asked for."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import altair as alt

from dmcore.charts.theme import PICTURE_CONFIG
from dmcore.legible import cleaned, visible

WIDTH = 720
"""Width of a picture's plotting area, in pixels."""


def picture_spec(chart: alt.TopLevelMixin, title: str, caption: str) -> dict[str, Any]:
    """The chart's Vega-Lite spec with everything that a page would have put around it."""
    spec = cleaned(chart.to_dict(validate=False))  # the tests validate every chart; a report draws a hundred
    _fix_width(spec)
    # the fonts of pictures have no raised letters: a line that has one would be set in another font
    plain = caption.replace("$", "").replace("⁻ᵐ", "^−m").replace("⁻ⁿ", "^−n")
    spec["title"] = {"text": visible(title), "subtitle": textwrap.wrap(visible(plain), 120)}
    spec["config"] = PICTURE_CONFIG
    return spec


def svg(chart: alt.TopLevelMixin, title: str, caption: str) -> bytes:
    """The chart as SVG."""
    import vl_convert

    return vl_convert.vegalite_to_svg(picture_spec(chart, title, caption)).encode()


def plot_svg(chart: alt.TopLevelMixin, clean: Callable[[Any], Any] = lambda spec: spec) -> str:
    """The chart alone as SVG, for a page that has its title and caption already.

    Args:
        chart: any of `dmcore.charts`.
        clean: what is done to its spec first.
    """
    import vl_convert

    spec = chart.to_dict(validate=False)
    _fix_width(spec)
    spec["config"] = PICTURE_CONFIG
    return vl_convert.vegalite_to_svg(clean(spec))


def png(chart: alt.TopLevelMixin, title: str, caption: str) -> bytes:
    """The chart as PNG, at twice the size of the page's."""
    import vl_convert

    return vl_convert.vegalite_to_png(picture_spec(chart, title, caption), scale=2)


def _fix_width(spec: dict[str, Any]) -> None:
    """Give a width to a chart that would fill its page."""
    columns = spec.get("hconcat")
    if columns:
        for column in columns:
            column["width"] = WIDTH // len(columns)
    else:
        spec["width"] = WIDTH
