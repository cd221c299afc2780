"""The spectrum of a covariance: how many directions hold the variance of a part, with intervals over texts.

1. `scatter_of`: `S = sum (v - mean v)^T (v - mean v)` from a Gram matrix about any shift; `eigenbasis`: its eigenvalues l.
2. With p = l / sum l, the share of the variance that each direction holds:
       effective rank       exp(- sum p ln p)             (Roy and Vetterli 2007)
       participation ratio  (sum l)^2 / sum l^2
       directions for q     least k with p_1 + ... + p_k >= q; of the last direction only the share that is needed counts
3. `jackknife`: intervals from the statistic without each of some groups of contexts. No token is read again.

All are of the sample: noise spreads eigenvalues, so with few tokens a dimension the ranks are below those of all texts.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float64
from scipy.special import entr
from scipy.stats import t as student_t
from torch import Tensor

from dmcore.math.linear_map import centred

Array = np.ndarray

RANK_TOLERANCE = 1e-13
"""Eigenvalues below this share of the largest, times the number of dimensions, are rounding: zero."""


def scatter_of(gram: Float64[Tensor, "d_aug d_aug"]) -> Float64[Tensor, "d d"]:
    """`sum (v - mean v)^T (v - mean v)` from `sum [v - shift, 1]^T [v - shift, 1]`; a constant dimension is exactly 0.

    Equivalent to `numpy.cov(v.T, bias=True) * n_tokens`.
    """
    return centred(gram, gram[:, -1:])[0]


def eigenbasis(scatter: Float64[Tensor, "d d"]) -> tuple[Array, Float64[Tensor, "d d"]]:
    """(d,) eigenvalues, the largest first, and their eigenvectors as columns; eigenvalues of rounding are 0."""
    values, vectors = torch.linalg.eigh(scatter)
    return _cleaned(values), vectors.flip(1)


def eigenvalues(scatter: Float64[Tensor, "d d"]) -> Array:
    """The first of `eigenbasis`, in a fraction of the time."""
    return _cleaned(torch.linalg.eigvalsh(scatter))


def _cleaned(ascending: Tensor) -> Array:
    values = ascending.flip(0).cpu().numpy().copy()
    values[values < RANK_TOLERANCE * len(values) * values[0]] = 0.0
    return values.clip(0.0)


def shares(values: Array) -> Array:
    """(..., d) share of the variance along each direction; nan where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return values / values.sum(-1, keepdims=True)


def effective_rank(values: Array) -> Array:
    """(...) `exp(- sum p ln p)` of (..., d) eigenvalues: d where all are equal, 1 where one has all."""
    return np.asarray(np.exp(entr(shares(values)).sum(-1)))


def participation_ratio(values: Array) -> Array:
    """(...) `(sum l)^2 / sum l^2` of (..., d) eigenvalues: d where all are equal, 1 where one has all."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(1.0 / np.square(shares(values)).sum(-1))


def directions_for(values: Array, share: float) -> Array:
    """(...) directions, the largest first, that hold `share` of the variance; their whole number is the ceiling.

    Args:
        values: (..., d) eigenvalues, the largest first.
        share: above 0 and below 1.
    """
    p = shares(values)
    cumulative = p.cumsum(-1)
    # The last is 1 but for rounding.
    last = np.minimum((cumulative < share).sum(-1), p.shape[-1] - 1)[..., None]
    before = np.take_along_axis(cumulative, last, -1) - (of_last := np.take_along_axis(p, last, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((last + (share - before) / of_last)[..., 0])


def jackknife(value: Array | float, without: Array, sizes: Array, *, log: bool = False) -> Array:
    """95 % intervals of statistics, from their values without each group.

    The delete-a-group jackknife for groups of unequal size (Busing, Meijer and van der Leeden 1999), with the quantile of
    Student's t for as many degrees of freedom as there are groups less one. For groups of one size it is
    `(g - 1) / g * sum (without - mean)^2`.

    Args:
        value: (...) statistics of all tokens.
        without: (n_groups, ...) the same without each group.
        sizes: (n_groups,) tokens, or contexts, in each group.
        log: whether the interval is symmetric in the logarithm: for statistics above 0.

    Returns:
        (2, ...) low and high ends; nan with fewer than two groups, or where a value is not finite.
    """
    value, n_groups = np.asarray(value, dtype=np.float64), len(sizes)
    if n_groups < 2:
        return np.full((2, *value.shape), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        centre, others = (np.log(value), np.log(without)) if log else (value, without)
        part = (np.asarray(sizes, dtype=np.float64) / np.sum(sizes)).reshape(-1, *[1] * value.ndim)
        pseudo = centre / part - (1.0 / part - 1.0) * others
        mean = n_groups * centre - ((1.0 - part) * others).sum(0)
        variance = (np.square(pseudo - mean) / (1.0 / part - 1.0)).mean(0)
        margin = student_t.ppf(0.975, n_groups - 1) * np.sqrt(variance)
        ends = np.stack([centre - margin, centre + margin])
        ends = np.exp(ends) if log else ends
    return np.where(np.isfinite(ends).all(0), ends, np.nan)
