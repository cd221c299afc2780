"""Runs: put a study together, start it, watch it, stop it, go on with it; and see and free the disk that results take."""

from __future__ import annotations

import streamlit as st

from dmcore.errors import DarkMatterError
from dmcore.ui.disk_panel import draw_disk
from dmcore.ui.job_panel import draw_error, draw_jobs
from dmcore.ui.page import enter_through_app
from dmcore.ui.study_builder import draw_builder
from dmcore.ui.study_start import draw_studies
from dmcore.ui.words import plain

TABS = ("Jobs", "New study", "Disk")


def main() -> None:
    enter_through_app()
    st.title("What is running?", anchor=False)
    st.caption(
        "Work runs in a process of its own, one job at a time on each device. Closing this page changes nothing."
    )
    draw_error()
    started = st.session_state.pop("runs.started", None)
    if started:
        st.toast(f"{plain(started)} is in the queue.", icon=":material/play_arrow:")
    # Only the tab that is open is drawn, and the address names it.
    tabs = st.tabs(TABS, key="show", bind="query-params", on_change="rerun")
    for tab, draw in zip(tabs, (_jobs, draw_builder, draw_disk), strict=True):
        if tab.open:
            with tab:
                try:
                    draw()
                except DarkMatterError as error:
                    st.error(plain(str(error)), icon=":material/error:")


def _jobs() -> None:
    draw_jobs()
    draw_studies()


main()
