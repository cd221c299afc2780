"""Folds of contexts: whole contexts are held out, so that no token is tested on its neighbours."""

from __future__ import annotations

import numpy as np

from dmcore.errors import DataError

Array = np.ndarray


def assign_folds(context_sizes: Array, n_folds: int, seed: int) -> Array:
    """The fold of each context: contexts in seeded random order, each given to the fold with the fewest tokens so far.

    Args:
        context_sizes: (n_contexts,) tokens in each context.
        n_folds: how many folds; at least 2 and at most `n_contexts`.
        seed: the order of the contexts.

    Returns:
        (n_contexts,) int64 in `[0, n_folds)`.

    Raises:
        DataError: fewer contexts than folds, or fewer than two folds.

    Folds never cut a context, like `sklearn.model_selection.GroupKFold(shuffle=True)`.
    """
    n_contexts = len(context_sizes)
    if n_contexts < 2:
        raise DataError(
            "All tokens belong to one context, so none can be held out: give at least 2 contexts "
            "(or groups=None, to treat tokens as independent)."
        )
    if n_folds < 2:
        raise DataError(f"n_folds is {n_folds}: held-out numbers need at least 2 folds.")
    if n_folds > n_contexts:
        raise DataError(f"There are {n_contexts} contexts for {n_folds} folds: set n_folds to {n_contexts} or fewer.")
    order = np.random.default_rng(seed).permutation(n_contexts)
    filled = np.zeros(n_folds, dtype=np.int64)
    folds = np.empty(n_contexts, dtype=np.int64)
    for context in order:
        fold = int(np.argmin(filled))
        folds[context] = fold
        filled[fold] += int(context_sizes[context])
    return folds
