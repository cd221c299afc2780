"""The frame of every page: title, selection, link; and a sentence instead of a traceback where results are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import streamlit as st

from dmcore.errors import DarkMatterError
from dmcore.ui import reads
from dmcore.ui.selection import Selection, choose, push
from dmcore.ui.words import plain, sae_phrase, site_phrase


@contextmanager
def page(title: str, own: Sequence[str] = ()) -> Iterator[Selection | None]:
    """Draw a page's frame around its content.

    Args:
        title: heading of the page.
        own: link parameters of this page alone, besides the sidebar's.

    Yields:
        the selection; None where nothing can be shown, and the reason has been.
    """
    st.title(title, anchor=False)
    try:
        selection = choose(own)
        where, what = site_phrase(selection.record), sae_phrase(selection.record)
        st.caption(f"{plain(selection.published.title)} · {where[0].upper()}{where[1:]} · {what}")
        _missing(selection)
    except DarkMatterError as error:
        _explain(error)
        yield None
        return
    try:
        yield selection
    except DarkMatterError as error:
        _explain(error)
    push(own)


def _missing(selection: Selection) -> None:
    n_missing = getattr(selection.published, "n_missing", 0)
    if n_missing > 0:
        remedy = f"`python -m dmcore sweep {selection.study_id if selection.study_id == 'demo' else 'STUDY.toml'}`"
        st.caption(
            f":material/hourglass: {n_missing} of the study's SAEs have no result yet: run {remedy} to add them."
        )


def _explain(error: DarkMatterError) -> None:
    st.info(str(error), icon=":material/inbox:")
    if st.button("Look again", icon=":material/refresh:"):
        reads.forget()
        st.rerun()
