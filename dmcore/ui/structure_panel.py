"""The view *Structure of the error* of the page Nonlinear error: directions, clusters, and what fires where it is nonlinear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import streamlit as st

from dmcore.charts.lift import group_lift_chart, group_lift_table, lift_chart, lift_table
from dmcore.charts.numbers import MISSING, decimals_for, fixed, number, percent, point
from dmcore.charts.part_names import NAMES
from dmcore.charts.spectrum import overlap_chart, overlap_table, spectrum_chart, spectrum_table
from dmcore.results import Features, Structure
from dmcore.results.structure import BASES, SPECTRUM_PARTS
from dmcore.ui.clusters_panel import draw_clusters
from dmcore.ui.figure import Figure, Pick, draw
from dmcore.ui.scaling_words import row_of, triple
from dmcore.ui.selection import set_option
from dmcore.ui.words import listed

BACK, PARTLY = 0.75, 0.25
"""Overlaps of halves, on a scale where chance is 0 and the same directions are 1, from which directions come back."""


def structure_finding(structure: Structure) -> str:
    """In how many directions the nonlinear error lies, against x and the linear part, and whether they come back."""
    row = structure.part("nonlinear")
    if row["directions_90"] is None:
        return structure.remark("parts", "nonlinear") or ""
    others = [
        f"{tenths(*triple(structure.part(part), 'directions_90'))} for {words}"
        for part, words in (("x", "x"), ("linear", "the linear error"))
        if structure.part(part)["directions_90"] is not None
    ]
    more = f", against {listed(others)}" if others else ""
    takes = f"{tenths(*triple(row, 'directions_90'))} of {structure.about['d_model']:,} directions"
    return (
        f"It takes {takes} to hold 90 % of the nonlinear error's variance{more}. {halves_sentence(structure)}".strip()
    )


def tenths(value: float, low: float | None, high: float | None) -> str:
    """A number of directions with its interval, to a tenth of one at most."""
    if low is None or high is None:
        return fixed(value, 1)
    decimals = min(decimals_for(low, high), 1)
    return f"{fixed(value, decimals)} ({fixed(low, decimals)} to {fixed(high, decimals)})"


def halves_sentence(structure: Structure) -> str:
    """Whether the first directions of the nonlinear error are those of another half of the texts; empty if not known."""
    k = structure.compared_k
    row = structure.overlap("nonlinear", k)
    if row is None:
        return ""
    above = (row["overlap_least"] - row["chance"]) / (1 - row["chance"])
    verb = "come back" if above >= BACK else "come back in part" if above >= PARTLY else "hardly come back"
    first, verb = ("first", verb.replace("come", "comes")) if k == 1 else (f"first {k}", verb)
    return (
        f"The {first} of them {verb} in another half of the texts: overlap {row['overlap']:.2f} "
        f"({row['overlap_least']:.2f} to {row['overlap_most']:.2f} over {row['n_splits']} ways to halve), "
        f"{number(row['chance'])} by chance."
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
    draw(
        Figure(
            name="structure_spectrum",
            key=key,
            question="In how many directions does the error lie?",
            caption="Share of a part's variance in its first directions: eigenvectors of its covariance, the largest "
            "eigenvalue first. The lower the line, the more evenly the part is spread. Diamond: effective rank, "
            f"exp(−Σ p ln p) of the shares p of all directions. {_sample(structure)}",
            chart=lambda: spectrum_chart(structure["spectra"], structure["parts"]),
            data=lambda: spectrum_table(structure["spectra"]),
        )
    )
    st.dataframe(parts_rows(structure), hide_index=True)
    st.caption(
        f"95 % intervals: jackknife over {structure.about['n_groups']} groups of contexts, the linear maps held fixed. "
        "Variance: of the part over that of x. Participation ratio: 1 / Σ p²."
    )
    _remarks(structure, "parts")
    left, right = st.columns(2, gap="large")
    with left:
        n = structure["stability"]["n_splits"].max() or 0
        draw(
            Figure(
                name="structure_halves",
                key=key,
                question="Do the directions come back in other texts?",
                caption="Overlap of the first k directions of two halves of the contexts: mean cos² of the angles between "
                f"the two spans, 1 if they are the same. Bars: least and most of {n} ways to halve. A dip can come from two "
                "nearly equal eigenvalues that change places.",
                chart=lambda: overlap_chart(structure["stability"]),
                data=lambda: overlap_table(structure["stability"]),
            )
        )
        _remarks(structure, "stability")
    with right:
        _draw_alignment(structure)


def parts_rows(structure: Structure) -> pl.DataFrame:
    """The numbers of each part as the page shows them."""
    columns = {"50 % in": "directions_50", "90 % in": "directions_90", "99 % in": "directions_99",
               "Effective rank": "effective_rank", "Participation ratio": "participation_ratio"}  # fmt: skip
    rows = []
    for part in SPECTRUM_PARTS:
        row = structure.part(part)
        variance = {"Part": NAMES[part], "Variance": percent(row["variance_share"])}
        rows.append(variance | {title: _shown(triple(row, name)) for title, name in columns.items()})
    return pl.DataFrame(rows)


def _shown(values: tuple[Any, Any, Any]) -> str:
    return MISSING if values[0] is None else tenths(*values)


def alignment_rows(structure: Structure) -> pl.DataFrame:
    """Share of each part's variance in the first directions of x and of the decoder, as the page shows it."""
    rows = []
    for part in SPECTRUM_PARTS:
        row = {"Part": NAMES[part]}
        for basis, title in zip(BASES, ("of x", "of the decoder"), strict=True):
            found = row_of(structure["alignment"], part=part, basis=basis, k=structure.compared_k)
            row[title] = "" if found is None else _tenth_percent(*triple(found, "share"))
        rows.append(row)
    return pl.DataFrame(rows)


def _tenth_percent(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return MISSING
    words = tenths(100 * value, *(None if end is None else 100 * end for end in (low, high)))
    return words.replace(" (", " % (") if " (" in words else f"{words} %"


def _draw_alignment(structure: Structure) -> None:
    k = structure.compared_k
    st.markdown("### Are they directions of x, or of the decoder?")
    st.dataframe(alignment_rows(structure), hide_index=True)
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
    high = (
        f"Lift: P(active | high) / P(active), where high is the tenth of the tokens with the largest |nonlinear|² / |error|² "
        f"({point(about['least_share'])} or more; above 1 where the two parts point against each other)."
    )
    names = latent_names(structure, features)
    if len(structure["latents"]):
        draw(
            Figure(
                name="structure_latents",
                key=(*key, features.folder.name if features is not None and names else ""),
                question="Which latents fire where the error is nonlinear?",
                caption=f"{high} {about['n_significant']:,} of the {about['n_tested']:,} latents with {about['least_active']} "
                "active tokens or more differ from 1 (adjusted p ≤ 0.05, Benjamini and Hochberg); drawn are the largest "
                "and the smallest lifts, a lift of 0 at the left end. Bars: 95 % intervals, clustered by context. "
                + ("Text: the token a latent fires on most. Click on a dot to see its card. " if names else "")
                + _sample(structure),
                chart=lambda: lift_chart(structure["latents"], names),
                data=lambda: lift_table(structure["latents"], names),
            ),
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
        Figure(
            name=f"structure_groups_{by}",
            key=(*key, by),
            question=question,
            caption="Lift: P(group | high) / P(group), of the same high tokens. Bars: 95 % intervals, clustered by context. "
            f"At 1, a group is met as often as anywhere. Groups of fewer than {least} tokens are left out.",
            chart=lambda: group_lift_chart(groups, by),
            data=lambda: group_lift_table(groups, by),
        ),
        level=4,
    )


def latent_names(structure: Structure, features: Features | None) -> Mapping[int, str]:
    """The token (raw) that each listed latent fires on most; empty where its features have not been made."""
    if features is None:
        return {}
    listed = structure["latents"]["latent"].to_list()
    rows = features.latents.filter(pl.col("latent").is_in(listed)).select("latent", "token").collect()
    return {k: features.texts.get(token, "") for k, token in rows.rows() if token is not None}


def _show_latent(structure: Structure, latent: Any) -> None:
    """Turn to the card of a latent that was clicked, if it is one of the list."""
    if latent in structure["latents"]["latent"].to_list():
        set_option("look", "features")
        set_option("whose", "own")
        set_option("latent", str(int(latent)))


def _sample(structure: Structure) -> str:
    about = structure.about
    return (
        f"n = {about['n_tokens']:,} tokens in {about['n_contexts']:,} contexts (first {about['skip_positions']} positions "
        f"skipped); linear and nonlinear error out of {about['n_folds']} folds of whole contexts."
    )


def _remarks(structure: Structure, topic: str) -> None:
    for text in structure["remarks"].filter(pl.col("topic") == topic)["text"].unique(maintain_order=True):
        st.caption(text)
