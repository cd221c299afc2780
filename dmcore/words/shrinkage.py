"""What the view Shrinkage says in sentences, made from the numbers."""

from __future__ import annotations

import polars as pl

from dmcore.charts.numbers import percent
from dmcore.results.shrinkage import FULL, Shrinkage
from dmcore.words.names import listed, plain
from dmcore.words.sample import sample_words
from dmcore.words.scaling import triple


def ladder_sentence(found: Shrinkage) -> str:
    """What rescaling x explains beside the full map, and what share of the linear part that is."""
    scale, full = found.rung("scale_x"), found.rung(FULL)
    if scale["r2"] is None or full["r2"] is None:
        return ""
    explained = (
        f"Rescaling x alone explains {percent(*triple(scale, 'r2'))} of this SAE's error, the full map "
        f"{percent(*triple(full, 'r2'))}"
    )
    if scale["share"] is None:
        return f"{explained}: there is no linear part to speak of."
    rest = "" if scale["left"] is None or not scale["left_low"] or scale["left_low"] <= 0 else (
        f" Of what is left once x is rescaled, {percent(*triple(scale, 'left'))} is still linear in x."
    )  # fmt: skip
    return f"{explained}: shrinkage is {percent(*triple(scale, 'share'))} of the linear part.{rest}"


def rank_sentence(found: Shrinkage) -> str:
    """The least rank that explains as much as one number does, and the least that explains half of what every rank does."""
    ranks, scale, full = found["ranks"].sort("rank"), found.rung("scale_x"), found.rung(FULL)
    if ranks.is_empty() or full["r2"] is None or full["share"] is None:
        return ""
    half = ranks.filter(pl.col("r2") >= full["r2"] / 2)["rank"].head(1).to_list()
    said = f"A map of rank {half[0]:,} of {full['rank']:,} explains half of what every rank does" if half else ""
    as_much = ranks.filter(pl.col("r2") >= scale["r2"])["rank"].head(1).to_list() if scale["r2"] is not None else []
    if not said or not as_much or as_much[0] < 1:
        return f"{said}." if said else ""
    return f"{said}; to explain as much as the one number α does, it takes rank {as_much[0]:,}."


def direction_sentence(found: Shrinkage) -> str:
    """How much of the map is a multiple of the identity, and how much of it turns."""
    facts = {row["fact"]: row for row in found["shape"].to_dicts()}
    if "identity" not in facts or facts["identity"]["value"] is None:
        return ""
    identity, turned = facts["identity"], facts["antisymmetric"]
    return (
        f"{percent(*triple(identity, 'value'))} of the map, in squares, is the same shrinkage of every direction; "
        f"{percent(*triple(turned, 'value'))} is antisymmetric, {percent(turned['chance'])} in a random map."
    )


def group_sentence(found: Shrinkage) -> str:
    """The group of principal components without which most of the linear part goes."""
    rows = found["ablations"].filter(pl.col("drop_share").is_not_null()).sort("drop_share", descending=True)
    if rows.is_empty():
        return ""
    row = rows.row(0, named=True)
    return (
        f"{percent(*triple(row, 'drop_share'))} of the linear part is read from components {row['first']:,} to "
        f"{row['last']:,} of x, which hold {percent(row['variance_share'])} of its variance."
    )


def outlier_sentence(found: Shrinkage) -> str:
    """Which dimensions of x are outliers by the rule, and what R2 is without them."""
    multiple = found.about["outlier_multiple"]
    rule = f"A dimension is an outlier if its variance is more than {multiple:g} times the median over dimensions"
    outliers = found["outliers"].sort("variance", descending=True)
    if outliers.is_empty():
        return f"{rule}: there is none here."
    first = outliers["dimension"].head(6).to_list()
    more = len(outliers) - len(first)
    names = listed([str(i) for i in first] + ([f"{more:,} more"] if more else []))
    return f"{rule}: here {names}."


def shrinkage_remarks(found: Shrinkage) -> list[str]:
    """Sentences in place of what could not be said; those about outliers are `outlier_sentence`."""
    rows = found["remarks"].filter(pl.col("topic") != "outliers")
    return [plain(text) for text in rows["text"].unique(maintain_order=True)]


def shrinkage_sample(found: Shrinkage) -> str:
    """n and split, as captions end."""
    return sample_words(found.about)
