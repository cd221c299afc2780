"""The split of an SAE's error into a linear and a nonlinear part, held out by context, from moments.

1. `fit_folds`: for each fold of contexts, the map fitted on all others.
2. `SplitSums`: sums over contexts of the squared norms of the parts, filled in a second pass over the tokens.
3. `estimates`: the published numbers, each with a bootstrap interval over contexts.

Definitions (paper, section 2; x is the activation, e = x - Sae(x) the error, hats are out-of-fold predictions):
    fvu                = sum |e|^2          / sum |x - mean x|^2      pooled over tokens and dimensions
    fvu_nonlinear      = sum |e - e_hat|^2  / sum |x - mean x|^2
    r2_error           = 1 - sum |e - e_hat|^2 / sum |e - mean e|^2   pooled over tokens and dimensions
    r2_error_mean_dims = mean over dimensions d of 1 - sum (e_d - e_hat_d)^2 / sum (e_d - mean e_d)^2
    r2_error_norm_sq   = 1 - sum (|e|^2 - prediction)^2 / sum (|e|^2 - mean |e|^2)^2
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from dmcore.errors import DataError
from dmcore.estimate import Estimate
from dmcore.math.bootstrap import interval, poisson_weights, ratio
from dmcore.math.linear_map import AffineMap, fit_map
from dmcore.math.moments import InputMoments, TargetMoments

ROUNDING, ROUNDING_EXACT = 1e-6, 1e-12
"""A norm that varies by less than this share of rms |v| times rms |x| is rounding of x (float32, float64): it has no R2."""
SMALLEST_SCATTER = 1e-280
"""Sum of squares below which squares have lost their digits, or shares of it overflow."""


@dataclass(frozen=True)
class FoldedFit:
    """Maps from `x` to `[e, |e|^2]`: one per fold, fitted on the other folds, and one on all."""

    fold_maps: tuple[AffineMap, ...]
    """Entry f never saw the contexts of fold f."""
    full_map: AffineMap | None
    """Fitted on every token; for new data, not for these tokens' own numbers. None if it was not asked for."""

    def single(self) -> FoldedFit:
        """The same maps in float32."""
        full = None if self.full_map is None else self.full_map.single()
        return FoldedFit(tuple(fitted.single() for fitted in self.fold_maps), full)


def check_determined(tokens_per_fold: Sequence[int], n_weights: int, ridge: float) -> None:
    """Raise a `DataError` if a training set has fewer tokens than the weights of one target, and no ridge."""
    n_tokens = sum(tokens_per_fold)
    n_train = n_tokens - max(tokens_per_fold)
    if ridge == 0 and n_train < n_weights:
        raise DataError(
            f"The smallest training set has {n_train:,} of the {n_tokens:,} tokens for {n_weights:,} weights a dimension, "
            "so least squares has no single answer: give more tokens, or set ridge above 0."
        )


def check_varying(inputs: InputMoments, cells: Sequence[int]) -> None:
    """Raise a `DataError` if the activations are the same for every token."""
    if not float(inputs.scatter(cells).sum()) > SMALLEST_SCATTER:
        raise DataError(
            "The activations do not vary over tokens, so there is no variance to explain: give other tokens."
        )


def fit_folds(
    inputs: InputMoments,
    targets: TargetMoments,
    cells_of_fold: Sequence[Sequence[int]],
    *,
    ridge: float = 0.0,
    fit_bias: bool = True,
    full: bool = True,
) -> FoldedFit:
    """Fit the map of each fold on the cells of all others, and one map on all, in float64.

    Args:
        inputs, targets: moments over cells; cells that no fold names are left out.
        cells_of_fold: the cells that hold each fold's tokens.
        ridge, fit_bias: as in `fit_map`.
        full: whether the map on all is wanted.
    """

    def fit(cells: Sequence[int]) -> AffineMap:
        gram, cross = inputs.pooled(cells), targets.pooled(cells)[0]
        return fit_map(gram, cross, inputs.shift, ridge=ridge, fit_bias=fit_bias)

    all_cells = [cell for cells in cells_of_fold for cell in cells]
    fold_maps = tuple(fit([c for c in all_cells if c not in set(held_out)]) for held_out in cells_of_fold)
    return FoldedFit(fold_maps, fit(all_cells) if full else None)


@dataclass(frozen=True)
class Centres:
    """The means about which the variances of a split are taken, over all of its tokens."""

    act: Float[Tensor, " d_model"]
    error: Float[Tensor, " d_model"]
    norm_sq: float

    @classmethod
    def from_moments(cls, inputs: InputMoments, targets: TargetMoments, cells: Sequence[int]) -> Centres:
        """Means of x, e and |e|^2 over the tokens in `cells`."""
        cross, _ = targets.pooled(cells)
        means = cross[-1] / inputs.pooled(cells)[-1, -1]
        return cls(inputs.mean(cells), means[:-1], float(means[-1]))


@dataclass(frozen=True)
class TokenParts:
    """The split of some tokens, out of fold."""

    linear: Float[Tensor, "n_tokens d_model"]
    """Predicted error."""
    nonlinear: Float[Tensor, "n_tokens d_model"]
    """Error less its prediction."""
    predicted_norm_sq: Float[Tensor, " n_tokens"]
    """Prediction of |e|^2 from x."""


def split_tokens(fit: FoldedFit, x: Tensor, error: Tensor, folds: Int64[Tensor, " n_tokens"]) -> TokenParts:
    """Take the error of some tokens apart with the maps of the folds in which they are held out."""
    predicted = torch.empty(x.shape[0], x.shape[1] + 1, dtype=x.dtype, device=x.device)
    for fold, rows in rows_by_fold(folds):
        predicted[rows] = fit.fold_maps[fold].predict(x[rows])
    linear = predicted[:, :-1]
    return TokenParts(linear, error - linear, predicted[:, -1])


def rows_by_fold(folds: Int64[Tensor, " n_tokens"]) -> Iterator[tuple[int, slice | Tensor]]:
    """Each fold that some tokens have, with their rows: a slice, which copies nothing, where they are next to each other."""
    for fold in torch.unique(folds).tolist():
        rows = (folds == fold).nonzero().squeeze(1)
        contiguous = bool(rows[-1] - rows[0] == rows.numel() - 1)
        yield fold, slice(int(rows[0]), int(rows[-1]) + 1) if contiguous else rows


def row_norm_sq(rows: Float[Tensor, "n_tokens d"]) -> Float64[Tensor, " n_tokens"]:
    """Squared norm of each row."""
    return torch.linalg.vector_norm(rows, dim=1).double().square()


class SplitSums:
    """Sums over the tokens of each bootstrap unit (a context, or a bundle of contexts), in float64."""

    SCALARS = ("n_tokens", "act_scatter", "error_sq", "linear_sq", "nonlinear_sq", "norm_residual", "norm_scatter")

    def __init__(self, n_units: int, d_model: int, centres: Centres) -> None:
        self.centres = centres
        self.scalars = np.zeros((len(self.SCALARS), n_units))
        self.error_scatter_dims = np.zeros((n_units, d_model))
        self.nonlinear_dims = np.zeros((n_units, d_model))
        self.fit_influence = np.zeros((n_units, d_model + 1))
        """Of `[e, |e|^2]`, see `dmcore.math.fit_noise`; zeros where only the texts are to move the intervals."""

    def add(
        self,
        units: Int64[Tensor, " n_tokens"],
        kept: Bool[Tensor, " n_tokens"],
        x: Tensor,
        error: Tensor,
        parts: TokenParts,
        influence: Tensor | None = None,
    ) -> None:
        """Add the `kept` tokens; `units` is the bootstrap unit of each token, `influence` that of the fit on them."""
        centres = self.centres
        norm_sq = row_norm_sq(error)
        scalars = torch.stack(
            [
                torch.ones_like(norm_sq),
                row_norm_sq(x - centres.act.to(x.dtype)),
                norm_sq,
                row_norm_sq(parts.linear),
                row_norm_sq(parts.nonlinear),
                (norm_sq - parts.predicted_norm_sq.double()).square(),
                (norm_sq - centres.norm_sq).square(),
            ],
            dim=1,
        )
        ids, local = torch.unique(units, return_inverse=True)
        # A product with indicators: several times faster than index_add, it sums in the same order on every run, and
        # skipped tokens are zeros in it instead of copies of all arrays without them.
        indicator = torch.zeros(ids.numel(), x.shape[0], dtype=x.dtype, device=x.device)
        indicator[local, torch.arange(x.shape[0], device=x.device)] = kept.to(x.dtype)
        where = ids.cpu().numpy()
        self.scalars[:, where] += (indicator.double() @ scalars).T.cpu().numpy()
        scatter = indicator @ (error - centres.error.to(x.dtype)).square_()
        self.error_scatter_dims[where] += scatter.double().cpu().numpy()
        self.nonlinear_dims[where] += (indicator @ parts.nonlinear.square()).double().cpu().numpy()
        if influence is not None:
            self.fit_influence[where] += (indicator @ influence).double().cpu().numpy()

    def scalar(self, name: str) -> np.ndarray:
        """(n_units,) of one of `SCALARS`."""
        return self.scalars[self.SCALARS.index(name)]

    def r2_dims(self) -> np.ndarray:
        """(d_model,) held-out R2 of each dimension of the error; nan where the error is constant."""
        return _r2(self.nonlinear_dims.sum(0), self._scatter_of_varying_dims(self.error_scatter_dims.sum(0)))

    def norm_varies(self, exact: bool) -> bool:
        """Whether |e|^2 varies by more than rounding, which is in proportion to |e| |x|."""
        n, scatter, error, act = (
            float(self.scalar(name).sum()) for name in ("n_tokens", "norm_scatter", "error_sq", "act_scatter")
        )
        act_sq = act + n * float(self.centres.act.double().square().sum())
        return scatter * n > (ROUNDING_EXACT if exact else ROUNDING) ** 2 * error * act_sq

    def _scatter_of_varying_dims(self, scatter: np.ndarray) -> np.ndarray:
        n_tokens = self.scalar("n_tokens").sum()
        rounding = 1e-12 * n_tokens * self.centres.error.double().cpu().numpy() ** 2
        return np.where(scatter > rounding, scatter, np.nan)


def _r2(residual: np.ndarray, scatter: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1.0 - residual / scatter


@dataclass(frozen=True)
class SplitEstimates:
    """The numbers of `METRICS`, and their bootstrap replicates for paired comparisons."""

    values: dict[str, Estimate]
    """By name of metric."""
    replicates: dict[str, np.ndarray]
    """(n_replicates,) each; replicate r has the same context weights for every SAE on the same contexts and seed."""


def estimates(sums: SplitSums, seed: int, *, exact: bool = False) -> SplitEstimates:
    """The numbers of a split with 95 % intervals: Poisson bootstrap over contexts, percentile, and the fit's influence.

    `exact`: activations and reconstructions are float64; else a variation of |e|^2 that float32 alone makes counts as none.
    """
    n_units = sums.scalars.shape[1]
    weights = np.concatenate([np.ones((1, n_units)), poisson_weights(n_units, seed)])
    alive = np.isfinite(sums.r2_dims())
    scatter_dims = weights @ sums.error_scatter_dims[:, alive]
    # More of everything fits the same map: weights less their mean, not less one, so that only what texts differ in counts.
    n_tokens = sums.scalar("n_tokens")
    through_fit = (weights - (weights @ n_tokens / n_tokens.sum())[:, None]) @ sums.fit_influence
    # The influence is linear in the weights; where tokens are few it could take more than there is.
    nonlinear_dims = np.maximum(weights @ sums.nonlinear_dims[:, alive] + through_fit[:, :-1][:, alive], 0.0)
    act_scatter, norm_scatter = (weights @ sums.scalar(name) for name in ("act_scatter", "norm_scatter"))
    nonlinear = np.maximum(weights @ sums.scalar("nonlinear_sq") + through_fit[:, :-1].sum(1), 0.0)
    norm_residual = np.maximum(weights @ sums.scalar("norm_residual") + through_fit[:, -1], 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2_dims = 1.0 - nonlinear_dims / scatter_dims
        values = {
            "fvu": ratio(sums.scalar("error_sq"), sums.scalar("act_scatter"), weights),
            "fvu_nonlinear": nonlinear / act_scatter,
            "r2_error": 1.0 - nonlinear_dims.sum(1) / scatter_dims.sum(1),
            "r2_error_mean_dims": r2_dims.mean(1) if alive.any() else np.full(len(weights), np.nan),
            "r2_error_norm_sq": 1.0 - norm_residual / (norm_scatter if sums.norm_varies(exact) else np.nan),
        }
    return SplitEstimates(
        {name: interval(float(column[0]), column[1:]) for name, column in values.items()},
        {name: column[1:] for name, column in values.items()},
    )
