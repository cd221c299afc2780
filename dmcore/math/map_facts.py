"""What a linear map from x to the error looks like, whatever it explains: identity, diagonal, symmetric, of which directions.

1. With `e_hat = (x - mean) W`, shares of `|W|_F^2` that are orthogonal to the rest:
       identity       (tr W)^2 / d          of pure shrinkage `alpha I` it is all
       diagonal       sum W_ii^2
       symmetric      |(W + W^T) / 2|_F^2   and antisymmetric |(W - W^T) / 2|_F^2, which sum to 1
   A random W has 1 / d^2, 1 / d, (d + 1) / 2d and (d - 1) / 2d on average.
2. `directions`: those of x that the map reads, and those of the error that it writes. `plain`: the singular vectors of W.
   `data`: written in the order of the variance of what is predicted (eigenvectors of `W^T Sigma W`), read by `W` from there.
   Singular vectors alone may be of directions along which x hardly varies.
3. `row_cosines`: the largest absolute cosine of each direction with a decoder row, against random directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

SHARES = ("identity", "diagonal", "symmetric", "antisymmetric")
WEIGHTINGS = ("plain", "data")
"""How directions of a map are ordered."""
READS, WRITES = "reads", "writes"
"""The two sides of a map."""


def shape_shares(weight: Float[Tensor, "d d"]) -> dict[str, float]:
    """Each of `SHARES`, and `slope`, the mean of the diagonal; shares are nan for a map that is 0."""
    d = weight.shape[0]
    total = float(weight.square().sum())
    whole = total if total > 0 else float("nan")
    diagonal = weight.diagonal()
    symmetric = (weight + weight.T) / 2
    found = {
        "identity": float(diagonal.sum()) ** 2 / d / whole,
        "diagonal": float(diagonal.square().sum()) / whole,
        "symmetric": float(symmetric.square().sum()) / whole,
        "antisymmetric": float((weight - symmetric).square().sum()) / whole,
    }
    return found | {"slope": float(diagonal.mean())}


def shape_chance(d: int) -> dict[str, float]:
    """The expectation of each of `SHARES` for a matrix of independent numbers of one variance."""
    return {"identity": 1 / d**2, "diagonal": 1 / d, "symmetric": (d + 1) / (2 * d), "antisymmetric": (d - 1) / (2 * d)}


@dataclass(frozen=True)
class Directions:
    """Orthonormal columns on either side of a map, the most important first."""

    reads: Float[Tensor, "d n"]
    """Of x."""
    writes: Float[Tensor, "d n"]
    """Of the error."""
    values: Float[Tensor, " n"]
    """Singular values, or the variance of the prediction along each direction that is written."""


def directions(weight: Float[Tensor, "d d"], scatter: Float[Tensor, "d d"], weighting: str) -> Directions:
    """The directions of a map.

    Args:
        weight: W, `e_hat = (x - mean) W`.
        scatter: `sum (x - mean)^T (x - mean)`.
        weighting: of `WEIGHTINGS`.
    """
    if weighting == "plain":
        left, values, right = torch.linalg.svd(weight)
        return Directions(left, right.T, values)
    predicted = weight.T @ scatter @ weight
    values, vectors = torch.linalg.eigh((predicted + predicted.T) / 2)
    written = vectors.flip(1)
    read, _ = torch.linalg.qr(weight @ written)
    return Directions(read, written, values.flip(0).clamp_min(0.0))


@dataclass(frozen=True)
class RowCosines:
    """Of each direction the decoder row that is most along it."""

    cosines: Float[Tensor, " n"]
    """Largest absolute cosine."""
    latents: Int64[Tensor, " n"]
    """The latent whose row that is."""
    chance: float
    """95 % quantile of the same for random directions; nan without rows."""


def row_cosines(
    wanted: Float[Tensor, "d n"],
    rows_of: Callable[[int, int], Tensor | None],
    n_rows: int,
    *,
    n_random: int = 500,
    rows_at_once: int = 16_384,
    seed: int = 0,
) -> RowCosines | None:
    """Compare directions to decoder rows, a slice at a time; None where there are no rows.

    Args:
        wanted: unit columns.
        rows_of: (last - first, d) rows first up to last; those of length 0 are left out.
        n_rows: of the decoder.
        n_random: random directions that chance is read from.
        rows_at_once: of a slice.
        seed: of the random directions.
    """
    d, n = wanted.shape
    generator = torch.Generator().manual_seed(seed)
    random = torch.nn.functional.normalize(torch.randn(d, n_random, generator=generator, dtype=torch.float64), dim=0)
    both = torch.cat([wanted.double().cpu(), random], dim=1)
    best, where = torch.zeros(n + n_random, dtype=torch.float64), torch.zeros(n + n_random, dtype=torch.int64)
    for first in range(0, n_rows, rows_at_once):
        rows = rows_of(first, min(first + rows_at_once, n_rows))
        if rows is None:
            return None
        cosines, latents = (torch.nn.functional.normalize(rows.double().cpu(), dim=1) @ both).abs().max(0)
        where = torch.where(cosines > best, latents + first, where)
        best = torch.maximum(best, cosines)
    return RowCosines(best[:n], where[:n], float(torch.quantile(best[n:], 0.95)))
