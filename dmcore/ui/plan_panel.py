"""The plan of a study before it starts: what it would read, hold, write and take, beside what is free."""

from __future__ import annotations

import shutil

import streamlit as st

from dmcore.errors import DarkMatterError
from dmcore.run.estimate_words import bytes_text
from dmcore.run.queue import Queue
from dmcore.specs import Study
from dmcore.ui.words import plain

MARGIN = 1.1
"""Disk that must be free, over the estimate."""


def draw_plan(study: Study) -> None:
    """What a study would take, beside what is free."""
    from dmcore.run.estimate import describe, estimate_study

    try:
        estimate = estimate_study(study)
        rows = describe(estimate)
    except DarkMatterError as error:
        st.info(
            f"What it takes cannot be said beforehand: {plain(str(error))} It can be started all the same.",
            icon=":material/help:",
        )
        return
    main = [(label, value) for label, value in rows if not label.startswith(" ")]
    lines = ["| | |", "|---|---|", *(f"| {plain(label)} | {plain(value)} |" for label, value in main)]
    st.markdown("\n".join(lines))
    with st.expander("Details and assumptions", key="builder.assumptions"):
        st.markdown("\n".join(["| | |", "|---|---|", *(f"| {plain(a.strip())} | {plain(b)} |" for a, b in rows)]))
        st.markdown("\n".join(f"- {plain(sentence)}" for sentence in estimate.assumptions))
    _disk_verdict(estimate.disk_bytes)


def _disk_verdict(needed: int) -> None:
    root = Queue().root
    free = shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free
    if needed * MARGIN > free:
        st.error(
            f"The cache would need {bytes_text(needed)}, and {bytes_text(free)} of its disk are free: take fewer contexts or "
            "SAEs, or free space under *Disk*.",
            icon=":material/hard_drive:",
        )
    else:
        st.caption(
            f":material/hard_drive: {bytes_text(free)} of the cache's disk are free; downloads go to the Hugging Face cache."
        )
