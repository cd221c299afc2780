"""What the paper reports, each with the mark of how we know it. The only place where the paper's values are written.

Source: Decomposing The Dark Matter of Sparse Autoencoders, arXiv 2410.14670 (TMLR 04/2025).
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from dmcore.charts.numbers import number
from dmcore.words.chosen import Chosen
from dmcore.words.overview import width_ratio

MARKS = {
    "P": "read on a page of or about the paper",
    "C": "read in the authors' published code",
    "2": "quoted by someone else, not read in the paper",
    "X": "bounded only by the axis of a plot",
}
"""What the marks mean, strongest first."""


@dataclass(frozen=True)
class Claim:
    """One statement of the paper that a study can be held against."""

    quantity: str
    """What is measured, in words."""
    says: str
    """The reported value, each part followed by its mark in brackets."""
    metric: str
    """Which of our numbers answers it."""


CLAIMS = (
    Claim(
        "R² of the error vector, mean over dimensions (the paper's aggregate)",
        "about one half [P]",
        "r2_error_mean_dims",
    ),
    Claim("R² of the squared norm of the error", "above 0.9 [P]; 0.7 to 0.95 at middle layers [2]", "r2_error_norm_sq"),
    Claim("Nonlinear FVU at fixed L0 as the dictionary widens", "roughly constant [2, C]", "fvu_nonlinear_ratio"),
)

SUBJECTS = "Gemma 2 2B and 9B (Gemma Scope) and Llama 3.1 8B (Llama Scope) [C, P]"
"""The models and SAEs that the paper studies."""


def paper_rows(chosen: Chosen, rows: pl.DataFrame) -> list[tuple[str, str, str]]:
    """Of each statement: the quantity, what the paper says, and what the chosen SAE says; `rows`: an SAE a width."""
    record = chosen.record
    ours = {
        metric: number(record[metric], record[f"{metric}_low"], record[f"{metric}_high"])
        for metric in ("r2_error_mean_dims", "r2_error_norm_sq")
    }
    if rows.height > 1:
        ratio = width_ratio(chosen, rows)
        low, high = rows["d_sae"][0], rows["d_sae"][-1]
        ours["fvu_nonlinear_ratio"] = f"{number(ratio, ratio.low, ratio.high)} times, from {low:,} to {high:,} latents"
    else:
        ours["fvu_nonlinear_ratio"] = "one width only"
    return [(claim.quantity, claim.says, ours[claim.metric]) for claim in CLAIMS]


def marks_sentence() -> str:
    """What the marks that are used mean."""
    used = SUBJECTS + "".join(claim.says for claim in CLAIMS)
    marks = "; ".join(f"[{mark}] {meaning}" for mark, meaning in MARKS.items() if mark in used)
    return f"How we know the paper's values: {marks}."
