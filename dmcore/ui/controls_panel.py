"""The view Controls of the page of that name: every control in a row, the learning curve, and the dictionaries compared."""

from __future__ import annotations

from contextlib import suppress
from shlex import quote

import polars as pl
import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.errors import StreamlitAPIException

from dmcore.charts.numbers import number
from dmcore.figures.controls import controls_figure, curve_figure, spectra_figure
from dmcore.results import Controls
from dmcore.results.controls import METRICS, PASSED, RULE_WORDS
from dmcore.ui import reads
from dmcore.ui.figure import draw
from dmcore.ui.look_job import draw_look_button
from dmcore.ui.missing import draw_missing
from dmcore.ui.sections import finding
from dmcore.ui.selection import Selection
from dmcore.ui.table import show_table
from dmcore.words.controls import controls_finding, count_sentence, shuffled_sentence
from dmcore.words.names import plain

HEADS = {
    "fvu": "FVU",
    "fvu_nonlinear": "Nonlinear FVU",
    "r2_error": "R² of the error",
    "r2_error_norm_sq": "R² of |e|²",
}


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
    rows = found["dictionaries"].to_dicts()
    if not rows:
        return
    st.markdown("### Would another dictionary look the same?")
    columns = {"Dictionary": [row["title"] for row in rows], "L0": [round(row["l0"], 1) for row in rows],
               "Latents": [row["d_sae"] for row in rows]}  # fmt: skip
    for metric in METRICS:
        ends = [[row[f"{metric}{end}"] for end in ("", "_low", "_high")] for row in rows]
        columns[HEADS[metric]] = ["none" if value[0] is None else number(*value) for value in ends]
    columns["Tokens"] = [row["n_tokens"] for row in rows]
    show_table(pl.DataFrame(columns), hide_index=True)
    st.caption(
        "All on activations of this site, split in the same way. The small SAEs are trained alike, on the model and on a copy "
        "of it with random weights, and measured on the contexts that neither saw. An error that does not vary has no R²."
    )


def _draw_rules(found: Controls) -> None:
    with st.expander("What is done, and how each is judged", icon=":material/science:"):
        for row in found["controls"].to_dicts():
            st.markdown(
                f"- **{plain(row['title'])}.** {plain(row['what'])} {plain(row['why'])} Number: {plain(row['quantity'])}. "
                f"It has {RULE_WORDS[row['rule']]}."
            )
