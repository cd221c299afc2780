"""What the view *Tokens* says in sentences, made from the numbers."""

from __future__ import annotations

import polars as pl

from dmcore.charts.numbers import number, percent
from dmcore.results import Scaling
from dmcore.words.scaling import p_text, row_of, triple


def pair_sentence(scaling: Scaling, members: pl.DataFrame) -> str:
    """What the nonlinear norm adds, from the narrowest to the widest SAE."""
    row = row_of(scaling["pairs"], source=members["sae"][0], target=members["sae"][-1])
    if row is None or row["r2"] is None:
        return "The error norm of one of these SAEs does not vary, so it tells nothing of another's."
    r2, closed = number(*triple(row, "r2")), percent(*triple(row, "closed"))
    if row["p"] is None:
        return f"From the narrowest to the widest: R² {r2}."
    return (
        f"From the narrowest to the widest: R² {r2}, Spearman {number(*triple(row, 'spearman'))}. Adding the "
        f"narrow SAE's nonlinear norm to the prediction closes {closed} of what is left (nested F test: F = "
        f"{row['f']:,.4g}, p {p_text(row['p'])}; with errors "
        f"clustered by context z = {row['z']:.1f}).".replace("= -", "= −").replace("(-", "(−")
    )
