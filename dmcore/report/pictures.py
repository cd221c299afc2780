"""Charts as SVG inside one document: of a fixed width, with no script, no address, and ids of their own."""

from __future__ import annotations

import re

from dmcore.charts.picture import plot_svg
from dmcore.figures.figure import Figure
from dmcore.legible import cleaned
from dmcore.report.escape import escape, unmarked

_ID = re.compile(r'(?<=\bid=")[^"]+(?=")')
_USED = re.compile(r'(?P<before>url\(["\']?#|href="#)(?P<id>[^)"\']+)')
_SPOKEN = re.compile(r' (?:aria-[a-z]+|role)="[^"]*"')
_SHAPE = re.compile(r'(?<= d=")[^"]*(?=")|(?<= transform=")[^"]*(?=")')
_LONG = re.compile(r"-?\d+\.\d{2,}")
_IDLE = re.compile(r' (?:class|pointer-events|font-family|opacity|text-anchor|font-weight)="'
                   r'(?:mark-[^"]*|background|foreground|none|[^"]*sans-serif|1|start|normal)"')  # fmt: skip
"""Attributes that say nothing here: the document's style names the font."""
_DOT = re.compile(
    r'<path( [^>]*?)?transform="translate\((-?[\d.]+),(-?[\d.]+)\)" d="M([\d.]+),0A\4,\4,0,1,1,-\4,0A\4,\4,0,1,1,\4,0"'
)
"""A circle, as the renderer writes it."""


def inline_svg(figure: Figure, prefix: str) -> str:
    """A figure's chart as an `<svg>` element.

    Args:
        figure: whose table must not be empty.
        prefix: of its ids, so that no two pictures of a document share one. They are counted anew: the renderer counts on
            through its life, and the same chart must be the same bytes.
    """
    svg = plot_svg(figure.chart(), cleaned)
    svg = _IDLE.sub(
        "", _SPOKEN.sub("", svg[svg.index("<svg") :])
    )  # a picture is one image: its caption and the tables say the rest
    svg = _SHAPE.sub(lambda shape: _LONG.sub(_short, shape[0]), svg)
    svg = _DOT.sub(lambda m: f'<circle{m[1] or " "}cx="{m[2]}" cy="{m[3]}" r="{m[4]}"', svg)
    names = {old: f"{prefix}-{k}" for k, old in enumerate(dict.fromkeys(_ID.findall(svg)))}
    svg = _ID.sub(lambda m: names[m[0]], svg)
    svg = _USED.sub(lambda m: m["before"] + names.get(m["id"], m["id"]), svg)
    label = escape(unmarked(figure.question or figure.name.replace("_", " ")))
    svg = svg.replace('xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace(
        'xmlns="http://www.w3.org/2000/svg"', ""
    )
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _short(found: re.Match[str]) -> str:
    """A length to a tenth of a pixel."""
    return f"{float(found[0]):.1f}".removesuffix(".0")
