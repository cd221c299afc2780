"""Jobs as the Runs page shows them: what waits and runs, redrawn every second, and what has ended.

The list asks the queue, so two browsers see the same; it holds nothing of its own. Titles, stages, errors and log lines come
from study files and from other programs: they are shown as text, never as Markdown or HTML.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import streamlit as st

from dmcore.errors import DarkMatterError
from dmcore.legible import visible
from dmcore.progress import format_seconds
from dmcore.run.estimates.words import bytes_text
from dmcore.run.jobs import worker
from dmcore.run.jobs.files import tail
from dmcore.run.jobs.job import (
    CANCELLED,
    DONE,
    FAILED,
    INTERRUPTED,
    KINDS,
    RUNNING,
    TO_TAKE,
    WAITING,
    Job,
    check_job_id,
)
from dmcore.run.jobs.queue import Queue, active_jobs
from dmcore.store.disk import in_words
from dmcore.store.store import default_root
from dmcore.ui import actions
from dmcore.ui.sign_in import admitted, why_not
from dmcore.words.names import ago_text, plain, short

EVERY = "1s"
"""How often active jobs are drawn again."""
EVERY_AT_REST = "5s"
"""How often a page on which nothing is active looks whether another browser, or a command, has started something."""
ENDED_SHOWN = 12
OPENED = "job"
"""Link parameter: the job whose log is open."""
_SEEN = "jobs.active"
LOOKS = {
    WAITING: ("Waiting", "gray", ":material/schedule:"),
    RUNNING: ("Running", "blue", ":material/play_circle:"),
    INTERRUPTED: ("Interrupted", "orange", ":material/restart_alt:"),
    DONE: ("Done", "green", ":material/check_circle:"),
    FAILED: ("Failed", "red", ":material/error:"),
    CANCELLED: ("Cancelled", "orange", ":material/stop_circle:"),
}


def draw_jobs() -> None:
    """Draw all jobs, from one look: a job that changes its state meanwhile is on one list, and on no second one. The active ones
    are redrawn by themselves, and a page at rest sees what others start."""
    queue = Queue()
    found = _look(queue)
    jobs = found[1]
    st.session_state[_SEEN] = [job.id for job in active_jobs(jobs)]
    st.fragment(_active, run_every=EVERY if st.session_state[_SEEN] else EVERY_AT_REST)([found])
    _ended([job for job in jobs if not job.active])
    for path in queue.damaged():
        st.caption(
            f":material/info: A list of jobs that could not be read was moved to {plain(str(path))}; results are untouched."
        )


def _look(queue: Queue) -> tuple[str, list[Job]]:
    """What is wrong with the workers, or nothing; and all jobs, once each has a worker."""
    wrong = ""
    try:
        worker.attend(queue)
    except DarkMatterError as error:
        wrong = str(error)
    return wrong, queue.jobs()


def _active(first: list[tuple[str, list[Job]]]) -> None:
    """The fragment: everything in it is drawn anew by the clock; `first` holds the look of the page around it, once."""
    if not admitted():  # it runs without the app around it
        st.rerun()
    queue = Queue()
    try:
        with in_words(queue.root):
            wrong, found = first.pop() if first else _look(queue)
    except DarkMatterError:
        st.rerun()  # the page says what is the matter
    jobs = active_jobs(found)
    if [job.id for job in jobs] != st.session_state.get(_SEEN):
        # One has come or ended: the lists below must know, and the clock may have to change.
        st.session_state[_SEEN] = [job.id for job in jobs]
        st.rerun()
    said = st.container()  # always there, so that what is said moves nothing below it
    if wrong:
        said.warning(plain(wrong), icon=":material/warning:")
    if not jobs:
        st.info(
            "Nothing is running. Start a study below, or put one together under *New study*.", icon=":material/inbox:"
        )
    for job in jobs:
        with st.container(border=True, key=f"job-{job.id}"):
            _draw_active(queue, job, jobs)


def _draw_active(queue: Queue, job: Job, jobs: list[Job]) -> None:
    head, buttons = st.columns([3, 2], vertical_alignment="center")
    _head(job, head)
    with buttons.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center"):
        _log_button(job)
        stopping, grey = job.cancel, why_not()
        st.button(
            "Stopping" if stopping else "Cancel",
            icon=":material/stop:",
            key=f"cancel.{job.id}",
            disabled=stopping or grey is not None,
            help=grey,
            on_click=_do,
            args=(actions.cancel, job.id),
        )
    if job.note:
        st.caption(f":material/history: {plain(job.note)}")
    if job.state in TO_TAKE:
        st.caption(_waiting_words(job, jobs))
    else:
        share = min(job.done / job.total, 1.0) if job.total else 0.0
        st.progress(share, text=plain(job.stage))
        st.caption(" · ".join(numbers_of(job, time.time())))
    _log(queue, job)


def numbers_of(job: Job, now: float) -> list[str]:
    """What a running job says of itself: `12,000 of 72,000 tokens`, `8,100 tokens/s`, `7 s left in this stage`, ..."""
    said = []
    if job.total:
        said.append(f"{job.done:,} of {job.total:,} {job.unit}")
    if job.rate > 0 and job.unit:
        said.append(f"{_rate(job.rate)} {job.unit}/s")
    if job.seconds_left is not None:
        said.append(f"{format_seconds(job.seconds_left)} left in this stage")
    if job.saes_total:
        said.append(f"{job.saes_done} of {job.saes_total} SAEs have results")
    if job.all_seconds_left is not None:
        said.append(f"about {format_seconds(job.all_seconds_left)} left in all")
    elapsed = job.seconds(now)
    if elapsed is not None:
        said.append(f"running for {format_seconds(elapsed)}")
    if job.memory:
        said.append(f"memory {bytes_text(job.memory)}")
    if job.gpu_memory:
        said.append(f"GPU memory {bytes_text(job.gpu_memory)}")
    return [plain(text) for text in said]


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _waiting_words(job: Job, jobs: list[Job]) -> str:
    before = sum(other.lane == job.lane for other in jobs[: jobs.index(job)])
    if before:
        return f"{before} job{'s' if before > 1 else ''} of the same device before it ({plain(job.lane)})."
    again = " It goes on where it was interrupted." if job.attempt > 1 else ""
    return f"The worker is starting: this takes a few seconds.{again}"


def _head(job: Job, place: Any) -> None:
    name, colour, icon = LOOKS[job.state]
    kind = "" if job.kind == "sweep" else f"{KINDS[job.kind]}: "
    of = f" · {plain(job.target)}" if job.target else ""
    by = f" · for {plain(job.asked_by)}" if job.asked_by else ""
    place.markdown(f":{colour}-badge[{icon} {name}] &ensp;**{kind}{plain(short(job.title))}**{of}{by}")


def _ended(jobs: list[Job]) -> None:
    if not jobs:
        return
    st.subheader("Ended", anchor=False)
    opened = opened_job()
    shown = [job for i, job in enumerate(jobs) if i < ENDED_SHOWN or job.id == opened]
    for job in shown:
        with st.container(border=True, key=f"job-{job.id}"):
            _draw_ended(Queue(), job)
    if len(jobs) > len(shown):
        st.caption(f"{len(jobs) - len(shown)} older ones: `python -m dmcore jobs ls` lists them.")


def _draw_ended(queue: Queue, job: Job) -> None:
    head, buttons = st.columns([3, 2], vertical_alignment="center")
    _head(job, head)
    with buttons.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center"):
        _log_button(job)
        if job.saes_done or (job.state == DONE and job.kind == "sweep"):
            st.page_link(
                "pages/overview.py",
                label="Show results",
                icon=":material/donut_large:",
                query_params={"study": job.study},
            )
        if job.state != DONE or job.error:
            _button(job, "Resume" if job.state == CANCELLED else "Retry", ":material/replay:", actions.retry)
        _button(job, "Remove", ":material/close:", actions.remove)
    st.caption(" · ".join(_ended_words(job)))
    if job.error:
        box = st.warning if job.state == DONE else st.error
        box(plain(job.error))
    _log(queue, job)


def _ended_words(job: Job) -> list[str]:
    now, said = time.time(), []
    if job.saes_total:
        said.append(f"{job.saes_done} of {job.saes_total} SAEs have results")
    if job.ended is not None:
        said.append(f"ended {ago_text(now - job.ended)}")
    took = job.seconds(now)
    if took is not None:
        said.append(f"ran for {format_seconds(took)}")
    if job.attempt > 1:
        said.append(f"attempt {job.attempt}")
    if job.state == CANCELLED:
        said.append("what it had finished is kept")
    return [plain(text) for text in said]


def _button(job: Job, label: str, icon: str, act: Callable[[str], Any]) -> None:
    grey = why_not()
    st.button(
        label, icon=icon, key=f"{label.lower()}.{job.id}", on_click=_do, args=(act, job.id), disabled=grey is not None, help=grey
    )  # fmt: skip


def _do(act: Callable[..., Any], *arguments: Any) -> None:
    """Do what a button says, as its callback; an error waits for the page to be drawn."""
    try:
        with in_words(default_root()):
            act(*arguments)
    except DarkMatterError as error:
        st.session_state["jobs.error"] = str(error)


def draw_error() -> None:
    """What the last button could not do, once."""
    error = st.session_state.pop("jobs.error", None)
    if error:
        st.error(plain(error), icon=":material/error:")


def opened_job() -> str:
    """The job that the link opens; empty if it names none."""
    try:
        return check_job_id(st.query_params.get(OPENED, ""))
    except DarkMatterError:
        return ""


def _log_button(job: Job) -> None:
    label = "Hide log" if opened_job() == job.id else "Log"
    st.button(
        label, icon=":material/article:", type="tertiary", key=f"log.{job.id}", on_click=_toggle_log, args=(job.id,)
    )


def _toggle_log(job_id: str) -> None:
    if opened_job() == job_id:
        st.query_params.pop(OPENED)
    else:
        st.query_params[OPENED] = job_id


def _log(queue: Queue, job: Job) -> None:
    if opened_job() != job.id:
        return
    lines = tail(queue.log_path(job.id), 15)
    st.code(visible("\n".join(lines)) if lines else "(no lines yet)", language=None, wrap_lines=True)
