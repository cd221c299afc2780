"""The button that makes a report of the open study, by what `python -m dmcore report` runs, in a process of its own.

A report takes a while. The page says how far it is, others' pages stay as quick as they were, and the same results around the
same SAE give it at once.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dmcore.errors import DarkMatterError
from dmcore.report.apart import HTML, TABLES, Making, results_stamp, start
from dmcore.report.sections.origin import NAMES
from dmcore.run.jobs.queue import Queue
from dmcore.store.store import Store
from dmcore.ui.look_job import file_of
from dmcore.ui.selection import Selection
from dmcore.ui.sign_in import admitted, once_admitted
from dmcore.words.names import plain

POLL_SECONDS = 1.0
MOST = 4
"""Reports that are kept."""
_ASKED = "report.asked"


def draw_report_buttons(selection: Selection) -> None:
    """Draw it, then how far the report is, then what there is to download."""
    study_id, sae = selection.study_id, selection.record["sae"]
    st.subheader("Send this study to someone", anchor=False)
    if st.session_state.get(_ASKED) != (study_id, sae):
        st.button(
            "Make the report", icon=":material/description:", key="report.make", on_click=_ask, args=(study_id, sae)
        )
    else:
        try:
            given = (study_id, sae, study_text(study_id), results_stamp(Store(), tuple(NAMES)), str(Store().root))
            _draw_made(given)
        except (DarkMatterError, OSError) as error:
            st.error(plain(str(error)), icon=":material/error:")
    st.caption(
        "One HTML file with the charts and numbers of the study, those of single SAEs for the one shown, formulae, the study "
        "file and the commands that make it again; it opens without network. And a zip of all tables and pictures. "
        f"`python -m dmcore report {selection.published.file}` makes the same files."
    )


def _ask(study_id: str, sae: str) -> None:
    st.session_state[_ASKED] = (study_id, sae)


def study_text(study_id: str) -> str:
    """The study's file; empty where it is not known here."""
    queue = Queue()
    path = file_of(study_id, queue, queue.jobs())
    return path.read_text(encoding="utf-8") if path is not None and path.is_file() else ""


@st.cache_resource(max_entries=MOST, show_spinner=False)
def making(study_id: str, sae: str, text: str, stamp: str, root: str) -> Making:
    """The report of these results, begun when it is first asked for; `stamp` names the results."""
    del stamp
    return start(study_id, sae, text, Path(root))


def _draw_made(given: tuple[str, str, str, str, str]) -> None:
    made = making(*given)
    if not made.ended:
        _watch(given)
        return
    if made.error:
        making.clear(*given)
        st.error(plain(made.error), icon=":material/error:")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "Report (HTML)", once_admitted(lambda: made.read(HTML)), file_name=f"{given[0]}.html", mime="text/html",
            key="report.html", on_click="ignore", icon=":material/description:",
        )  # fmt: skip
        st.download_button(
            "Tables and pictures (zip)", once_admitted(lambda: made.read(TABLES)), file_name=f"{given[0]}.zip",
            mime="application/zip", key="report.zip", on_click="ignore", icon=":material/folder_zip:",
        )  # fmt: skip


@st.fragment(run_every=POLL_SECONDS)
def _watch(given: tuple[str, str, str, str, str]) -> None:
    """How far the report is; the page is drawn again when it is there."""
    if not admitted():  # a fragment runs without the app around it
        st.rerun()
    made = making(*given)
    if made.ended:
        st.rerun()
    words, done, total = made.progress
    with st.spinner("Making the report", show_time=False):
        said = f"{plain(words)} ({done:,} of {total:,} charts)" if total else plain(words)
        st.progress(done / total if total else 0.0, text=said)
