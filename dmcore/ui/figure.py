"""A chart on a page: the question it answers, the chart, a caption, and a menu that downloads data and picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import altair as alt
import polars as pl
import streamlit as st

from dmcore.charts import picture


@dataclass(frozen=True)
class Figure:
    """Everything that a chart is shown with."""

    question: str
    """Title: the question that the chart answers."""
    chart: alt.TopLevelMixin
    caption: str
    """Formula, n and split, in plain text, so that the page and the picture can both have it."""
    data: pl.DataFrame
    """What the chart draws, for download."""
    name: str
    """File name of the downloads, without its ending; also the chart's key on the page."""


def draw(figure: Figure, *, level: int = 3) -> None:
    """Draw a figure where it is called, its question as a heading of `level` (3, or 4 under another heading)."""
    with st.container(horizontal=True, wrap=False, vertical_alignment="center", gap="small"):
        st.markdown(f"{'#' * level} {figure.question}")
        download_menu(figure)
    st.altair_chart(figure.chart, width="stretch", key=f"chart.{figure.name}", alt=figure.question)
    st.caption(figure.caption)


def download_menu(figure: Figure) -> None:
    """Data and picture of a figure. Pictures are drawn when they are clicked, not before."""
    kinds: list[tuple[str, str, str, Callable[[], bytes]]] = [
        ("Data (CSV)", "csv", "text/csv", lambda: figure.data.write_csv().encode()),
        ("Picture (SVG)", "svg", "image/svg+xml", lambda: picture.svg(figure.chart, figure.question, figure.caption)),
        ("Picture (PNG)", "png", "image/png", lambda: picture.png(figure.chart, figure.question, figure.caption)),
    ]
    with st.popover("", icon=":material/download:", type="tertiary", help="Download the data or the picture"):
        for label, ending, mime, make in kinds:
            st.download_button(
                label,
                make,
                file_name=f"{figure.name}.{ending}",
                mime=mime,
                key=f"download.{figure.name}.{ending}",
                on_click="ignore",
                type="tertiary",
            )
