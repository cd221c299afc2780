"""The view *Not yet learned?* of the page Nonlinear error: which latents of SAEs on the parts a dictionary has already."""

from __future__ import annotations

import streamlit as st

from dmcore.figures.learned import learned_figure
from dmcore.results import Learned
from dmcore.results.learned import SAME
from dmcore.ui.figure import draw
from dmcore.ui.table import show_table
from dmcore.words.learned import shares_shown


def draw_learned(learned: Learned, key: tuple[str, ...]) -> None:
    """Draw the view; `key` names the entry."""
    if learned.latents["cosine"].null_count() == len(learned.latents):
        return
    draw(learned_figure(learned, key))
    shown = shares_shown(learned)
    show_table(
        shown,
        hide_index=True,
        height=36 * (len(shown) + 1),
        column_config={
            "same": st.column_config.TextColumn(
                f"Same direction (cosine ≥ {SAME})", help="Mean of the seeds, and the least and the most of them."
            ),
            "above_random": st.column_config.TextColumn(
                "Above 95 % of random directions", help="Mean of the seeds, and the least and the most of them."
            ),
            "median_cosine": st.column_config.NumberColumn("Median cosine", format="%.2f"),
        },
    )
    st.caption(
        "A direction that no dictionary has is not yet a feature: SAEs that are trained on noise find directions too. That "
        "the same ones come back with other seeds, under *SAEs on the parts*, is a hint; what they fire on, under *Features*, "
        "another."
    )
