"""How well simple things predict the squared norm of the error: token identity, loss, entropy, position, L0, norm of x.

Each is a table of group means, fitted on the other folds and tested on whole contexts that it never saw: a group per
token id or position, and 32 quantile groups for a number (so any shape of dependence counts, not a straight line alone).
A group that the training contexts lack gets their overall mean. `x` is the linear map of the split, for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from dmcore.estimate import Estimate
from dmcore.math.bootstrap import bootstrap_units, interval, poisson_weights, ratio

N_QUANTILES = 32
SAMPLE = 200_000
"""Values from which quantiles are read; tokens are taken at equal steps."""


@dataclass(frozen=True)
class TokenColumns:
    """Columns of the kept tokens, of equal length; memory is a few numbers a token."""

    norm_sq: np.ndarray
    """What is predicted: |e|^2."""
    contexts: np.ndarray
    folds: np.ndarray


def quantile_groups(values: np.ndarray) -> np.ndarray:
    """Group of each value: one of 32 quantile ranges of those that are finite; the rest are a group of their own."""
    finite = values[np.isfinite(values)]
    sample = finite[:: max(1, len(finite) // SAMPLE)]
    if not len(sample):
        return np.zeros(len(values), dtype=np.int64)
    edges = np.unique(np.quantile(sample, np.arange(1, N_QUANTILES) / N_QUANTILES))
    groups = np.searchsorted(edges, values, side="right")
    return np.where(np.isfinite(values), groups, len(edges) + 1)


def held_out_group_means(groups: np.ndarray, columns: TokenColumns, n_folds: int) -> np.ndarray:
    """(n_tokens,) the mean of |e|^2 in each token's group, over the contexts of the other folds."""
    n_groups = int(groups.max()) + 1
    flat = columns.folds * n_groups + groups
    counts = np.bincount(flat, minlength=n_folds * n_groups).reshape(n_folds, n_groups).astype(float)
    sums = np.bincount(flat, weights=columns.norm_sq, minlength=n_folds * n_groups).reshape(n_folds, n_groups)
    train_counts, train_sums = counts.sum(0) - counts, sums.sum(0) - sums
    overall = train_sums.sum(1, keepdims=True) / train_counts.sum(1, keepdims=True)
    means = np.where(train_counts > 0, train_sums / np.maximum(train_counts, 1.0), overall)
    return means.reshape(-1)[flat]


def r2_of(predicted: np.ndarray, columns: TokenColumns, seed: int, n_contexts: int) -> Estimate:
    """Pooled R2 of |e|^2 with its bootstrap interval over contexts."""
    units = bootstrap_units(n_contexts)
    n_units = int(units.max()) + 1
    of_token = units[columns.contexts]
    residual = np.bincount(of_token, weights=(columns.norm_sq - predicted) ** 2, minlength=n_units)
    scatter = np.bincount(of_token, weights=(columns.norm_sq - columns.norm_sq.mean()) ** 2, minlength=n_units)
    weights = np.concatenate([np.ones((1, n_units)), poisson_weights(n_units, seed)])
    values = 1.0 - ratio(residual, scatter, weights)
    return interval(float(values[0]), values[1:])


def baseline_table(
    columns: TokenColumns,
    predictors: dict[str, np.ndarray],
    categories: dict[str, np.ndarray],
    from_x: Estimate,
    n_folds: int,
    seed: int,
    n_contexts: int,
) -> pl.DataFrame:
    """A row a predictor: `x` first, then categories (one group a value) and numbers (quantile groups)."""
    groups = {name: np.unique(values, return_inverse=True)[1].reshape(-1) for name, values in categories.items()}
    groups |= {name: quantile_groups(values) for name, values in predictors.items()}
    rows = [("x", from_x)]
    for name, found in groups.items():
        rows.append((name, r2_of(held_out_group_means(found, columns, n_folds), columns, seed, n_contexts)))
    return pl.DataFrame(
        {
            "predictor": [name for name, _ in rows],
            "r2": [r2.value for _, r2 in rows],
            "r2_low": [r2.low for _, r2 in rows],
            "r2_high": [r2.high for _, r2 in rows],
        }
    )
