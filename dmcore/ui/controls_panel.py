"""The view Controls of the page of that name: every control in a row, the learning curve, and the dictionaries compared."""

from __future__ import annotations

from contextlib import suppress
from shlex import quote

import polars as pl
import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.errors import StreamlitAPIException

from dmcore.figures.controls import (
    DICTIONARIES,
    DICTIONARY_WORDS,
    controls_figure,
    curve_figure,
    dictionary_rows,
    spectra_figure,
)
from dmcore.results import Controls
from dmcore.results.controls import PASSED, RULE_WORDS
from dmcore.ui import reads
from dmcore.ui.figure import draw
from dmcore.ui.look_job import draw_look_button
from dmcore.ui.missing import draw_missing
from dmcore.ui.sections import finding
from dmcore.ui.selection import Selection
from dmcore.ui.table import show_table
from dmcore.words.controls import controls_finding, count_sentence, shuffled_sentence
from dmcore.words.names import plain


def controls_view(selection: Selection, top: DeltaGenerator) -> None:
    """Every control: what it should be, what it is, and whether it passed."""
    found = reads.controls(selection.study_id, selection.record["summary_key"])
    if found is None:
        draw_no_controls(selection)
        return
    with top:
        finding(controls_finding(found))
    draw(controls_figure(found))
    if sentence := shuffled_sentence(found):
        st.markdown(sentence)
    _draw_notes(found)
    _draw_curves(found)
    _draw_dictionaries(found)
    draw(spectra_figure(found))
    _draw_rules(found)


def draw_no_controls(selection: Selection) -> None:
    """Say what runs the controls of this SAE."""
    command = f"controls {selection.published.file} {quote(selection.record['sae'])}"
    draw_missing("The controls of this SAE have", command)
    study_id, key = selection.study_id, selection.record["summary_key"]
    draw_look_button(
        study_id, selection.record["sae"], lambda published: published.controls(key) is not None, "controls"
    )


def draw_controls_line(selection: Selection) -> None:
    """One line beside an SAE's numbers: how many of its controls passed, with a way to them; nothing where there are none."""
    found = reads.controls(selection.study_id, selection.record["summary_key"])
    if found is None:
        return
    _, failed, undecided = found.counts
    icon = ":material/fact_check:" if not failed else ":material/rule:"
    more = f" {failed} did not." if failed else f" {undecided} undecided." if undecided else ""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"{icon} {count_sentence(found)}{more}", width="content")
        with suppress(StreamlitAPIException):  # a page that was started without the app has no other to go to
            st.page_link("pages/controls.py", label="Controls", icon=":material/arrow_forward:", width="content")


def _draw_notes(found: Controls) -> None:
    for row in found["controls"].filter(pl.col("verdict") != PASSED).to_dicts():
        if row["note"]:
            st.caption(f":material/info: **{plain(row['title'])}.** {plain(row['note'])}")
    for text in found["remarks"]["text"]:
        st.caption(f":material/info: {plain(text)}")


def _draw_curves(found: Controls) -> None:
    st.markdown("### Are there enough tokens?")
    for column, metric in zip(st.columns(2, gap="large"), ("r2_error", "fvu_nonlinear"), strict=True):
        with column:
            draw(curve_figure(found, metric), level=4)


def _draw_dictionaries(found: Controls) -> None:
    if len(found["dictionaries"]):
        st.markdown(f"### {DICTIONARIES}")
        show_table(dictionary_rows(found), hide_index=True)
        st.caption(DICTIONARY_WORDS)


def _draw_rules(found: Controls) -> None:
    with st.expander("What is done, and how each is judged", icon=":material/science:"):
        for row in found["controls"].to_dicts():
            st.markdown(
                f"- **{plain(row['title'])}.** {plain(row['what'])} {plain(row['why'])} Number: {plain(row['quantity'])}. "
                f"It has {RULE_WORDS[row['rule']]}."
            )
