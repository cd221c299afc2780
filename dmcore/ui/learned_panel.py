"""The view *Not yet learned?* of the page Nonlinear error: which latents of SAEs on the parts a dictionary has already."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dmcore.charts.learned import learned_chart, learned_table
from dmcore.results import Learned
from dmcore.results.learned import SAME
from dmcore.ui.figure import Figure, draw
from dmcore.words.learned import counts_words, names_of, shares_shown


def draw_learned(learned: Learned, key: tuple[str, ...]) -> None:
    """Draw the view; `key` names the entry."""
    if learned.latents["cosine"].null_count() == len(learned.latents):
        return
    names = names_of(learned)
    named = learned.latents.with_columns(pl.col("against").replace(names))
    seeds = learned.latents["seed"].n_unique()
    draw(
        Figure(
            name="learned",
            key=key,
            question="Does a wider SAE have these features already?",
            caption="Each latent of the SAEs on the parts: the largest cosine of its decoder row with a row of the base, of "
            "wider SAEs of the site, and with principal components of x (without sign). A curve that falls further to the right: "
            "more is known already. Dashed: what 95 % of random directions stay below; above each panel, the share of latents "
            "beyond it, 5 % by chance. "
            f"n = {counts_words(learned)}, of {seeds} seed{'s' if seeds > 1 else ''}; latents that never fire are left out.",
            chart=lambda: learned_chart(named),
            data=lambda: learned_table(named),
        )
    )
    shown = shares_shown(learned)
    st.dataframe(
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
