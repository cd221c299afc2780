"""The plan of a study before it starts: what it would read, hold, write and take on this machine, beside what is free."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from dmcore.errors import DarkMatterError
from dmcore.run.estimates.machine import Machine, gpu_here, machine_of_gpu
from dmcore.run.estimates.words import bytes_text
from dmcore.run.jobs.job import lane_of
from dmcore.run.jobs.queue import Queue
from dmcore.specs import Study
from dmcore.store.disk import nearest
from dmcore.words.names import plain

MARGIN = 1.1
"""Disk that must be free, over the estimate."""
GPUS = Path("/proc/driver/nvidia/gpus")


def draw_plan(study: Study) -> bool:
    """What a study would take, beside what is free; or what would stop it as soon as it starts: then False."""
    from dmcore.run.estimates.estimate import describe, estimate_study
    from dmcore.run.estimates.feasible import check_feasible

    try:
        check_feasible(study)
    except DarkMatterError as error:
        st.error(f"It cannot run as it is. {plain(str(error))}", icon=":material/error:")
        return False

    try:
        estimate = estimate_study(study, machine=this_machine())
        rows = describe(estimate)
    except DarkMatterError as error:
        st.info(
            f"What it takes cannot be said beforehand: {plain(str(error))} It can be started all the same.",
            icon=":material/help:",
        )
        return True
    st.markdown(_table([(label, value) for label, value in rows if not label.startswith(" ")]))
    if not estimate.fits:
        st.warning(
            "It needs more memory than the device has: take narrower SAEs, a smaller model or number format, or run it on "
            "another machine.",
            icon=":material/memory:",
        )
    _disk_verdict(estimate.disk_bytes, estimate.download_bytes)
    with st.expander("Details and assumptions", key=f"assumptions.{study.name}", type="compact"):
        st.markdown(_table(rows))
        st.markdown("\n".join(f"- {plain(sentence)}" for sentence in estimate.assumptions))
    return True


def this_machine() -> Machine:
    """The device on which the worker would run, without asking torch."""
    if lane_of("auto") == "cpu":
        return Machine("cpu")
    found = gpu_here()
    if found is not None:
        return machine_of_gpu(*found)
    for note in sorted(GPUS.glob("*/information")):
        try:
            lines = note.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
        return machine_of_gpu(models[0] if models else "this GPU", None)
    return Machine()


def _table(rows: Sequence[tuple[str, str]]) -> str:
    body = [f"| {plain(label.strip())} | {plain(value)} |" for label, value in rows]
    return "\n".join(["| It would take | about |", "|---|---|", *body])


def _disk_verdict(needed: int, download: int) -> None:
    """Whether the cache's disk holds the results, and that of the downloads the downloads: they may be one."""
    cache = nearest(Queue().root)
    hub = nearest(Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser())
    if cache.stat().st_dev == hub.stat().st_dev:
        wants = [("The cache and the downloads", needed + download, cache)]
    else:
        wants = [("The cache", needed, cache), ("The downloads", download, hub)]
    for what, size, folder in wants:
        free = shutil.disk_usage(folder).free
        if size * MARGIN > free:
            st.error(
                f"{what} would need {bytes_text(size)}, and {bytes_text(free)} of the disk are free: take fewer contexts or "
                "SAEs, or free space under *Disk*.",
                icon=":material/hard_drive:",
            )
        else:
            st.caption(f":material/hard_drive: {what}: {bytes_text(size)} of {bytes_text(free)} that are free.")
