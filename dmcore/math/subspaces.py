"""How far subspaces agree: two halves of the texts, or a part of the error and the directions of x or of the decoder.

1. `overlaps`: the mean squared cosine of the principal angles between two k-dimensional subspaces,
       |U_k^T V_k|_F^2 / k
   1 where they are one, k / d on average for random ones.
2. `variance_within`: the share of a part's variance in the first k directions of a basis; k / d for a part without
   preferred directions.
3. `halvings`: splits of groups of contexts in two halves.

Bjorck and Golub 1973, Numerical methods for computing angles between linear subspaces.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

Array = np.ndarray


def dimensions(d: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to d / 2."""
    return tuple(1 << power for power in range((d // 2).bit_length()))


def overlaps(first: Float64[Tensor, "d n"], second: Float64[Tensor, "d m"], ks: Sequence[int]) -> Array:
    """(len(ks),) mean squared cosine of the principal angles between the spans of the first k columns of both.

    Equivalent to the mean of `numpy.cos(scipy.linalg.subspace_angles(...)) ** 2`.

    Args:
        first, second: orthonormal columns, the most important first.
        ks: numbers of columns, none above n or m.
    """
    squares = (first.T @ second).square()
    return np.array([float(squares[:k, :k].sum()) / k for k in ks])


def halvings(n_groups: int, n_splits: int, seed: int) -> list[Array]:
    """Different splits of groups in halves: (n_groups,) bools, the groups of the half that holds group 0.

    The halves differ by one group at most. Fewer than `n_splits` where there are no more; none for a single group.
    """
    rng = np.random.default_rng([seed, n_groups])
    found: dict[bytes, Array] = {}
    for _ in range(50 * n_splits if n_groups > 1 else 0):
        half = np.zeros(n_groups, dtype=bool)
        half[rng.permutation(n_groups)[: n_groups // 2]] = True
        half = half if half[0] else ~half
        found.setdefault(half.tobytes(), half)
        if len(found) == n_splits:
            break
    return list(found.values())


def variance_along(gram: Float64[Tensor, "d_aug d_aug"], basis: Float64[Tensor, "d n"]) -> Float64[Tensor, "2 n"]:
    """`sum (u . (v - shift))^2` and `sum u . (v - shift)` along each column u: they add up over groups of tokens."""
    return torch.stack([(basis * (gram[:-1, :-1] @ basis)).sum(0), gram[-1, :-1] @ basis])


def variance_within(along: Array, counts: Array, totals: Array, ks: Sequence[int]) -> tuple[Array, Array]:
    """Share of the variance in the span of the first k columns, of all tokens and without each group.

    Args:
        along: (n_groups, 2, n) `variance_along` of each group.
        counts: (n_groups,) tokens of each group.
        totals: (1 + n_groups,) `sum |v - mean v|^2` of all tokens, then without each group.
        ks: none above n.

    Returns:
        (len(ks),) and (n_groups, len(ks)); nan where there is no variance.
    """
    without = np.concatenate([np.zeros((1, *along.shape[1:])), along])
    squares, sums = np.moveaxis(along.sum(0) - without, 1, 0)
    left = counts.sum() - np.concatenate([[0.0], counts])
    with np.errstate(divide="ignore", invalid="ignore"):
        scatter = (squares - np.square(sums) / left[:, None]).clip(0.0)
        found = (scatter.cumsum(1) / totals[:, None])[:, np.asarray(ks, dtype=np.int64) - 1]
    return found[0], found[1:]
