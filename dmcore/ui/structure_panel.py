"""The view *Structure of the error* of the page Nonlinear error: directions, clusters, and what fires where it is nonlinear."""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from dmcore.charts.lift import group_lift_table
from dmcore.charts.numbers import percent
from dmcore.figures.structure import groups_figure, halves_figure, latents_figure, spectrum_figure
from dmcore.results import Features, Structure
from dmcore.ui.clusters_panel import draw_clusters
from dmcore.ui.figure import Pick, draw
from dmcore.ui.selection import set_option
from dmcore.ui.table import show_table
from dmcore.words.structure import (
    alignment_rows,
    latent_names,
    parts_rows,
)


def draw_structure(structure: Structure, key: tuple[str, ...], features: Features | None = None) -> None:
    """Draw the view.

    Args:
        structure: what is drawn.
        key: names the entry.
        features: of the same SAE, if they have been made: they name the latents.
    """
    draw_directions(structure, key)
    st.subheader("Do the tokens with the largest error fall in clusters?", anchor=False)
    draw_clusters(structure, key)
    st.subheader("What goes with a high nonlinear share?", anchor=False)
    draw_lifts(structure, key, features)


def draw_directions(structure: Structure, key: tuple[str, ...]) -> None:
    """Spectra, halves of the texts, directions of x and of the decoder."""
    draw(spectrum_figure(structure, key))
    show_table(parts_rows(structure), hide_index=True)
    st.caption(
        f"95 % intervals: jackknife over {structure.about['n_groups']} groups of contexts, the linear maps held fixed. "
        "Variance: of the part over that of x. Participation ratio: 1 / Σ p²."
    )
    _remarks(structure, "parts")
    left, right = st.columns(2, gap="large")
    with left:
        draw(halves_figure(structure, key))
        _remarks(structure, "stability")
    with right:
        _draw_alignment(structure)


def _draw_alignment(structure: Structure) -> None:
    k = structure.compared_k
    st.markdown("### Are they directions of x, or of the decoder?")
    show_table(alignment_rows(structure), hide_index=True)
    st.caption(
        f"Share of a part's variance in the first {k} directions of x (eigenvectors of its covariance) and of the decoder "
        f"(right singular vectors of its rows); {percent(k / structure.about['d_model'])} by chance. Below chance, a part "
        "keeps clear of them. Intervals: the same jackknife, the directions held fixed."
    )
    _remarks(structure, "alignment")


def draw_lifts(structure: Structure, key: tuple[str, ...], features: Features | None) -> None:
    """Latents, kinds of token and positions that are met more or less often where the error is most nonlinear."""
    about = structure.about
    if about["least_share"] is None:
        _remarks(structure, "latents")
        return
    names = latent_names(structure, features)
    if len(structure["latents"]):
        draw(
            latents_figure(structure, key, features, names),
            level=4,
            pick=Pick("pick", "latent", lambda latent: _show_latent(structure, latent)) if names else None,
        )
    elif about["n_tested"]:
        st.caption(f"None of the {about['n_tested']:,} latents with {about['least_active']} active tokens or more differs "
                   "from 1.")  # fmt: skip
    _remarks(structure, "latents")
    for column, (by, question) in zip(
        st.columns(2, gap="large"), (("class", "Which kinds of token?"), ("position", "Which positions?")), strict=True
    ):
        with column:
            _draw_groups(structure, key, by, question)


def _draw_groups(structure: Structure, key: tuple[str, ...], by: str, question: str) -> None:
    least = structure.about["least_active"]
    groups = structure["groups"].filter(pl.col("n_active") >= least)
    if not len(group_lift_table(groups, by)):
        _remarks(structure, "groups")
        return
    draw(
        groups_figure(structure, key, by, question),
        level=4,
    )


def _show_latent(structure: Structure, latent: Any) -> None:
    """Turn to the card of a latent that was clicked, if it is one of the list."""
    if latent in structure["latents"]["latent"].to_list():
        set_option("look", "features")
        set_option("whose", "own")
        set_option("latent", str(int(latent)))


def _remarks(structure: Structure, topic: str) -> None:
    for text in structure["remarks"].filter(pl.col("topic") == topic)["text"].unique(maintain_order=True):
        st.caption(text)
