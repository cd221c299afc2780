"""The view Transfer of the page Controls: whether a map fitted in one place holds in another."""

from __future__ import annotations

from shlex import quote

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dmcore.figures.transfer import transfer_figure
from dmcore.results.transfer import BY, KEPT
from dmcore.ui import reads
from dmcore.ui.figure import draw
from dmcore.ui.look_job import draw_look_button
from dmcore.ui.missing import draw_missing
from dmcore.ui.sections import finding
from dmcore.ui.selection import Selection, option
from dmcore.words.transfer import all_texts_sentence, transfer_remarks, transfer_sentence

TITLES = {"domain": "Texts", "layer": "Layers", "sae": "SAEs of this site", "width": "Widths"}
KEPT_TITLES = {name: words[0].upper() + words[1:] for name, words in KEPT.items()}
SHOWN = {"relative": "Share of its own R²", "r2": "R²"}


def transfer_view(selection: Selection, top: DeltaGenerator) -> None:
    """The matrix of the chosen kind around the selected SAE."""
    record, study_id = selection.record, selection.study_id
    by = option("between", "Between", list(BY), [TITLES[name] for name in BY], "domain", kind=st.segmented_control)
    found = reads.transfer(study_id, record["summary_key"], by)
    if found is None:
        file = selection.published.file
        draw_missing("This matrix has", f"transfer {file} {quote(record['sae'])} --by {by}")
        draw_look_button(
            study_id,
            record["sae"],
            lambda published: published.transfer(record["summary_key"], by) is not None,
            "transfer",
        )
        return
    with top:
        finding(transfer_sentence(found), all_texts_sentence(found))
    with st.container(horizontal=True):
        kept = option("kept", "What is kept of a map", list(KEPT), list(KEPT_TITLES.values()), "map",
                      kind=st.segmented_control)  # fmt: skip
        shown = option("cells", "Cells", list(SHOWN), list(SHOWN.values()), "relative", kind=st.segmented_control)
    draw(transfer_figure(found, kept, shown))
    for text in transfer_remarks(found):
        st.caption(f":material/info: {text}")
