"""A chart with the question that it answers, its caption and its data: what a page, a picture and a report show of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import altair as alt
import polars as pl


@dataclass(frozen=True)
class Figure:
    """Everything that a chart is shown with."""

    name: str
    """File name of the downloads, without its ending; also the chart's key on the page."""
    key: tuple[str, ...]
    """What the chart is made of: keys of summaries, and choices. The same key must always mean the same chart."""
    question: str
    """Title: the question that the chart answers."""
    caption: str
    """Formula, n and split, in plain text, so that the page and the picture can both have it."""
    chart: Callable[[], alt.LayerChart]
    """Builds the chart."""
    data: Callable[[], pl.DataFrame]
    """Builds the table that the chart draws, for download."""
    hint: str = ""
    """What a click or the pointer does on a page: said there, after the caption, and in no picture or report."""
