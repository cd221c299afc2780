"""Runs: put a study together, start it, watch it, stop it, go on with it; and see and free the disk that results take."""

from __future__ import annotations

import streamlit as st

from dmcore.errors import DarkMatterError
from dmcore.store.disk import in_words, is_writable
from dmcore.store.store import default_root
from dmcore.ui.disk_panel import draw_disk
from dmcore.ui.job_panel import draw_error, draw_jobs
from dmcore.ui.page import enter_through_app
from dmcore.ui.study_builder import draw_builder
from dmcore.ui.study_start import draw_studies
from dmcore.words.names import plain

TABS = {
    "Jobs": (
        "What is running?",
        "Work runs in a process of its own, one job at a time on each device. Closing this page changes nothing.",
    ),
    "New study": ("What should be studied?", "Nothing is downloaded or computed before the study is started."),
    "Disk": ("What does the cache hold?", "What is deleted here is computed again when its study runs again."),
}
"""Heading and caption of the page by the tab that is open."""


def main() -> None:
    enter_through_app()
    head = st.container()
    with (
        st.container()
    ):  # there also where nothing is said: what comes and goes must not move the tabs, which would begin anew
        draw_error()
    started = st.session_state.pop("runs.started", None)
    if started:
        st.toast(f"{plain(started)} is in the queue.", icon=":material/play_arrow:")
    # Only the tab that is open is drawn, and the address names it.
    tabs = st.tabs(list(TABS), key="show", bind="query-params", on_change="rerun")
    title, caption = next((words for tab, words in zip(tabs, TABS.values(), strict=True) if tab.open), TABS["Jobs"])
    head.title(title, anchor=False)
    head.caption(caption)
    for tab, draw in zip(tabs, (_jobs, draw_builder, draw_disk), strict=True):
        if tab.open:
            with tab:
                try:
                    with in_words(default_root()):
                        draw()
                except DarkMatterError as error:
                    st.error(plain(str(error)), icon=":material/error:")


def _jobs() -> None:
    root, said = default_root(), st.container()
    if not is_writable(root):
        said.info(
            f"The cache in {plain(str(root))} can be read only: everything that is there is shown, and nothing can be computed.",
            icon=":material/lock:",
        )
    draw_jobs()
    draw_studies()


main()
