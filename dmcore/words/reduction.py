"""What the page Error reduction says in sentences, made from the numbers."""

from __future__ import annotations

from typing import Any

import polars as pl

from dmcore.charts.numbers import percent
from dmcore.charts.ranks import half_rank
from dmcore.results import Reduction
from dmcore.results.reduction import JOINED
from dmcore.words.names import plain
from dmcore.words.scaling import triple


def coding_sentence(found: Reduction) -> str:
    """What the best other code of the same dictionary removes of the nonlinear error."""
    rows = found["methods"].filter((pl.col("kind") == "coding") & pl.col("nonlinear_removed").is_not_null())
    if rows.is_empty():
        return ""
    best = rows.sort("nonlinear_removed", descending=True, maintain_order=True).row(0, named=True)
    low = best["nonlinear_removed_low"]
    if best["nonlinear_removed"] <= 0 or (low is not None and low <= 0):
        return "No other code of the same dictionary at this L0 removes nonlinear error."
    return (
        f"With the same dictionary at the same L0, {_name(best)} removes {percent(*triple(best, 'nonlinear_removed'))} of the "
        "nonlinear error."
    )


def _name(row: dict[str, Any]) -> str:
    title = plain(row["title"])
    return title[:1].lower() + title[1:]


def skip_sentence(found: Reduction) -> str:
    """What an affine skip removes of the error, and at what rank half of that."""
    row, half = found["ranks"].sort("rank"), half_rank(found["ranks"])
    if half is None or row.is_empty():
        return ""
    removed = percent(*triple(row.row(-1, named=True), "error_removed"))
    where = (
        "its bias alone does half of that"
        if half["rank"] == 0
        else f"rank {half['rank']} of {row['rank'][-1]} does half of that"
    )
    return f"An affine skip removes {removed} of the error, all of it linear; {where}."


def all_inputs(found: Reduction) -> str | None:
    """The largest set of earlier components without x; None where nothing was regressed."""
    names = [
        name for name in found["regressions"]["inputs"].unique(maintain_order=True) if "x" not in name.split(JOINED)
    ]
    return max(names, key=lambda name: name.count(JOINED), default=None)


def earlier_sentence(found: Reduction) -> str:
    """What earlier components explain of the nonlinear error."""
    inputs = all_inputs(found)
    row = found.r2(inputs, "nonlinear") if inputs is not None else None
    if row is None or row["r2"] is None:
        return ""
    return f"SAEs of earlier components explain {percent(*triple(row, 'r2'))} of the nonlinear error."


def reduction_finding(found: Reduction) -> str:
    """The sentences that the page opens with."""
    return " ".join(filter(None, (coding_sentence(found), skip_sentence(found)))) or earlier_sentence(found)


def remarks_of(found: Reduction) -> list[str]:
    """Sentences in place of what could not be had."""
    return [plain(text) for text in found["remarks"]["text"].unique(maintain_order=True)]


def sample_of(found: Reduction) -> str:
    """n and split, as captions end."""
    about = found.about
    skip = about["skip_positions"]
    skipped = "" if not skip else " (first position skipped)" if skip == 1 else f" (first {skip} positions skipped)"
    return (
        f"n = {about['n_tokens']:,} tokens in {about['n_contexts']:,} contexts{skipped}{_sampled(found)}; everything fitted is "
        f"held out over {about['n_folds']} folds of whole contexts."
    )


def _sampled(found: Reduction) -> str:
    """On what the coding methods ran, where that is not all."""
    rows = found["methods"].filter((pl.col("kind") == "coding") & (pl.col("n_contexts") < found.about["n_contexts"]))
    if rows.is_empty():
        return ""
    return f"; other codes: {rows['n_tokens'][0]:,} tokens in {rows['n_contexts'][0]:,} of them"
