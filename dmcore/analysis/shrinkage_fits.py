"""The maps of the shrinkage ladder, each fitted on all folds but one, from moments: no token is read.

1. The rungs (`dmcore.math.shrinkage`), the map of full rank, and its reductions to every rank (`dmcore.math.reduced_rank`).
2. What is left after each rung that is shrinkage, and the map from x to that (`corrections.linear_after`).
3. The map that does not read outlying dimensions of x: fitted anew without them.
4. The map with groups of principal components of the training tokens' x ablated: `W - V V^T W`, the components held at their
   training means. With a bias that is what a fit on the other components gives, since principal components do not co-vary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmcore.math.corrections import linear_after, mean_after
from dmcore.math.joint_moments import ACTS, JointMoments
from dmcore.math.linear_map import AffineMap, fit_map
from dmcore.math.reduced_rank import ReducedRank, reduced_rank
from dmcore.math.shrinkage import RECON, Scaled, fit_scaled
from dmcore.math.spectrum import eigenbasis, scatter_of
from dmcore.results.shrinkage import OUTLIER_MULTIPLE, PC_GROUPS, SCALES

REGRESSORS = {"scale_x": ACTS, "scale_recon": RECON, "diagonal": ACTS}
"""Of each of `SCALES`."""


@dataclass(frozen=True)
class FoldMaps:
    """Everything fitted on all folds but one."""

    scales: dict[str, Scaled]
    """By name, of `SCALES`."""
    rests: dict[str, AffineMap]
    """From x to what each of them leaves."""
    full: AffineMap
    ranks: ReducedRank
    """Reductions of `full`."""
    ranks_scaled: ReducedRank
    """Reductions of the map from x to what `scale_x` leaves."""
    unread: AffineMap | None
    """The map that does not read outlying dimensions; None where there are none, or no others."""
    ablated: tuple[AffineMap, ...]
    """The full map without each of `groups_of`."""


@dataclass(frozen=True)
class ShrinkageMaps:
    """The maps of all folds, and what they have in common."""

    folds: tuple[FoldMaps, ...]
    """Entry f never saw the contexts of fold f."""
    whole: AffineMap
    """Fitted on every token: for what the map looks like, not for these tokens' own numbers."""
    scatter: Tensor
    """(d, d) `sum (x - mean)^T (x - mean)` of every token."""
    error_mean: Tensor
    """(d,) of every token."""
    rest_means: dict[str, Tensor]
    """(d,) mean of what each of `SCALES` leaves, out of fold."""
    variances: Tensor
    """(d,) of x."""
    outliers: tuple[int, ...]
    """Dimensions of x whose variance is more than `OUTLIER_MULTIPLE` times the median."""


def groups_of(d_model: int) -> list[tuple[int, int]]:
    """First and last principal component, counted from 1, of each group that there is."""
    return [(a, min(b or d_model, d_model)) for a, b in PC_GROUPS if a <= d_model]


def outlying(variances: Tensor) -> tuple[int, ...]:
    """Dimensions whose variance is more than `OUTLIER_MULTIPLE` times the median, the largest first."""
    far = variances > OUTLIER_MULTIPLE * variances.median()
    order = torch.argsort(variances, descending=True)
    return tuple(order[far[order]].tolist())


def fit_maps(
    moments: JointMoments, *, ridge: float, fit_bias: bool, decoder_bias: Tensor | None, dtype: torch.dtype
) -> ShrinkageMaps:
    """Fit everything.

    Args:
        moments: of x and the error.
        ridge, fit_bias: the study's; the ridge is for maps, not for single numbers.
        decoder_bias: b_dec, used without bias.
        dtype: in which tokens are worked on.
    """
    everything = range(moments.n_folds)
    gram = moments.gram([ACTS], everything)
    scatter, count = scatter_of(gram), gram[-1, -1]
    outliers = outlying(scatter.diagonal() / count)
    fitted = [_fold(moments, fold, ridge, fit_bias, decoder_bias, outliers) for fold in everything]
    means = {name: mean_after(moments, [fold.scales[name] for fold in fitted]) for name in SCALES}
    return ShrinkageMaps(
        tuple(_to(fold, dtype) for fold in fitted),
        moments.fit([ACTS], everything, ridge=ridge, fit_bias=fit_bias),
        scatter,
        moments.cross([ACTS], everything)[-1] / count,
        means,
        scatter.diagonal() / count,
        outliers,
    )


def _fold(
    moments: JointMoments,
    fold: int,
    ridge: float,
    fit_bias: bool,
    decoder_bias: Tensor | None,
    outliers: Sequence[int],
) -> FoldMaps:
    others = moments.others(fold)
    gram, cross, shift = moments.gram([ACTS], others), moments.cross([ACTS], others), moments.shifts[ACTS]
    full = fit_map(gram, cross, shift, ridge=ridge, fit_bias=fit_bias)
    scales = {
        name: fit_scaled(
            moments,
            others,
            regressor,
            per_dimension=name == "diagonal",
            fit_bias=fit_bias,
            decoder_bias=decoder_bias,
        )
        for name, regressor in REGRESSORS.items()
    }
    rests = {name: linear_after(moments, one, others, ridge=ridge, fit_bias=fit_bias) for name, one in scales.items()}
    _, components = eigenbasis(scatter_of(gram))
    mean = gram[-1, :-1] / gram[-1, -1]
    return FoldMaps(
        scales,
        rests,
        full,
        reduced_rank(full, gram),
        reduced_rank(rests["scale_x"], gram),
        _unread(gram, cross, shift, outliers, ridge, fit_bias),
        tuple(_ablated(full, components[:, a - 1 : b], mean) for a, b in groups_of(len(shift))),
    )


def _unread(
    gram: Tensor, cross: Tensor, shift: Tensor, outliers: Sequence[int], ridge: float, fit_bias: bool
) -> AffineMap | None:
    """The map from the other dimensions of x, with rows of zeros for the outlying ones."""
    d = len(shift)
    kept = [i for i in range(d) if i not in set(outliers)]
    if not outliers or not kept:
        return None
    where = torch.tensor([*kept, d], device=gram.device)
    fitted = fit_map(gram[where][:, where], cross[where], shift[where[:-1]], ridge=ridge, fit_bias=fit_bias)
    weight = torch.zeros(d, cross.shape[1], dtype=gram.dtype, device=gram.device)
    weight[where[:-1]] = fitted.weight
    return AffineMap(weight, fitted.offset, shift)


def _ablated(full: AffineMap, removed: Tensor, mean: Tensor) -> AffineMap:
    """The map with some directions of x held at the mean; `mean` is less the shift."""
    change = removed @ (removed.T @ full.weight)
    return AffineMap(full.weight - change, full.offset + mean @ change, full.shift)


def _to(fold: FoldMaps, dtype: torch.dtype) -> FoldMaps:
    """Single numbers and reductions in the dtype of tokens; maps cast themselves."""
    scales = {name: one.to(dtype) for name, one in fold.scales.items()}
    return FoldMaps(
        scales, fold.rests, fold.full, fold.ranks.to(dtype), fold.ranks_scaled.to(dtype), fold.unread, fold.ablated
    )
