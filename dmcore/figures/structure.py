"""The charts of the view *Structure of the error*."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from dmcore.charts.clusters import clusters_chart, clusters_table, silhouettes_chart, silhouettes_table
from dmcore.charts.lift import group_lift_chart, group_lift_table, lift_chart, lift_table
from dmcore.charts.numbers import point
from dmcore.charts.part_names import NAMES
from dmcore.charts.spectrum import overlap_chart, overlap_table, spectrum_chart, spectrum_table
from dmcore.figures.figure import Figure
from dmcore.results import Features, Structure
from dmcore.results.structure import CLUSTERED_PARTS
from dmcore.words.structure import (
    sample_of,
)


def spectrum_figure(structure: Structure, key: tuple[str, ...]) -> Figure:
    """Share of variance over directions."""
    return Figure(
        name="structure_spectrum",
        key=key,
        question="In how many directions does the error lie?",
        caption="Share of a part's variance in its first directions: eigenvectors of its covariance, the largest "
        "eigenvalue first. The lower the line, the more evenly the part is spread. Diamond: effective rank, "
        f"exp(−Σ p ln p) of the shares p of all directions. {sample_of(structure)}",
        chart=lambda: spectrum_chart(structure["spectra"], structure["parts"]),
        data=lambda: spectrum_table(structure["spectra"]),
    )


def halves_figure(structure: Structure, key: tuple[str, ...]) -> Figure:
    """Whether directions come back in other texts."""
    n = structure["stability"]["n_splits"].max() or 0
    return Figure(
        name="structure_halves",
        key=key,
        question="Do the directions come back in other texts?",
        caption="Overlap of the first k directions of two halves of the contexts: mean cos² of the angles between "
        f"the two spans, 1 if they are the same. Bars: least and most of {n} ways to halve. A dip can come from two "
        "nearly equal eigenvalues that change places.",
        chart=lambda: overlap_chart(structure["stability"]),
        data=lambda: overlap_table(structure["stability"]),
    )


def latents_figure(
    structure: Structure, key: tuple[str, ...], features: Features | None, names: Mapping[int, str]
) -> Figure:
    """Latents that are met more or less often where the error is nonlinear; `names`: the token that each fires on most."""
    about = structure.about
    high = (
        f"Lift: P(active | high) / P(active), where high is the tenth of the tokens with the largest |nonlinear|² / |error|² "
        f"({point(about['least_share'])} or more; above 1 where the two parts point against each other)."
    )
    return Figure(
        name="structure_latents",
        key=(*key, features.folder.name if features is not None and names else ""),
        question="Which latents fire where the error is nonlinear?",
        caption=f"{high} {about['n_significant']:,} of the {about['n_tested']:,} latents with {about['least_active']} "
        "active tokens or more differ from 1 (adjusted p ≤ 0.05, Benjamini and Hochberg); drawn are the largest "
        "and the smallest lifts, a lift of 0 at the left end. Bars: 95 % intervals, clustered by context. "
        + ("Text: the token a latent fires on most. " if names else "")
        + sample_of(structure),
        hint="Click on a dot to see its card." if names else "",
        chart=lambda: lift_chart(structure["latents"], names),
        data=lambda: lift_table(structure["latents"], names),
    )


def groups_figure(structure: Structure, key: tuple[str, ...], by: str, question: str) -> Figure:
    """Kinds of token or positions that are met more or less often there."""
    least = structure.about["least_active"]
    groups = structure["groups"].filter(pl.col("n_active") >= least)
    return Figure(
        name=f"structure_groups_{by}",
        key=(*key, by),
        question=question,
        caption="Lift: P(group | high) / P(group), of the same high tokens. Bars: 95 % intervals, clustered by context. "
        f"At 1, a group is met as often as anywhere. Groups of fewer than {least} tokens are left out.",
        chart=lambda: group_lift_chart(groups, by),
        data=lambda: group_lift_table(groups, by),
    )


def silhouettes_figure(structure: Structure, key: tuple[str, ...]) -> Figure:
    """Whether the tokens with the largest error fall in clusters."""
    counts = structure.about["clustered"]
    n = " and ".join(f"{counts[part]:,} ({NAMES[part]})" for part in CLUSTERED_PARTS)
    return Figure(
        name="structure_silhouettes",
        key=key,
        question="",
        caption=f"k-means of the unit vectors of the tokens with the largest norm: {n}. Silhouette: how much nearer a "
        "token is to its own cluster than to the next, by distance; 0 is no nearer. Grey: Gaussian vectors with the "
        "part's mean and covariance, chosen and clustered in the same way. Ringed: the k that stands out most.",
        chart=lambda: silhouettes_chart(structure["silhouettes"]),
        data=lambda: silhouettes_table(structure["silhouettes"]),
    )


def clusters_figure(structure: Structure, key: tuple[str, ...], part: str) -> Figure:
    """The clusters of a part, and what they are of."""
    tables = (structure["clusters"], structure["cluster_tokens"], structure["vocabulary"])
    return Figure(
        name=f"structure_clusters_{part}",
        key=(*key, part),
        question="What is in them?",
        caption=f"Clusters of the {NAMES[part]}: tokens of each, and their share of all that were clustered. At the left its "
        "commonest tokens, a space as ·, a line break as ↵.",
        hint="Click on a bar to see what is in it.",
        chart=lambda: clusters_chart(*tables, part),
        data=lambda: clusters_table(*tables, part).drop("words"),
    )
