"""What the view *Structure of the error* says in sentences and tables, made from the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from dmcore.charts.numbers import MISSING, decimals_for, fixed, number, percent
from dmcore.charts.part_names import NAMES
from dmcore.results import Features, Structure
from dmcore.results.structure import BASES, SPECTRUM_PARTS
from dmcore.words.names import listed
from dmcore.words.scaling import row_of, triple

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


def latent_names(structure: Structure, features: Features | None) -> Mapping[int, str]:
    """The token (raw) that each listed latent fires on most; empty where its features have not been made."""
    if features is None:
        return {}
    listed = structure["latents"]["latent"].to_list()
    rows = features.latents.filter(pl.col("latent").is_in(listed)).select("latent", "token").collect()
    return {k: features.texts.get(token, "") for k, token in rows.rows() if token is not None}


def sample_of(structure: Structure) -> str:
    about = structure.about
    return (
        f"n = {about['n_tokens']:,} tokens in {about['n_contexts']:,} contexts (first {about['skip_positions']} positions "
        f"skipped); linear and nonlinear error out of {about['n_folds']} folds of whole contexts."
    )


def clusters_sentence(structure: Structure, part: str) -> str:
    """Whether the tokens of a part fall in clusters; empty where that is not known and no remark says why."""
    rows = structure["silhouettes"].filter(pl.col("part") == part)
    chosen, remark = structure.chosen_k(part), structure.remark("clusters", part)
    if chosen is None:
        return remark or ""
    row = rows.filter("chosen").row(0, named=True)
    most = f" {chosen} is the most that was tried, so there may be more." if chosen == rows["k"].max() else ""
    if remark is not None:
        return remark + most
    return (
        f"The {structure.about['clustered'][part]:,} tokens with the largest {NAMES[part]} fall in {chosen} clusters: "
        f"silhouette {row['silhouette']:.3f}, Gaussian {row['null_mean']:.3f}.{most}"
    )
