"""The view *Claims* of the page Controls: the paper's statements held against the study, and against groups of its SAEs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dmcore.figures.claims import claim_rows, claims_figure, groups_figure
from dmcore.results.claims import LEAST_CONTEXTS
from dmcore.ui import reads
from dmcore.ui.figure import draw
from dmcore.ui.sections import finding
from dmcore.ui.table import show_table
from dmcore.words.claims import claims_finding
from dmcore.words.names import plain

if TYPE_CHECKING:
    from dmcore.ui.selection import Selection


def claims_view(selection: Selection, top: DeltaGenerator) -> None:
    """Every statement with its verdict, then the matrix of groups, then what each test is."""
    found = reads.claims(selection.study_id)
    study = found.study
    with top:
        finding(plain(claims_finding(study)))
    n_contexts = int(study["n_contexts"][0])
    if n_contexts < LEAST_CONTEXTS:
        st.info(plain(str(study["reason"][0])), icon=":material/inbox:")
        return
    draw(claims_figure(selection.study_id, found))
    _draw_missing(study)
    if len(found.groups):
        draw(groups_figure(selection.study_id, found))
    st.markdown("### What was tested, and how")
    show_table(claim_rows(study), hide_index=True)
    st.caption(
        "What the paper reports is in our words. Source: how we know that it does. P: read on a page "
        "of or about the paper; C: in its published code; 2: "
        "quoted by someone else. Where the paper gives no bound, the range is ours and says why. The same as text or JSON: "
        f"`python -m dmcore claims {selection.published.file}`."
    )


def _draw_missing(study: pl.DataFrame) -> None:
    """What was not tested, or not decided whatever its interval: why, and what would mend it."""
    for row in study.filter(pl.col("reason").is_not_null()).to_dicts():
        command = (row["command"] or "").replace("`", "'")
        st.caption(
            f":material/inbox: {plain(row['statement'])} {row['verdict'].capitalize()}: {plain(row['reason'])}"
            + (f" `python -m dmcore {command}`" if command else "")
        )
