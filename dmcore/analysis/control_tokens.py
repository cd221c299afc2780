"""The tokens that controls work on, in memory, and the numbers of any error on them, by the same steps as the study's own.

1. `ControlTokens`: activations and errors of whole contexts, with their folds and bootstrap units.
2. `measure`: moments per fold, maps of the other folds, sums over bootstrap units, estimates (`dmcore.math.split`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dmcore.estimate import Estimate
from dmcore.math.bootstrap import interval
from dmcore.math.fit_noise import error_influence, fit_pulls
from dmcore.math.linear_map import AffineMap
from dmcore.math.moments import InputMoments, MomentAccumulator, TargetMoments, error_targets, product_dtype
from dmcore.math.split import Centres, FoldedFit, SplitEstimates, SplitSums, estimates, fit_folds, split_tokens

ROWS = 8192
"""Tokens worked on at once."""


@dataclass(frozen=True)
class ControlTokens:
    """Tokens of some contexts; skipped positions are not among them."""

    x: Tensor
    """(n_tokens, d_model) activations."""
    error: Tensor
    """(n_tokens, d_model) x - Sae(x)."""
    contexts: Tensor
    """(n_tokens,) number of each token's context, from 0."""
    folds_of_contexts: np.ndarray
    """(n_contexts,)"""
    units_of_contexts: np.ndarray
    """(n_contexts,) bootstrap unit, as the study numbers them."""
    n_units: int
    n_folds: int
    ridge: float
    fit_bias: bool
    seed: int

    @property
    def n_tokens(self) -> int:
        """Tokens."""
        return self.x.shape[0]

    @property
    def n_contexts(self) -> int:
        """Contexts."""
        return len(self.folds_of_contexts)

    @property
    def d_model(self) -> int:
        """Dimensions of x."""
        return self.x.shape[1]

    @property
    def n_train(self) -> float:
        """Training tokens, mean over folds."""
        return self.n_tokens * (1.0 - 1.0 / self.n_folds)

    @property
    def determined(self) -> bool:
        """Whether plain least squares with a bias has a single answer in every training set."""
        largest = int(torch.bincount(self.folds, minlength=self.n_folds).max())
        return self.n_tokens - largest >= self.d_model + 1

    @cached_property
    def folds(self) -> Tensor:
        """(n_tokens,) fold of each token."""
        return self.token_folds(self.folds_of_contexts)

    @cached_property
    def units(self) -> Tensor:
        """(n_tokens,) bootstrap unit of each token."""
        return torch.from_numpy(self.units_of_contexts).to(self.x.device)[self.contexts]

    @cached_property
    def shift(self) -> Tensor:
        """(d_model,) about which moments are taken."""
        return self.x[:ROWS].to(product_dtype(self.x.device)).mean(0)

    @cached_property
    def inputs(self) -> InputMoments:
        """Moments of x over the folds of contexts."""
        return self.input_moments(self.folds, self.n_folds)

    @property
    def cells_of_fold(self) -> list[list[int]]:
        """Each fold is a cell."""
        return [[fold] for fold in range(self.n_folds)]

    def token_folds(self, folds_of_contexts: np.ndarray) -> Tensor:
        """(n_tokens,) the fold of each token's context."""
        return torch.from_numpy(np.asarray(folds_of_contexts)).to(self.x.device)[self.contexts]

    def input_moments(self, cells: Tensor, n_cells: int) -> InputMoments:
        """Moments of x over other cells."""
        inputs = InputMoments(n_cells, self.shift)
        accumulator = MomentAccumulator(inputs, None, inputs.shift)
        for some, own in zip(self.x.split(ROWS), cells.split(ROWS), strict=True):
            accumulator.add(some, None, own)
        accumulator.finish()
        return inputs

    def error_moments(self, error: Tensor, cells: Tensor, n_cells: int) -> TargetMoments:
        """Moments of `[e, |e|^2]` against x over some cells."""
        targets = TargetMoments(n_cells, self.d_model, self.d_model + 1, self.x.device)
        accumulator = MomentAccumulator(None, targets, self.shift.double())
        for x, some, own in zip(self.x.split(ROWS), error.split(ROWS), cells.split(ROWS), strict=True):
            accumulator.add(x, error_targets(some), own)
        accumulator.finish()
        return targets


@dataclass(frozen=True)
class Measured:
    """The numbers of one error on some tokens."""

    result: SplitEstimates
    sums: SplitSums

    def __getitem__(self, metric: str) -> Estimate:
        """One of `dmcore.results.METRICS`, with its interval."""
        return self.result.values[metric]

    def row(self, metrics: Sequence[str]) -> dict[str, float]:
        """Values with `_low` and `_high`."""
        found = {}
        for metric in metrics:
            value = self[metric]
            found |= {metric: value.value, f"{metric}_low": value.low, f"{metric}_high": value.high}
        return found


def measure(
    tokens: ControlTokens,
    error: Tensor,
    *,
    folds: Tensor | None = None,
    inputs: InputMoments | None = None,
    least_squares: bool = False,
) -> Measured:
    """The numbers of an error, as the study computes its own.

    Args:
        tokens: with the activations.
        error: (n_tokens, d_model).
        folds: (n_tokens,) fold of each token; None for the study's.
        inputs: moments of x over these folds; None to make them.
        least_squares: with a bias and without a ridge, whatever the study's settings.
    """
    own = folds is None
    folds = tokens.folds if folds is None else folds
    n_folds = int(folds.max()) + 1
    if inputs is None:
        inputs = tokens.inputs if own else tokens.input_moments(folds, n_folds)
    ridge, fit_bias = (0.0, True) if least_squares else (tokens.ridge, tokens.fit_bias)
    targets = tokens.error_moments(error, folds, n_folds)
    groups = [[fold] for fold in range(n_folds)]
    fit = fit_folds(inputs, targets, groups, ridge=ridge, fit_bias=fit_bias, full=False)
    pulls = fit_pulls(inputs, targets, groups, fit, ridge=ridge, fit_bias=fit_bias)
    centres = Centres.from_moments(inputs, targets, range(n_folds))
    return measured(tokens, error, folds, fit.single(), centres, [pull.single() for pull in pulls])


def measured(
    tokens: ControlTokens,
    error: Tensor,
    folds: Tensor,
    fit: FoldedFit,
    centres: Centres,
    pulls: Sequence[AffineMap] | None = None,
) -> Measured:
    """The numbers of an error by maps that have been fitted.

    Args:
        tokens, error, folds, fit: the tokens, and the maps of the folds in which they are held out.
        centres: means of all of them.
        pulls: of `dmcore.math.fit_noise`, for intervals as those of a study's own numbers; None for maps that were fitted on
            some of the training tokens only, whose intervals are of the texts alone.
    """
    sums = SplitSums(tokens.n_units, tokens.d_model, centres)
    everything = torch.ones(ROWS, dtype=torch.bool, device=tokens.x.device)
    chunks = zip(tokens.x.split(ROWS), error.split(ROWS), folds.split(ROWS), tokens.units.split(ROWS), strict=True)
    for x, e, fold, unit in chunks:
        parts = split_tokens(fit, x, e, fold)
        moved = None if pulls is None else error_influence(pulls, x, e, parts, fold)
        sums.add(unit, everything[: len(x)], x, e, parts, moved)
    return Measured(estimates(sums, tokens.seed), sums)


def paired(first: Measured, second: Measured, metric: str) -> Estimate:
    """`first - second` of a metric, with its interval over the same replicates."""
    replicates = first.result.replicates[metric] - second.result.replicates[metric]
    return interval(first[metric].value - second[metric].value, replicates)


def half_width(value: Estimate) -> float:
    """Half of an interval's width; nan where there is none."""
    return (value.high - value.low) / 2
