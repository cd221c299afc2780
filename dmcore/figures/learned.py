"""The chart of the view *Not yet learned?*"""

from __future__ import annotations

import polars as pl

from dmcore.charts.learned import learned_chart, learned_table
from dmcore.figures.figure import Figure
from dmcore.results import Learned
from dmcore.words.learned import counts_words, names_of


def learned_figure(learned: Learned, key: tuple[str, ...]) -> Figure:
    """How near latents of SAEs on the parts come to a dictionary's."""
    named = learned.latents.with_columns(pl.col("against").replace(names_of(learned)))
    seeds = learned.latents["seed"].n_unique()
    return Figure(
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
