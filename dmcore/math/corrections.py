"""What can be added to an SAE's reconstruction, affine in what is at hand, and the error that it leaves.

1. `Unchanged`: nothing.
2. `Rescaled`: the reconstruction about its mean times a number, or times one a dimension; `m + s (Sae(x) - m)`, whether the
   error is shrinkage that one number undoes.
3. `Skip`: the linear part of the error absorbed as an affine map of x, at some rank (`reduced_rank`).
4. `Added`: an affine map of some inputs, such as what other SAEs make of earlier components.

Each is fitted on some folds from `JointMoments`. Each is affine, so `after` works on tokens and, with the number of tokens in
place of 1, on sums of tokens: on a row of a moment matrix it gives that row of the moments of the new error. Hence the linear
part of the new error (`linear_after`) needs no pass over tokens either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from dmcore.errors import DataError
from dmcore.math.joint_moments import ACTS, JointMoments
from dmcore.math.linear_map import AffineMap, fit_map
from dmcore.math.reduced_rank import ReducedRank, reduced_rank


@dataclass(frozen=True)
class Rows:
    """Tokens, or sums of tokens, one a row."""

    inputs: Mapping[str, Tensor]
    """(n_rows, d_k) each, about its shift."""
    error: Float[Tensor, "n_rows d_model"]
    count: Float[Tensor, "n_rows 1"]
    """Tokens in each row: 1 for a token."""


@runtime_checkable
class Correction(Protocol):
    """Something added to a reconstruction."""

    def after(self, rows: Rows) -> Tensor:
        """(n_rows, d_model) the error that is left."""
        ...

    def to(self, dtype: torch.dtype) -> Correction:
        """The same in another dtype."""
        ...


@dataclass(frozen=True)
class Unchanged:
    """Nothing is added."""

    def after(self, rows: Rows) -> Tensor:
        """The error as it is."""
        return rows.error

    def to(self, dtype: torch.dtype) -> Unchanged:  # noqa: ARG002
        """Itself."""
        return self


@dataclass(frozen=True)
class Rescaled:
    """`m + s (Sae(x) - m)` in place of `Sae(x)`."""

    scale: Float[Tensor, " d_scale"]
    """s, one for all dimensions or one for each."""
    mean: Float[Tensor, " d_model"]
    """m, mean of `Sae(x)` over the training tokens, less the shift of x."""

    def after(self, rows: Rows) -> Tensor:
        """`e - (s - 1)(Sae(x) - m)`."""
        recon = rows.inputs[ACTS] - rows.error - rows.count * self.mean
        return rows.error - (self.scale - 1.0) * recon

    def to(self, dtype: torch.dtype) -> Rescaled:
        return Rescaled(self.scale.to(dtype), self.mean.to(dtype))


@dataclass(frozen=True)
class Skip:
    """The linear error, at some rank."""

    maps: ReducedRank
    rank: int

    def after(self, rows: Rows) -> Tensor:
        """The error less its prediction of that rank."""
        maps = self.maps
        centred = rows.inputs[ACTS] - rows.count * maps.input_mean
        predicted = (centred @ maps.along[:, : self.rank]) @ maps.vectors[:, : self.rank].T
        return rows.error - rows.count * maps.target_mean - predicted

    def to(self, dtype: torch.dtype) -> Skip:
        return Skip(self.maps.to(dtype), self.rank)


@dataclass(frozen=True)
class Added:
    """An affine map of some inputs."""

    names: tuple[str, ...]
    weight: Float[Tensor, "d_in d_model"]
    offset: Float[Tensor, " d_model"]

    def after(self, rows: Rows) -> Tensor:
        """The error less the map's value."""
        return rows.error - self.value(rows)

    def value(self, rows: Rows) -> Tensor:
        """(n_rows, d_model) what is added."""
        stacked = torch.cat([rows.inputs[name] for name in self.names], dim=1)
        return rows.count * self.offset + stacked @ self.weight

    def to(self, dtype: torch.dtype) -> Added:
        return Added(self.names, self.weight.to(dtype), self.offset.to(dtype))


def linear_error(moments: JointMoments, folds: Sequence[int], *, ridge: float, fit_bias: bool) -> AffineMap:
    """The map from x to the error of some folds."""
    return moments.fit([ACTS], folds, ridge=ridge, fit_bias=fit_bias)


def fit_skips(moments: JointMoments, folds: Sequence[int], linear: AffineMap) -> ReducedRank:
    """The maps of all ranks from x to the error of some folds; `linear` is the map of full rank, fitted on the same."""
    return reduced_rank(linear, moments.gram([ACTS], folds))


def fit_scale(moments: JointMoments, folds: Sequence[int], *, per_dimension: bool) -> Rescaled:
    """The scale of the reconstruction about its mean that leaves the least squared error, on some folds.

    `s = sum (x - mean x)(Sae(x) - m) / sum (Sae(x) - m)^2`, over all dimensions, or for each. It is 1 where the
    reconstruction does not vary: a dead SAE has nothing to scale.
    """
    gram, cross = moments.gram([ACTS], folds), moments.cross([ACTS], folds)
    count, sum_x, sum_e = gram[-1, -1], gram[-1, :-1], cross[-1]
    if sum_e.shape != sum_x.shape:
        raise DataError(f"An error of {sum_e.numel()} dimensions does not go with {sum_x.numel()} of x.")
    xx = gram.diagonal()[:-1] - sum_x.square() / count
    xe = cross[:-1].diagonal() - sum_x * sum_e / count
    ee = moments.target_sq(folds) - sum_e.square() / count
    with_x, with_itself = xx - xe, xx - 2.0 * xe + ee
    least = 1e-12 * xx
    if not per_dimension:
        with_x, with_itself, least = with_x.sum()[None], with_itself.sum()[None], least.sum()[None]
    varies = with_itself > least
    scale = torch.where(varies, with_x / torch.where(varies, with_itself, 1.0), 1.0)
    return Rescaled(scale, (sum_x - sum_e) / count)


def linear_after(
    moments: JointMoments, correction: Correction, folds: Sequence[int], *, ridge: float, fit_bias: bool
) -> AffineMap:
    """The map from x to the error that a correction leaves, on the folds on which the correction was fitted."""
    gram = moments.gram([ACTS], folds)
    inputs = {name: moments.between([ACTS], [name], folds)[:, :-1] for name in moments.shifts}
    cross = correction.after(Rows(inputs, moments.cross([ACTS], folds), gram[:, -1:]))
    return fit_map(gram, cross, moments.shifts[ACTS], ridge=ridge, fit_bias=fit_bias)


def mean_after(moments: JointMoments, corrections: Sequence[Correction]) -> Tensor:
    """(d_model,) mean over all tokens of the error left by the corrections, correction f on the tokens of fold f."""
    total = None
    for fold, correction in enumerate(corrections):
        sums = {name: moments.gram([name], [fold])[-1:, :-1] for name in moments.shifts}
        gram, cross = moments.gram([ACTS], [fold]), moments.cross([ACTS], [fold])
        left = correction.after(Rows(sums, cross[-1:], gram[-1:, -1:]))[0]
        total = left if total is None else total + left
    assert total is not None, "there are folds"
    return total / moments.n_tokens(range(moments.n_folds))
