"""Linear maps from moments: least squares and ridge, with a bias or without, and their held-out errors.

1. The normal equations are scaled to a unit diagonal (so that outlier dimensions do not decide what is small), then
   solved by Cholesky; where they are singular (a constant or repeated dimension), by a pseudo-inverse.
2. The held-out squared error of a map follows from the moments of the held-out tokens alone.
3. One eigendecomposition per fold gives the whole ridge path.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from dmcore.errors import DataError

RANK_TOLERANCE = 1e-12
"""Scaled eigenvalues below this share of the largest are treated as zero."""
LARGEST_RIDGE = 1e150
"""What is larger than this has no square in float64."""


def check_ridge(name: str, ridge: Any) -> None:
    """Raise a `DataError` for what is no penalty; `name`: of the argument."""
    if isinstance(ridge, bool) or not isinstance(ridge, Real) or not 0 <= float(ridge) < LARGEST_RIDGE:
        raise DataError(f"{name} is {ridge!r}, but a penalty is a finite number, 0 or above.")


@dataclass(frozen=True)
class AffineMap:
    """`y = (x - shift) @ weight + offset`, which is `x @ weight + bias`."""

    weight: Float[Tensor, "d_in d_target"]
    """Slope, in units of y over units of x; float64 as fitted."""
    offset: Float64[Tensor, " d_target"]
    """Prediction at `x = shift`."""
    shift: Float64[Tensor, " d_in"]
    """Where the map is centred, near the mean of x, so that float32 predictions do not cancel."""

    @property
    def bias(self) -> Float64[Tensor, " d_target"]:
        """Prediction at `x = 0`."""
        return self.offset - self.shift @ self.weight.double()

    def single(self) -> AffineMap:
        """The map with its slope in float32: half the memory, and what predicts float32 activations in any case."""
        return AffineMap(self.weight.float(), self.offset, self.shift)

    def predict(self, x: Tensor) -> Tensor:
        """(n_tokens, d_target) predictions, computed in the dtype of `x`."""
        centred = x - self.shift.to(x.dtype)
        return torch.addmm(self.offset.to(x.dtype), centred, self.weight.to(x.dtype))

    def columns(self, start: int, stop: int) -> AffineMap:
        """The map to targets `start` up to `stop`."""
        return AffineMap(self.weight[:, start:stop], self.offset[start:stop], self.shift)


def solve_scaled(matrix: Tensor, rhs: Tensor, ridge: float) -> Tensor:
    """Solve `(matrix + ridge I) w = rhs` for a positive semi-definite matrix; the minimum-norm answer if singular."""
    penalised = matrix + ridge * torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
    scale = penalised.diagonal().clamp_min(0.0).sqrt()
    # A dimension that is constant up to rounding has no slope to find: its scale would divide noise by noise.
    alive = scale > scale.max() * 1e-150
    inverse_scale = torch.where(alive, 1.0 / scale.clamp_min(1e-300), torch.zeros_like(scale))
    scaled = penalised * inverse_scale[:, None] * inverse_scale[None, :]
    scaled.diagonal().copy_(torch.where(alive, scaled.diagonal(), torch.ones_like(scale)))
    target = rhs * inverse_scale[:, None]
    factor, failed = torch.linalg.cholesky_ex(scaled)
    if not bool(failed) and float(factor.diagonal().min()) ** 2 > RANK_TOLERANCE:
        solution = torch.cholesky_solve(target, factor)
        return solution * inverse_scale[:, None]
    values, vectors = torch.linalg.eigh(scaled[alive][:, alive])
    keep = values > values[-1] * RANK_TOLERANCE
    found = (vectors[:, keep] / values[keep]) @ (vectors[:, keep].T @ target[alive]) * inverse_scale[alive, None]
    # Of all solutions the shortest in the units of x, as lstsq has it, not in those of the scaled matrix.
    rows, _ = torch.linalg.qr(vectors[:, keep] * scale[alive, None])
    solution = torch.zeros_like(rhs)
    solution[alive] = rows @ (rows.T @ found)
    return solution


def centred(gram: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
    """Second moments about the means: `sum (x - mean)^T (x - mean)` and `sum (x - mean)^T y`."""
    n_tokens, sums = gram[-1, -1], gram[-1, :-1]
    scatter = gram[:-1, :-1] - torch.outer(sums, sums) / n_tokens
    # Rounding leaves a constant dimension with a tiny variance of its own; it is noise, not a slope to fit.
    constant = scatter.diagonal() <= gram.diagonal()[:-1] * 1e-14
    scatter = scatter.masked_fill(constant[:, None] | constant[None, :], 0.0)
    slope_rhs = cross[:-1] - torch.outer(sums, cross[-1]) / n_tokens
    return scatter, slope_rhs.masked_fill(constant[:, None], 0.0)


def fit_map(gram: Tensor, cross: Tensor, shift: Tensor, *, ridge: float = 0.0, fit_bias: bool = True) -> AffineMap:
    """Least squares, or ridge, from moments about `shift`.

    Args:
        gram: (d_in + 1, d_in + 1) `sum [x - shift, 1]^T [x - shift, 1]`.
        cross: (d_in + 1, d_target) `sum [x - shift, 1]^T y`.
        shift: (d_in,).
        ridge: penalty on the squared weights (never on the bias), in units of `sum x^2`.
        fit_bias: whether there is a bias; without one the map goes through `x = 0`.

    Equivalent to `sklearn.linear_model.Ridge(alpha=ridge, fit_intercept=fit_bias)`, and at ridge 0 to
    `torch.linalg.lstsq`, but for directions that are less than about 1e-6 as wide as others once each dimension has been
    scaled to a width of 1: moments do not hold them, so they are left out. A large mean makes all others so without a bias.
    """
    n_tokens, sums = gram[-1, -1], gram[-1, :-1]
    if fit_bias:
        weight = solve_scaled(*centred(gram, cross), ridge)
        return AffineMap(weight, (cross[-1] - sums @ weight) / n_tokens, shift)
    outer = torch.outer(shift, sums)
    raw_gram = gram[:-1, :-1] + outer + outer.T + n_tokens * torch.outer(shift, shift)
    raw_cross = cross[:-1] + torch.outer(shift, cross[-1])
    weight = solve_scaled(raw_gram, raw_cross, ridge)
    return AffineMap(weight, shift @ weight, shift)


def squared_error(fitted: AffineMap, gram: Tensor, cross: Tensor, target_sq: Tensor) -> Float64[Tensor, " d_target"]:
    """`sum (y - prediction)^2` for each target over the tokens whose moments these are (about the map's shift)."""
    augmented = torch.cat([fitted.weight, fitted.offset[None]])
    explained = 2.0 * (augmented * cross).sum(0) - (augmented * (gram @ augmented)).sum(0)
    return (target_sq - explained).clamp_min(0.0)


@dataclass(frozen=True)
class RidgeBasis:
    """The eigenbasis of the training tokens' scatter, in which every ridge solution is a division."""

    values: Float64[Tensor, " d_in"]
    """Eigenvalues of `sum (x - mean)^T (x - mean)`, ascending, not below 0."""
    vectors: Float64[Tensor, "d_in d_in"]
    """Eigenvectors, as columns."""
    test_gram: Float64[Tensor, "d_in d_in"]
    """The held-out tokens' second moments about the training mean, in the eigenbasis."""


def ridge_basis(train_gram: Tensor, test_gram: Tensor) -> RidgeBasis:
    """Decompose a fold once; the result serves every SAE of the site and every ridge."""
    n_train, train_mean = train_gram[-1, -1], train_gram[-1, :-1] / train_gram[-1, -1]
    scatter = train_gram[:-1, :-1] - n_train * torch.outer(train_mean, train_mean)
    values, vectors = torch.linalg.eigh(scatter)
    about_train_mean = _about(test_gram, train_mean)
    return RidgeBasis(values.clamp_min(0.0), vectors, vectors.T @ about_train_mean @ vectors)


def _about(gram: Tensor, mean: Tensor) -> Tensor:
    """Second moments about `mean` (given relative to the shift) from moments about the shift."""
    outer = torch.outer(gram[-1, :-1], mean)
    return gram[:-1, :-1] - outer - outer.T + gram[-1, -1] * torch.outer(mean, mean)


def ridge_path(
    basis: RidgeBasis,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor, Tensor],
    ridges: Tensor,
) -> Float64[Tensor, " n_ridges"]:
    """Held-out squared error summed over the targets, with a bias, for each ridge.

    Args:
        basis: of this fold.
        train: gram and cross of the training tokens, (d_in + 1, d_in + 1) and (d_in + 1, d_target).
        test: gram, cross and sums of squares of the held-out tokens.
        ridges: (n_ridges,) penalties, as in `fit_map`.

    With `B = V^T C_train`, the squared error of ridge a is `sum y^2 - 2 tr(g B^T C_test) + tr(g B^T G_test B g)` with
    `g = 1 / (values + a)`: after one product of `B` with itself each ridge costs d_in^2, not d_in^3.
    """
    train_gram, train_cross = train
    test_gram, test_cross, test_sq = test
    n_train, train_mean = train_gram[-1, -1], train_gram[-1, :-1] / train_gram[-1, -1]
    offset = train_cross[-1] / n_train
    slopes = basis.vectors.T @ (train_cross[:-1] - n_train * torch.outer(train_mean, offset))
    # Held-out targets about the training mean of y, against inputs about the training mean of x.
    n_test, test_sum = test_gram[-1, -1], test_gram[-1, :-1] - test_gram[-1, -1] * train_mean
    cross_about = test_cross[:-1] - torch.outer(train_mean, test_cross[-1]) - torch.outer(test_sum, offset)
    in_basis = basis.vectors.T @ cross_about
    total = (test_sq - 2.0 * offset * test_cross[-1] + n_test * offset.square()).sum()
    linear = (slopes * in_basis).sum(1)
    quadratic = (slopes @ slopes.T) * basis.test_gram
    floor = basis.values[-1] * RANK_TOLERANCE
    errors = []
    for ridge in ridges.tolist():
        shrunk = torch.where(basis.values + ridge > floor, 1.0 / (basis.values + ridge).clamp_min(1e-300), 0.0)
        errors.append(total - 2.0 * shrunk @ linear + shrunk @ quadratic @ shrunk)
    return torch.stack(errors)
