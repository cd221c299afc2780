"""A chart on a page: the question it answers, the chart, a caption, and a menu that downloads data and picture.

Charts are built once per result and kept as finished specs: results never change under their key, and building a chart
costs more than everything else on a page together. Pictures and data files are made when they are clicked, not before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl
import streamlit as st

from dmcore.charts import picture
from dmcore.figures.figure import Figure
from dmcore.legible import cleaned
from dmcore.ui.sign_in import once_admitted


@dataclass(frozen=True)
class Pick:
    """What a click on a chart does."""

    selection: str
    """Name of the chart's point selection."""
    field: str
    """Field of the point that is clicked."""
    act: Callable[[Any], None]
    """Called with the field's value, before the page is drawn again."""


def draw(figure: Figure, *, level: int = 3, pick: Pick | None = None) -> None:
    """Draw a figure where it is called.

    Args:
        figure: what to draw.
        level: of its question as a heading: 3, or 4 under another heading; 0 where the page has said it already, above the
            controls of the chart, so that only a downloaded picture has it.
        pick: what a click does; None for a chart that cannot be clicked.
    """
    if figure.question and level:
        st.markdown(f"{'#' * level} {figure.question}")
    spec = _finished_spec(figure.name, figure.key, figure)
    if spec is None:
        st.info(
            "This SAE's results have no rows for this chart: sweep the study again to make them.",
            icon=":material/inbox:",
        )
        return
    clicks: dict[str, Any] = {}
    if pick is not None:
        clicks = {"on_select": lambda: _picked(figure.name, pick), "selection_mode": pick.selection}
    st.vega_lite_chart(
        None, spec, width="stretch", key=f"chart.{figure.name}", alt=figure.question or figure.caption, **clicks
    )
    # The menu is below the chart: above it, Streamlit's own toolbar would cover it.
    with st.container(horizontal=True, wrap=False, vertical_alignment="top"):
        st.caption(f"{figure.caption} {figure.hint}".strip())
        _download_menu(figure)


def _picked(name: str, pick: Pick) -> None:
    """The callback of a click. What comes from the browser is only ever compared with what exists, by `pick.act`."""
    state = st.session_state.get(f"chart.{name}")
    points = state["selection"].get(pick.selection) if state else None
    if points and pick.field in points[0]:
        pick.act(points[0][pick.field])


@st.cache_resource(max_entries=2000, show_spinner=False)
def _finished_spec(name: str, key: tuple[str, ...], _figure: Figure) -> dict[str, Any] | None:
    """The chart's spec, its data as Arrow tables; None if it has none. Not validated here: the tests validate every chart."""
    del name, key
    if not len(_figure.data()):
        return None
    spec = cleaned(_figure.chart().to_dict(validate=False))
    spec["datasets"] = {
        data: pl.DataFrame(rows, infer_schema_length=None).to_arrow() for data, rows in spec.get("datasets", {}).items()
    }
    return spec


def _download_menu(figure: Figure) -> None:
    caption = figure.caption.replace("\\", "")  # a picture is no Markdown: nothing in it is escaped
    kinds: list[tuple[str, str, str, Callable[[], bytes]]] = [
        ("Data (CSV)", "csv", "text/csv", lambda: figure.data().write_csv().encode()),
        ("Picture (SVG)", "svg", "image/svg+xml", lambda: picture.svg(figure.chart(), figure.question, caption)),
        ("Picture (PNG)", "png", "image/png", lambda: picture.png(figure.chart(), figure.question, caption)),
    ]
    with st.popover(
        "",
        icon=":material/download:",
        type="tertiary",
        help="Download the data or the picture",
        key=f"menu-{figure.name}",
    ):
        for label, ending, mime, make in kinds:
            st.download_button(
                label,
                once_admitted(make),
                file_name=f"{figure.name}.{ending}",
                mime=mime,
                key=f"download.{figure.name}.{ending}",
                on_click="ignore",
                type="tertiary",
            )
