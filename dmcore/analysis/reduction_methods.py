"""The methods that add something affine to an SAE's reconstruction, fitted for each fold of contexts on the others.

1. `encoder`: nothing, the baseline.
2. `shrinkage_scalar`, `shrinkage_diagonal`: the reconstruction scaled about its mean.
3. `skip_1`, `skip_2`, ... : the linear error absorbed as an affine skip, at each rank. An affine map of x leaves the nonlinear
   error as it is, by definition; so these rows say what is to be had without it.
4. `earlier_*`: an affine map of what other SAEs make of earlier components, each alone and together, and with x as well.

For held-out tokens of fold f everything was fitted on the other folds: the method, and the map from x to the error that the
method leaves (`linear`), from which the nonlinear error after it follows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmcore.analysis.coding_methods import OWN
from dmcore.math.corrections import (
    Added,
    Correction,
    Skip,
    Unchanged,
    fit_scale,
    fit_skips,
    linear_after,
    linear_error,
    mean_after,
)
from dmcore.math.joint_moments import ACTS, JointMoments
from dmcore.math.linear_map import AffineMap, fit_map
from dmcore.math.reduced_rank import ReducedRank, ranks_shown, skip_parameters
from dmcore.results.reduction import JOINED, input_names

MOST_SUBSETS = 3
"""Earlier components of which every subset is tried; of more, each alone and all together."""


@dataclass(frozen=True)
class FittedMethod:
    """A method, one correction a fold."""

    name: str
    kind: str
    """Of `dmcore.results.reduction.KINDS`."""
    parameters: int
    """Numbers that it adds to the SAE."""
    corrections: tuple[Correction, ...]
    linear: tuple[Added, ...] | None
    """From x to the error that is left; None where the nonlinear error is that of the SAE."""
    mean: Tensor
    """(d_model,) of the error that is left, held out, over all tokens."""
    rank: int | None = None
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class FittedRegression:
    """The linear error from some inputs, one map a fold; the error by the method of these inputs, the rest by difference."""

    inputs: tuple[str, ...]
    linear: tuple[Added, ...]


@dataclass(frozen=True)
class Fitted:
    """All that is fitted from the moments."""

    own: tuple[Added, ...]
    """From x to the SAE's error."""
    nonlinear_mean: Tensor
    """(d_model,) of the SAE's nonlinear error, held out, over all tokens."""
    ranks: tuple[ReducedRank, ...]
    methods: tuple[FittedMethod, ...]
    """The encoder's own first."""
    regressions: tuple[FittedRegression, ...]
    left_out: tuple[str, ...]
    """Sentences about inputs that were too wide."""


def subsets_of(roles: Sequence[str]) -> list[tuple[str, ...]]:
    """What the error is regressed on: subsets of the earlier components, and all of them with x."""
    if not roles:
        return []
    sizes = range(1, len(roles) + 1) if len(roles) <= MOST_SUBSETS else (1, len(roles))
    return [*(one for size in sizes for one in itertools.combinations(roles, size)), (*roles, ACTS)]


def fit_methods(moments: JointMoments, *, ridge: float, fit_bias: bool, dtype: torch.dtype) -> Fitted:
    """Fit everything; inputs of `moments` other than x are the earlier components, under their roles.

    Maps are fitted in float64 and kept in `dtype`: with three earlier components of d_model dimensions, 40 matrices of
    d_model x d_model for each fold.
    """
    fits = _Fits(moments, ridge, fit_bias, dtype)
    d_model = moments.width([ACTS])
    methods = [fits.method(OWN, "encoder", 0, [Unchanged() for _ in fits.others], splits=False)]
    for name, per_dimension in (("shrinkage_scalar", False), ("shrinkage_diagonal", True)):
        scales = [fit_scale(moments, folds, per_dimension=per_dimension) for folds in fits.others]
        methods.append(fits.method(name, "shrinkage", d_model if per_dimension else 1, scales))
    ranks = [fit_skips(moments, folds, own) for folds, own in zip(fits.others, fits.linear, strict=True)]
    in_dtype = tuple(one.to(dtype) for one in ranks)
    for rank in ranks_shown(d_model):
        mean = mean_after(moments, [Skip(one, rank) for one in ranks])
        skips = tuple(Skip(one, rank) for one in in_dtype)
        parameters = skip_parameters(rank, d_model)
        methods.append(FittedMethod(f"skip_{rank}", "skip", parameters, skips, None, mean, rank))
    regressions, left_out = [], []
    for names in subsets_of([name for name in moments.shifts if name != ACTS]):
        width = moments.width(names)
        fewest = min(moments.n_tokens(folds) for folds in fits.others)
        if ridge == 0 and fewest < width + int(fit_bias):
            weights = f"{width + int(fit_bias):,} weights a dimension, but {fewest:,.0f} training tokens"
            left_out.append(f"The regression on {input_names(names)} has {weights}: give more, or set ridge above 0.")
            continue
        error, linear = fits.regression(names)
        name = f"earlier_{JOINED.join(names)}"
        methods.append(fits.method(name, "earlier", d_model * width, error, inputs=names))
        regressions.append(FittedRegression(names, tuple(one.to(dtype) for one in linear)))
    own = [_of_x(one) for one in fits.linear]
    return Fitted(
        own=tuple(one.to(dtype) for one in own),
        nonlinear_mean=mean_after(moments, own),
        ranks=in_dtype,
        methods=tuple(methods),
        regressions=tuple(regressions),
        left_out=tuple(left_out),
    )


class _Fits:
    """What every fit shares: the map from x to the error, and the settings."""

    def __init__(self, moments: JointMoments, ridge: float, fit_bias: bool, dtype: torch.dtype) -> None:
        self.moments, self.ridge, self.fit_bias, self.dtype = moments, ridge, fit_bias, dtype
        self.others = [moments.others(fold) for fold in range(moments.n_folds)]
        self.linear = [linear_error(moments, folds, ridge=ridge, fit_bias=fit_bias) for folds in self.others]

    def method(
        self,
        name: str,
        kind: str,
        parameters: int,
        fitted: Sequence[Correction],
        *,
        splits: bool = True,
        inputs: tuple[str, ...] = (),
    ) -> FittedMethod:
        """A method from its corrections in float64; `splits`: whether its nonlinear error is its own."""
        linear = None
        if splits:
            linear = tuple(
                _of_x(linear_after(self.moments, one, folds, ridge=self.ridge, fit_bias=self.fit_bias)).to(self.dtype)
                for one, folds in zip(fitted, self.others, strict=True)
            )
        mean = mean_after(self.moments, fitted)
        corrections = tuple(one.to(self.dtype) for one in fitted)
        return FittedMethod(name, kind, parameters, corrections, linear, mean, None, inputs)

    def regression(self, names: Sequence[str]) -> tuple[list[Added], list[Added]]:
        """The error, and its linear part, from some inputs; one factorisation a fold serves both."""
        both = []
        for folds, own in zip(self.others, self.linear, strict=True):
            targets = [self.moments.cross(names, folds, target, own) for target in ("error", "linear")]
            fitted = fit_map(
                self.moments.gram(names, folds),
                torch.cat(targets, dim=1),
                self.moments.shift(names),
                ridge=self.ridge,
                fit_bias=self.fit_bias,
            )
            width = targets[0].shape[1]
            parts = (fitted.columns(0, width), fitted.columns(width, 2 * width))
            both.append([Added(tuple(names), part.weight, part.offset) for part in parts])
        return [error for error, _ in both], [linear for _, linear in both]


def _of_x(fitted: AffineMap) -> Added:
    return Added((ACTS,), fitted.weight, fitted.offset)
