"""What the page Error reduction says in sentences, made from the numbers."""

from __future__ import annotations

from typing import Any

import polars as pl

from dmcore.charts.numbers import number, percent
from dmcore.charts.ranks import half_rank
from dmcore.results import Reduction
from dmcore.results.reduction import EVERY_KIND, JOINED
from dmcore.words.names import plain
from dmcore.words.scaling import triple

MORE_L0 = 1.05
"""How many times the SAE's own L0 a code may have to count as of the same."""


def coding_sentence(found: Reduction) -> str:
    """What the best other code of the same dictionary removes of the error, and of its nonlinear part.

    The best by the error that it leaves: codes that shrink towards 0 make the nonlinear part small too.
    """
    methods = found["methods"]
    allowed = pl.col("l0") <= MORE_L0 * methods["l0"][0]
    rows = methods.filter((pl.col("kind") == "coding") & allowed & pl.col("error_removed").is_not_null())
    if rows.is_empty():
        return ""
    best = rows.sort("error_removed", descending=True, maintain_order=True).row(0, named=True)
    low = best["error_removed_low"]
    if best["error_removed"] <= 0 or (low is not None and low <= 0):
        return "None of the other codes of the same dictionary that were tried at this L0 leaves a smaller error."
    nonlinear = best["nonlinear_removed"]
    of_it = "" if nonlinear is None else f", and {percent(*triple(best, 'nonlinear_removed'))} of its nonlinear part"
    return (
        f"With the same dictionary at no more than the same L0, {_name(best)} removes "
        f"{percent(*triple(best, 'error_removed'))} of the error{of_it}."
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


def task_sentence(found: Reduction) -> str:
    """How often the model is right with Sae(x) in place of x, and with what keeps most of that."""
    tasks = found["tasks"].filter((pl.col("kind") == EVERY_KIND) & pl.col("accuracy").is_not_null())
    rows = {row["method"]: row for row in tasks.to_dicts()}
    clean, own = rows.get("clean"), rows.get("encoder")
    if clean is None or own is None:
        return ""
    free = found["methods"].filter((pl.col("extra_l0") == 0) & pl.col("method").is_in(list(rows)))
    best = max((rows[name] for name in free["method"]), key=lambda row: row["accuracy"])
    text = (
        f"The model predicts {percent(clean['accuracy'])} of the next tokens; Sae(x) in the place of x costs {_points(own)} of "
        "that"
    )
    if best["method"] == "encoder":
        return f"{text}, and no method at this L0 costs less."
    return f"{text}, {_name(found.method(best['method']))} {_points(best)}."


def _points(row: dict[str, Any]) -> str:
    """Accuracy lost, in percentage points."""
    value, low, high = triple(row, "accuracy_delta")
    if value is None or low is None or high is None:
        return "some"
    return f"{number(-100 * value, -100 * high, -100 * low)} points"


def reduction_finding(found: Reduction) -> str:
    """The sentences that the page opens with."""
    return " ".join(filter(None, (coding_sentence(found), skip_sentence(found)))) or earlier_sentence(found)


def remarks_of(found: Reduction) -> list[str]:
    """Sentences in place of what could not be had."""
    return [plain(text) for text in found["remarks"]["text"].unique(maintain_order=True)]


def sample_of(found: Reduction, *, coding: bool = False) -> str:
    """n and split, as captions end; with those of other codes and of the loss where they are drawn."""
    about = found.about
    skip = about["skip_positions"]
    skipped = "" if not skip else " (first position skipped)" if skip == 1 else f" (first {skip} positions skipped)"
    sampled = _sampled(found) if coding else ""
    return (
        f"n = {about['n_tokens']:,} tokens in {about['n_contexts']:,} contexts{skipped}{sampled}; everything fitted is "
        f"held out over {about['n_folds']} folds of whole contexts."
    )


def _sampled(found: Reduction) -> str:
    """On what the coding methods ran, where that is not all."""
    text = ""
    rows = found["methods"].filter((pl.col("kind") == "coding") & (pl.col("n_contexts") < found.about["n_contexts"]))
    if len(rows):
        text += f"; other codes: {rows['n_tokens'][0]:,} tokens in {rows['n_contexts'][0]:,} of them"
    spliced = found["methods"].filter(pl.col("loss_tokens").is_not_null())
    if len(spliced):
        text += f"; loss: {spliced['loss_tokens'][0]:,} predictions in {spliced['loss_contexts'][0]:,} of them"
    return text
