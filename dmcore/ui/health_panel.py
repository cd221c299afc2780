"""How the host is, as the Health page shows it: redrawn by itself, one look shared by all who watch.

Names of jobs and hosts, errors and paths come from other programs: they are shown as text, never as Markdown or HTML.
"""

from __future__ import annotations

import time

import polars as pl
import streamlit as st

from dmcore.errors import DarkMatterError
from dmcore.progress import format_seconds
from dmcore.run.estimates.words import bytes_text
from dmcore.run.host.checks import FAIL, OK, WARN, Check
from dmcore.run.host.hangs import hang_words, next_workers_words, policy_of
from dmcore.run.host.health import Health, bytes_by_stage, look
from dmcore.run.jobs.heartbeat import ENDED, LATE_SECONDS, WORKING, Beat
from dmcore.run.jobs.job import INTERRUPTED, KINDS, Job
from dmcore.store.disk import in_words
from dmcore.store.store import default_root
from dmcore.ui.disk_panel import STAGES
from dmcore.ui.sign_in import admitted
from dmcore.words.names import ago_text, plain, sentence

EVERY = "5s"
"""How often the page looks again."""
LOOK_SECONDS, COUNT_SECONDS = 4, 120
"""For how long one look, and one count of the cache, serve all who watch."""
LOOKS = {
    OK: ("green", ":material/check_circle:"),
    WARN: ("orange", ":material/warning:"),
    FAIL: ("red", ":material/error:"),
}
STATES = {
    OK: "All is well",
    WARN: "It works, and something should be seen to",
    FAIL: "Something is broken",
}


FACTS = """
[class*="st-key-health-"] thead { display: none; }
[class*="st-key-health-"] table { width: 100%; }
[class*="st-key-health-"] table, [class*="st-key-health-"] tr, [class*="st-key-health-"] td { border: none !important; }
[class*="st-key-health-"] td { padding: 0.15rem 0.5rem 0.15rem 0; vertical-align: top; }
[class*="st-key-health-"] td:first-child { width: 38%; opacity: 0.65; }
"""
"""Facts as a list of names and values: tables without lines."""


@st.cache_resource(ttl=COUNT_SECONDS, max_entries=4, show_spinner=False)
def _stages(root: str) -> dict[str, int]:
    del root  # names the cache that was counted
    return bytes_by_stage(default_root())


@st.cache_resource(ttl=LOOK_SECONDS, max_entries=4, show_spinner=False)
def _look(root: str) -> Health:
    return look(default_root(), stages=_stages(root))


@st.fragment(run_every=EVERY)
def draw_health() -> None:
    """Draw everything that is known of the host."""
    if not admitted():  # a fragment runs without the app around it
        st.rerun()
    st.html(f"<style>{FACTS}</style>")
    try:
        with in_words(default_root()):
            health = _look(str(default_root()))
    except DarkMatterError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return
    checks = {check.name: check for check in health.checks()}
    _head(health, list(checks.values()))
    left, right = st.columns(2, gap="medium")
    with left.container(border=True, height="stretch", key="health-worker"):
        _title("Worker", checks["worker"], checks["hangs"])
        _workers(health)
    with right.container(border=True, height="stretch", key="health-queue"):
        _title("Queue", checks["queue"], checks["failures"])
        _queue(health)
    left, right = st.columns(2, gap="medium")
    with left.container(border=True, height="stretch", key="health-device"):
        _title("Device and memory", checks["device"], checks["memory"])
        _device(health)
    with right.container(border=True, height="stretch", key="health-versions"):
        _title("Versions")
        _versions(health)
    with st.container(border=True, key="health-disk"):
        _title("Disk of the cache", checks["disk"], checks["cache"])
        _disk(health)


def _head(health: Health, checks: list[Check]) -> None:
    colour, icon = LOOKS[health.state]
    age = max(time.time() - health.at, 0.0)
    when = "just now" if age < 2 else f"{age:.0f} s ago"
    with st.container(key=f"health-state-{health.state}"):
        st.markdown(f"### :{colour}[{icon}] {STATES[health.state]}")
    st.caption(
        f"Looked at {when}; the page looks again every {EVERY[:-1]} s. For a monitor: `python -m dmcore health --json`."
    )
    for check in sorted(checks, key=lambda check: check.state != FAIL):
        if check.state != OK:
            box = st.error if check.state == FAIL else st.warning
            box(f"**{plain(check.name.capitalize())}.** {plain(check.said)} {sentence(check.remedy)}")


def _title(name: str, *checks: Check) -> None:
    state = FAIL if any(c.state == FAIL for c in checks) else WARN if any(c.state == WARN for c in checks) else OK
    colour, icon = LOOKS[state]
    st.markdown(f"**{name}**" + (f" &ensp;:{colour}[{icon}]" if checks else ""))


def _rows(rows: list[tuple[str, str]]) -> None:
    """Facts as a table without a head."""
    body = "\n".join(f"| {name} | {value} |" for name, value in rows)
    st.markdown(f"| | |\n|---|---|\n{body}")


def _workers(health: Health) -> None:
    if not health.workers:
        st.caption("None has run here yet: the app starts one when a job is asked for.")
    for beat in health.workers:
        _worker(health, beat)
    if not health.living:
        _rows([("finding jobs that hang, by the next worker", plain(next_workers_words()))])


def _worker(health: Health, beat: Beat) -> None:
    age = beat.age(health.at)
    if beat.state == ENDED:
        alive = f"ended {ago_text(age)}, as it had nothing to do"
    elif age < LATE_SECONDS:
        alive = f"alive, said {age:.0f} s ago"
    else:
        alive = f"silent for {format_seconds(age)}"
    rows = [(plain(beat.lane), plain(alive))]
    job = next((job for job in health.running if job.id == beat.job), None)
    if beat.state == WORKING and job is not None:
        rows.append(("does", _job_words(job)))
        if job.updated is not None:
            rows.append(("last progress", plain(f"{format_seconds(max(health.at - job.updated, 0.0))} ago")))
        if beat.silent >= 30:
            rows.append(("no sign of life", plain(f"for {format_seconds(beat.silent)}")))
    elif beat.state != ENDED:
        rows.append(("does", "waits for a job"))
    if beat.state != ENDED:
        rows.append(("finding jobs that hang", plain(hang_words(policy_of(beat)))))
        rows.append(("began", plain(f"{ago_text(health.at - beat.started)}: process {beat.pid} on {beat.host}")))
    _rows(rows)


def _job_words(job: Job) -> str:
    target = f", {plain(job.target)}" if job.target else ""
    return f"{KINDS.get(job.kind, plain(job.kind))} of {plain(job.study)}{target}: {plain(job.stage)}"


def _queue(health: Health) -> None:
    if health.queue_error:
        st.error(plain(health.queue_error))
        return
    waiting = health.waiting
    again = sum(job.state == INTERRUPTED for job in waiting)
    rows = [
        ("running", f"{len(health.running)}"),
        ("waiting", f"{len(waiting)}" + (f" ({again} to go on with)" if again else "")),
    ]
    if waiting:
        rows.append(
            ("oldest waits", plain(f"for {format_seconds(health.at - waiting[0].created)}: {waiting[0].study}"))
        )
    failed = health.failed_lately
    rows.append(("failed in the last day", f"{len(failed)}"))
    if failed:
        when = ago_text(health.at - (failed[0].ended or health.at))
        rows.append(("the last", f"{plain(failed[0].study)}, {plain(when)}"))
    _rows(rows)
    st.page_link("pages/runs.py", label="Runs", icon=":material/play_circle:", width="content")


def _device(health: Health) -> None:
    rows = []
    for gpu in health.gpus:
        busy = "" if gpu.busy is None else f", {gpu.busy:.0%} busy"
        heat = "" if gpu.celsius is None else f", {gpu.celsius:.0f} °C"
        used = f"{bytes_text(gpu.used)} of {bytes_text(gpu.memory)} in use{busy}{heat}"
        rows.append((plain(gpu.name), plain(used)))
    if health.gpus:
        rows.append(("driver", plain(health.gpus[0].driver)))
    for note in health.devices:
        name = str(note.get("name") or f"CPU, {note.get('threads', '?')} threads")
        built = f"CUDA {note['cuda']}" if note.get("cuda") else "no CUDA"
        rows.append(
            (
                f"{plain(str(note.get('lane', '?')))}, as a job saw it",
                plain(f"{name}; torch {note.get('torch', '?')}, {built}"),
            )
        )
    if not health.gpus:
        rows.insert(0, ("GPU", "none here; jobs run on the CPU"))
    used = health.memory.total - health.memory.free
    rows.append(("memory", plain(f"{bytes_text(used)} of {bytes_text(health.memory.total)} in use")))
    _rows(rows)


def _versions(health: Health) -> None:
    st.markdown(" · ".join(f"{plain(name)} {plain(version)}" for name, version in health.versions.items()))
    st.caption("`python -m dmcore doctor` compares them with what was tested, and checks the rest of the host.")


def _disk(health: Health) -> None:
    used = sum(health.by_stage.values())
    free = "an unknown part" if health.disk_free is None else bytes_text(health.disk_free)
    st.caption(
        f"**{free}** of {bytes_text(health.disk_total)} are free. The cache in {plain(str(health.root))} holds "
        f"**{bytes_text(used)}**; *Runs*, *Disk* deletes what can be made again."
    )
    if not health.by_stage:
        return
    table = pl.DataFrame(
        [
            {"stage": stage, "share": 100 * size / used, "size": bytes_text(size), "what": STAGES.get(stage, "")}
            for stage, size in health.by_stage.items()
        ]
    )
    st.dataframe(
        table,
        hide_index=True,
        height=min(38 + 35 * len(table), 320),
        column_config={
            "stage": st.column_config.TextColumn("Stage", width="small"),
            "share": st.column_config.ProgressColumn("Of the cache", format="%.0f %%", min_value=0, max_value=100),
            "size": st.column_config.TextColumn("Size", width="small"),
            "what": st.column_config.TextColumn("What it is", width="large"),
        },
    )
