"""The chart of all latents in the view *Features*."""

from __future__ import annotations

import polars as pl

from dmcore.charts.latent_scatter import scatter_chart, scatter_table
from dmcore.charts.part_names import NAMES
from dmcore.figures.figure import Figure
from dmcore.results import Features


def scatter_figure(features: Features, key: tuple[str, ...], part: str = "x", latent: int | None = None) -> Figure:
    """How often and how strongly each latent fires; `part`: what the SAE was trained on, `latent`: the one that is ringed."""
    latents = features.latents.filter(pl.col("n_active") > 0).select("latent", "frequency", "mean_active")
    return Figure(
        name="feature_scatter" if part == "x" else f"feature_scatter_{part}",
        key=(*key, "" if latent is None else str(latent)),
        question="How often and how strongly?",
        caption="Each latent that fires: share of the tokens on which it is active, and its mean activation there.",
        hint="Click on one to see its card; ringed: the one below.",
        chart=lambda: scatter_chart(latents.collect(), latent, part=NAMES[part]),
        data=lambda: scatter_table(latents.collect()),
    )
