"""A button that has the worker look into one SAE, and how far that is: under the empty state of a view that it fills."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from dmcore.errors import DarkMatterError
from dmcore.run.jobs.job import FAILED, Job
from dmcore.run.jobs.queue import Queue
from dmcore.specs import load_study
from dmcore.store.disk import in_words
from dmcore.ui import actions, reads
from dmcore.ui.job_panel import numbers_of
from dmcore.ui.sign_in import admitted, why_not
from dmcore.ui.study_start import study_files
from dmcore.words.names import plain

if TYPE_CHECKING:
    from dmcore.store.published import Published

POLL_SECONDS = 1.5
_ERROR = "look.error"


MAKES = {
    "inspect": "features, structure and detection scores of this SAE",
    "reduce": "this comparison",
    "downstream": "these numbers",
    "shrinkage": "this ladder",
    "transfer": "the matrices of this SAE",
    "controls": "the controls of this SAE's numbers",
    "synthetic": "this experiment",
}
"""What a job of each kind makes."""


def draw_look_button(study_id: str, sae: str, is_there: Callable[[Published], bool], kind: str = "inspect") -> None:
    """Offer to make what is missing of an SAE; nothing where the study's file is not known here.

    Args:
        study_id: the study's name.
        sae: the SAE's.
        kind: of the job that makes it, of `MAKES`.
        is_there: whether what the view shows has been made, which may be before the job ends.
    """
    if error := st.session_state.pop(_ERROR, None):
        st.error(plain(error), icon=":material/error:")
    queue = Queue()
    try:
        jobs = queue.jobs()
        path = file_of(study_id, queue, jobs)
    except DarkMatterError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return
    if path is None:
        return
    mine = [job for job in jobs if (job.kind, job.path, job.target) == (kind, str(path), sae)]
    if any(job.active for job in mine):
        _watch(mine[0].id, study_id, is_there)
        return
    if mine and mine[0].error:  # one that is done may have left out what could not be had
        box = st.error if mine[0].state == FAILED else st.warning
        box(plain(mine[0].error), icon=":material/error:")
    grey = why_not()
    st.button(
        "Make it now", icon=":material/play_arrow:", key="look.start", on_click=_start, args=(kind, path, sae),
        disabled=grey is not None, help=grey,
    )  # fmt: skip
    st.caption(
        f"The worker makes {MAKES[kind]}, for a small one in a minute or two. It goes on when the page is closed; *Runs* "
        "lists it."
    )


def file_of(study_id: str, queue: Queue, jobs: list[Job]) -> Path | None:
    """The file of a study by its name: one that the app offers, or that a job was asked for; None if there is none."""
    for path in dict.fromkeys([*study_files(queue), *(Path(job.path) for job in jobs)]):
        try:
            if load_study(path).name == study_id:
                return path
        except DarkMatterError:
            continue
    return None


def _start(kind: str, path: Path, sae: str) -> None:
    try:
        actions.submit(kind, path, target=sae)
    except (DarkMatterError, OSError) as error:
        st.session_state[_ERROR] = str(error)


@st.fragment(run_every=POLL_SECONDS)
def _watch(job_id: str, study_id: str, is_there: Callable[[Published], bool]) -> None:
    """How far a job is; the page is drawn again when what it waits for is there, or the job has ended."""
    if not admitted():  # a fragment runs without the app around it
        st.rerun()
    queue = Queue()
    try:
        with in_words(queue.root):
            job = queue.job(job_id)
            there = not job.active or is_there(reads.published(study_id))
    except DarkMatterError:
        st.rerun()  # the page says what is the matter
    if there:
        reads.forget()
        st.rerun()
    share = min(job.done / job.total, 1.0) if job.total else 0.0
    st.progress(share, text=plain(job.stage or "Waiting for the worker"))
    st.caption(" · ".join(numbers_of(job, time.time())))
    grey = why_not()
    st.button(
        "Cancel", icon=":material/close:", key="look.cancel", disabled=job.cancel or grey is not None, help=grey,
        on_click=_cancel, args=(job_id,),
    )  # fmt: skip


def _cancel(job_id: str) -> None:
    try:
        actions.cancel(job_id)
    except DarkMatterError as error:
        st.session_state[_ERROR] = str(error)
