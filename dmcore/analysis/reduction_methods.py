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

from dmcore.analysis.coding_methods import OWN
from dmcore.math.corrections import (
    Added,
    Correction,
    Rescaled,
    Skip,
    Unchanged,
    fit_added,
    fit_scale,
    fit_skips,
    linear_after,
    linear_error,
)
from dmcore.math.joint_moments import ACTS, JointMoments
from dmcore.math.linear_map import AffineMap
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
    rank: int | None = None
    inputs: tuple[str, ...] = ()

    def to(self, dtype: torch.dtype) -> FittedMethod:
        """The same in another dtype."""
        linear = None if self.linear is None else tuple(one.to(dtype) for one in self.linear)
        corrections = tuple(one.to(dtype) for one in self.corrections)
        return FittedMethod(self.name, self.kind, self.parameters, corrections, linear, self.rank, self.inputs)


@dataclass(frozen=True)
class FittedRegression:
    """The error and its linear part from some inputs; the nonlinear part from the difference. One map a fold."""

    inputs: tuple[str, ...]
    error: tuple[Added, ...]
    linear: tuple[Added, ...]

    def to(self, dtype: torch.dtype) -> FittedRegression:
        """The same in another dtype."""
        error, linear = (tuple(one.to(dtype) for one in maps) for maps in (self.error, self.linear))
        return FittedRegression(self.inputs, error, linear)


@dataclass(frozen=True)
class Fitted:
    """All that is fitted from the moments."""

    own: tuple[Added, ...]
    """From x to the SAE's error."""
    ranks: tuple[ReducedRank, ...]
    methods: tuple[FittedMethod, ...]
    """The encoder's own first."""
    regressions: tuple[FittedRegression, ...]
    left_out: tuple[str, ...]
    """Sentences about inputs that were too wide."""

    def to(self, dtype: torch.dtype) -> Fitted:
        """The same in another dtype."""
        own, ranks, methods, regressions = (
            tuple(one.to(dtype) for one in some) for some in (self.own, self.ranks, self.methods, self.regressions)
        )
        return Fitted(own, ranks, methods, regressions, self.left_out)


def subsets_of(roles: Sequence[str]) -> list[tuple[str, ...]]:
    """What the error is regressed on: subsets of the earlier components, and all of them with x."""
    if not roles:
        return []
    sizes = range(1, len(roles) + 1) if len(roles) <= MOST_SUBSETS else (1, len(roles))
    return [*(one for size in sizes for one in itertools.combinations(roles, size)), (*roles, ACTS)]


def fit_methods(moments: JointMoments, *, ridge: float, fit_bias: bool) -> Fitted:
    """Fit everything; inputs of `moments` other than x are the earlier components, under their roles."""
    folds = range(moments.n_folds)
    others = [moments.others(fold) for fold in folds]
    linear = [linear_error(moments, one, ridge=ridge, fit_bias=fit_bias) for one in others]
    ranks = tuple(fit_skips(moments, one, own) for one, own in zip(others, linear, strict=True))

    def with_linear(
        name: str, kind: str, parameters: int, fitted: Sequence[Correction], **about: object
    ) -> FittedMethod:
        maps = [
            linear_after(moments, correction, one, ridge=ridge, fit_bias=fit_bias)
            for correction, one in zip(fitted, others, strict=True)
        ]
        return FittedMethod(name, kind, parameters, tuple(fitted), tuple(_of_x(one) for one in maps), **about)

    d_model = moments.width([ACTS])
    methods = [FittedMethod(OWN, "encoder", 0, (Unchanged(),) * len(folds), None)]
    for name, per_dimension in (("shrinkage_scalar", False), ("shrinkage_diagonal", True)):
        scales: list[Rescaled] = [fit_scale(moments, one, per_dimension=per_dimension) for one in others]
        methods.append(with_linear(name, "shrinkage", d_model if per_dimension else 1, scales))
    for rank in ranks_shown(d_model):
        skips = tuple(Skip(one, rank) for one in ranks)
        methods.append(FittedMethod(f"skip_{rank}", "skip", skip_parameters(rank, d_model), skips, None, rank))
    regressions, left_out = [], []
    for names in subsets_of([name for name in moments.shifts if name != ACTS]):
        width = moments.width(names) + int(fit_bias)
        fewest = min(moments.n_tokens(one) for one in others)
        if ridge == 0 and fewest < width:
            left_out.append(f"{input_names(names)}: {width:,} weights a dimension, but {fewest:,.0f} training tokens.")
            continue
        regression = _regression(moments, names, others, linear, ridge=ridge, fit_bias=fit_bias)
        regressions.append(regression)
        parameters = d_model * moments.width(names) + d_model
        name = f"earlier_{JOINED.join(names)}"
        methods.append(with_linear(name, "earlier", parameters, regression.error, inputs=tuple(names)))
    own = tuple(_of_x(one) for one in linear)
    return Fitted(own, ranks, tuple(methods), tuple(regressions), tuple(left_out))


def _of_x(fitted: AffineMap) -> Added:
    return Added((ACTS,), fitted.weight, fitted.offset)


def _regression(
    moments: JointMoments,
    names: Sequence[str],
    others: Sequence[Sequence[int]],
    linear: Sequence[AffineMap],
    *,
    ridge: float,
    fit_bias: bool,
) -> FittedRegression:
    error, of_linear = [], []
    for folds, own in zip(others, linear, strict=True):
        error.append(fit_added(moments, names, folds, ridge=ridge, fit_bias=fit_bias))
        of_linear.append(fit_added(moments, names, folds, "linear", own, ridge=ridge, fit_bias=fit_bias))
    return FittedRegression(tuple(names), tuple(error), tuple(of_linear))
