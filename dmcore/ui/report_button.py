"""The buttons that make a report of the open study: made when they are clicked, by what `python -m dmcore report` runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from dmcore.run.queue import Queue
from dmcore.ui.look_job import file_of
from dmcore.ui.selection import Selection

if TYPE_CHECKING:
    from dmcore.report.build import Report


def draw_report_buttons(selection: Selection) -> None:
    """Draw them, with what they give."""
    study_id, sae, stamp = selection.study_id, selection.record["sae"], selection.published.computed
    st.subheader("Send this study to someone", anchor=False)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "Report (HTML)", lambda: report_bytes(study_id, sae, stamp), file_name=f"{study_id}.html", mime="text/html",
            key="report.html", on_click="ignore", icon=":material/description:",
        )  # fmt: skip
        st.download_button(
            "Tables and pictures (zip)", lambda: archive_bytes(study_id, sae, stamp), file_name=f"{study_id}.zip",
            mime="application/zip", key="report.zip", on_click="ignore", icon=":material/folder_zip:",
        )  # fmt: skip
    st.caption(
        "One file with the charts and numbers of the study, those of single SAEs for the one shown, formulae, the study file "
        "and the commands that make it again; it opens without network. Making it takes a while: "
        f"`python -m dmcore report {selection.published.file}` makes the same file."
    )


@st.cache_data(max_entries=4, show_spinner=False)
def report_bytes(study_id: str, sae: str, stamp: str) -> bytes:
    """The report as HTML; `stamp`: when the newest result was computed, so that a newer one makes another."""
    from dmcore.report.html import report_html

    del stamp
    return report_html(_report(study_id, sae)).encode()


@st.cache_data(max_entries=4, show_spinner=False)
def archive_bytes(study_id: str, sae: str, stamp: str) -> bytes:
    """Its tables and pictures as a zip."""
    from dmcore.report.archive import archive

    del stamp
    return archive(_report(study_id, sae))


def _report(study_id: str, sae: str) -> Report:
    from dmcore.report.build import build
    from dmcore.report.subject import open_subject

    queue = Queue()
    path = file_of(study_id, queue, queue.jobs())
    text = path.read_text(encoding="utf-8") if path is not None and path.is_file() else ""
    return build(open_subject(study_id, sae, text))
