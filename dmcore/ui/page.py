"""The frame of every page: title, selection, link; and a sentence instead of a traceback where results are missing."""

from __future__ import annotations

import runpy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import streamlit as st
from streamlit.errors import StreamlitAPIException
from streamlit.runtime.pages_manager import PagesManager

from dmcore.errors import DarkMatterError
from dmcore.places import HOME
from dmcore.store.disk import in_words
from dmcore.store.store import default_root
from dmcore.ui import reads
from dmcore.ui.selection import Selection, choose, note_page, push
from dmcore.ui.sign_in import admitted, draw_gate
from dmcore.words.names import plain, sae_phrase, sentence, short
from dmcore.words.streams import site_phrase

APP = HOME / "app.py"
NARROW = """
@media (max-width: 1100px) {
  [data-testid="stMainBlockContainer"] { padding-left: 1.5rem; padding-right: 1.5rem; }
  [data-testid="stMain"] [data-testid="stHorizontalBlock"] { flex-wrap: wrap; }
  [data-testid="stMain"] [data-testid="stColumn"] { min-width: min(100%, 8rem); }
  [data-testid="stMain"] [data-testid="stColumn"]:has([data-testid="stVegaLiteChart"]) { min-width: min(100%, 24rem); }
}
"""
"""In a narrow window columns go below one another, as Streamlit does by itself on a telephone only: a chart of a few
centimetres says nothing."""


@contextmanager
def page(title: str, own: Sequence[str] = ()) -> Iterator[Selection | None]:
    """Draw a page's frame around its content.

    Args:
        title: heading of the page.
        own: link parameters of this page alone, besides the sidebar's.

    Yields:
        the selection; None where nothing can be shown, and the reason has been.
    """
    enter_through_app()
    st.title(title, anchor=False)
    try:
        with in_words(default_root()):
            selection = choose(own)
        where, what = site_phrase(selection.record), sae_phrase(selection.record)
        model = getattr(selection.published, "model", "")
        # A local folder's name says little; an id, or what was done to the weights, says what the numbers are of.
        of_model = f" · {plain(short(model))}" if "/" in model or "(" in model else ""
        st.caption(f"{plain(short(selection.published.title))}{of_model} · {where[0].upper()}{where[1:]} · {what}")
        _missing(selection)
    except DarkMatterError as error:
        _explain(error)
        yield None
        return
    try:
        with in_words(default_root()):
            yield selection
    except DarkMatterError as error:
        _explain(error)
    push(own)


def enter_through_app() -> None:
    """Run `app.py` around a page that Streamlit has started alone; and show it only to those who may see it.

    Until `st.navigation` has run once in the server's life, Streamlit takes a folder called `pages` for a list of its own,
    and gives the very first visitor of a page's address that page without the app.
    """
    if PagesManager.uses_pages_directory:
        runpy.run_path(str(APP))
        st.stop()
    if not admitted():
        draw_gate()
        st.stop()
    st.html(f"<style>{NARROW}</style>")
    note_page()


def _missing(selection: Selection) -> None:
    n_missing = getattr(selection.published, "n_missing", 0)
    if n_missing > 0:
        some = "1 of the study's SAEs has" if n_missing == 1 else f"{n_missing:,} of the study's SAEs have"
        file = "demo" if selection.study_id == "demo" else "STUDY.toml"
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(
                f":material/hourglass: {some} no result yet: start the study on Runs, or run `python -m dmcore sweep {file}`.",
                width="content",
            )
            _to_runs()


def _explain(error: DarkMatterError) -> None:
    st.info(sentence(str(error)), icon=":material/inbox:")
    with st.container(horizontal=True, vertical_alignment="center"):
        _to_runs()
        again = st.button("Look again", icon=":material/refresh:")
    if again:
        reads.forget()
        st.rerun()


def _to_runs() -> None:
    with suppress(StreamlitAPIException):  # a page that was started without the app has no other to go to
        st.page_link("pages/runs.py", label="Runs", icon=":material/play_circle:", width="content")
