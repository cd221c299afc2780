"""The view Controls of the page of that name: every control in a row, the learning curve, and the dictionaries compared."""

from __future__ import annotations

from shlex import quote

import polars as pl
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dmcore.charts.controls import (
    controls_chart,
    controls_table,
    curve_chart,
    curve_table,
    spectra_chart,
    spectra_table,
)
from dmcore.charts.numbers import number
from dmcore.results import Controls
from dmcore.results.controls import METRICS, PASSED, RULE_WORDS
from dmcore.ui import reads
from dmcore.ui.figure import Figure, draw
from dmcore.ui.look_job import draw_look_button
from dmcore.ui.missing import draw_missing
from dmcore.ui.sections import finding
from dmcore.ui.selection import Selection
from dmcore.words.controls import controls_finding, count_sentence, sample_sentence, shuffled_sentence
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
    key = (selection.record["summary_key"], found.folder.name)
    rows = found["controls"]
    draw(
        Figure(
            name="controls",
            key=key,
            question="Is each number what it should be where the answer is known?",
            caption="Each row has a scale of its own. Grey: where the number should be; dashed box: where it should not be. "
            "Mark: what it is, with its 95 % interval: over shuffles or random draws where chance is in question, over "
            "contexts elsewhere, over seeds for seeds (least to largest). Circle, cross, diamond: passed, not passed, "
            f"undecided. Point at a row to read what is done and why. {sample_sentence(found)}",
            chart=lambda: controls_chart(rows),
            data=lambda: controls_table(rows),
        )
    )
    if sentence := shuffled_sentence(found):
        st.markdown(sentence)
    _draw_notes(found)
    _draw_curves(found, key)
    _draw_dictionaries(found)
    _draw_spectra(found, key)
    _draw_rules(rows)


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
        st.page_link("pages/controls.py", label="Controls", icon=":material/arrow_forward:", width="content")


def _draw_notes(found: Controls) -> None:
    for row in found["controls"].filter(pl.col("verdict") != PASSED).to_dicts():
        if row["note"]:
            st.caption(f":material/info: **{plain(row['title'])}.** {plain(row['note'])}")
    for text in found["remarks"]["text"]:
        st.caption(f":material/info: {plain(text)}")


def _draw_curves(found: Controls, key: tuple[str, ...]) -> None:
    curve, tends = found["curve"], found["asymptotes"]
    st.markdown("### Are there enough tokens?")
    for column, metric in zip(st.columns(2, gap="large"), ("r2_error", "fvu_nonlinear"), strict=True):
        with column:
            draw(
                Figure(
                    name=f"controls_curve_{metric}",
                    key=(*key, metric),
                    question=f"{'Linear share' if metric == 'r2_error' else 'Nonlinear FVU'} by maps of fewer texts",
                    caption="Maps fitted on 1/16 to all of the training contexts of each fold, tested on the same tokens. "
                    "Band: 95 % interval over contexts. Dashed: the intercept of a line over d/(n − d − 1) through the last "
                    f"three points. {sample_sentence(found)}",
                    chart=lambda metric=metric: curve_chart(curve, tends, metric),
                    data=lambda metric=metric: curve_table(curve, metric),
                ),
                level=4,
            )


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
    st.dataframe(pl.DataFrame(columns), hide_index=True)
    st.caption(
        "All on activations of this site, split in the same way. The small SAEs are trained alike, on the model and on a copy "
        "of it with random weights, and measured on the contexts that neither saw. An error that does not vary has no R²."
    )


def _draw_spectra(found: Controls, key: tuple[str, ...]) -> None:
    spectra = found["spectra"]
    draw(
        Figure(
            name="controls_spectra",
            key=key,
            question="In how many directions is more predicted than chance would?",
            caption="Eigenvalues of the variance of the predicted error, by the map of all tokens, over the error's variance; "
            f"dashed: the same of shuffled errors. In sample: the fit to noise is in both. {sample_sentence(found)}",
            chart=lambda: spectra_chart(spectra),
            data=lambda: spectra_table(spectra),
        )
    )


def _draw_rules(rows: pl.DataFrame) -> None:
    with st.expander("What is done, and how each is judged", icon=":material/science:"):
        for row in rows.to_dicts():
            st.markdown(
                f"- **{plain(row['title'])}.** {plain(row['what'])} {plain(row['why'])} Number: {plain(row['quantity'])}. "
                f"It has {RULE_WORDS[row['rule']]}."
            )
