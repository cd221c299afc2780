"""The tokens on which an SAE errs most, and the contexts in which they are looked at.

1. `worst_tokens`: the kept tokens with the largest norm of each part of the error, with the tokens around them.
2. `browsed_contexts`: those that hold most of them, then contexts at equal steps, so that ordinary text is there too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from dmcore.results.scaling import PARTS, TABLES

N_WORST = 20
"""Tokens listed for each SAE and part."""
N_BEFORE, N_AFTER = 16, 8
"""Tokens of the same context given with each."""
MOST_BROWSED, MOST_OF_WORST = 64, 40
"""Contexts that can be looked at; and of them, those that are there for what they hold."""


def largest(values: np.ndarray, n: int) -> np.ndarray:
    """Where the `n` largest values are, the largest first; of equal ones the first. Equal to a stable sort of -values."""
    n = min(n, len(values))
    bound = np.partition(values, len(values) - n)[len(values) - n]
    found = np.flatnonzero(values >= bound)
    return found[np.argsort(-values[found], kind="stable")][:n]


def worst_tokens(
    sae: int, squares: Mapping[str, np.ndarray], tokens: np.ndarray, skip_positions: int, act_scale: float
) -> pl.DataFrame:
    """Rows of the table of worst tokens of one SAE; none for a part that is zero everywhere.

    Args:
        sae: its number.
        squares: (n_contexts, n_kept) squared norms of each of `PARTS`.
        tokens: (n_contexts, length) ids.
        skip_positions: `length - n_kept`.
        act_scale: in whose units norms are given.
    """
    rows = []
    n_kept = tokens.shape[1] - skip_positions
    for part in PARTS:
        flat = squares[part].reshape(-1)
        total = float(flat.sum(dtype=np.float64))
        for rank, index in enumerate(largest(flat, N_WORST) if total > 0 else []):
            context, position = int(index) // n_kept, int(index) % n_kept + skip_positions
            around = tokens[context]
            rows.append(
                {
                    "sae": sae,
                    "part": part,
                    "rank": rank,
                    "context": context,
                    "position": position,
                    "token": int(around[position]),
                    "norm": float(np.sqrt(np.float64(flat[index])) / act_scale),
                    "share": float(flat[index]) / total,
                    "before": around[max(0, position - N_BEFORE) : position].tolist(),
                    "after": around[position + 1 : position + 1 + N_AFTER].tolist(),
                }
            )
    return pl.DataFrame(rows, schema=TABLES["worst"])


def browsed_contexts(worst: pl.DataFrame, n_contexts: int) -> list[int]:
    """Numbers, ascending, of at most `MOST_BROWSED` contexts.

    First those with most entries in `worst` (of equal ones the first), at most `MOST_OF_WORST`; then, of the others, some at
    equal steps.
    """
    counts = np.bincount(worst["context"].to_numpy(), minlength=n_contexts)
    chosen = [int(c) for c in np.argsort(-counts, kind="stable")[:MOST_OF_WORST] if counts[c] > 0]
    others = np.setdiff1d(np.arange(n_contexts), chosen)
    n_more = min(MOST_BROWSED - len(chosen), len(others))
    steps = np.linspace(0, len(others) - 1, n_more).round().astype(int) if n_more else np.array([], dtype=int)
    return sorted([*chosen, *(int(c) for c in others[steps])])
