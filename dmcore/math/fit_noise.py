"""How the luck of a fit moves held-out numbers: the part of an interval that comes from the maps, without fitting any anew.

1. Were context j drawn once more, the map of each fold that trains on it would move by `G^-1 X_j^T r_j` (to first order), with
   `G` the Gram matrix of that training set and `r_j` the context's residuals.
2. The squared error held out in fold f moves with the map `W` by `-2 tr(K_f^T dW)`, where `K_f = C_f - G_f W` is what the inputs
   of the held-out tokens still say of their residuals: zero but for luck.
3. So a token of fold g adds `-2 sum over f not g of [x, 1] G_-f^-1 K_f . r` to the squared error of the folds that trained on it,
   which is one affine map of x, times the residual. Its sums over contexts enter the bootstrap with the replicate's weights less
   their mean over tokens: weights that are all doubled move no map.

With it the intervals of R2 and of nonlinear FVU say how the numbers vary with the texts *and* with the fit on them;
`benchmarks/coverage.py` shows what they cover with it and without. The residual of a token is the held-out one, which is a little
larger than the fitted one, so that intervals err on the wide side where tokens are few. `decompose` has it, and every number of
the split in a study's tables; the replicates that SAEs are compared by have it too, so that what two fits on the same texts share
cancels. What is computed from the split with the maps taken as they are (kinds of tokens, methods that reduce the error, costs)
says that its intervals are of the texts alone.
Reference: Efron 2014, Estimation and Accuracy after Model Selection (the infinitesimal jackknife of a bootstrap).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dmcore.math.linear_map import AffineMap, fit_map
from dmcore.math.moments import InputMoments, TargetMoments
from dmcore.math.split import FoldedFit, TokenParts, row_norm_sq, rows_by_fold


def fit_pulls(
    inputs: InputMoments,
    targets: TargetMoments,
    cells_of_fold: Sequence[Sequence[int]],
    fit: FoldedFit,
    *,
    ridge: float = 0.0,
    fit_bias: bool = True,
) -> tuple[AffineMap, ...]:
    """For each fold, the map from x to what a token's residual does to the squared errors of the other folds, over -2.

    Args:
        inputs, targets: the moments that `fit` was made from.
        cells_of_fold, ridge, fit_bias: as they were given to `fit_folds`.
        fit: its maps, in float64.
    """
    all_cells = [cell for cells in cells_of_fold for cell in cells]
    solved = []
    for held_out, fitted in zip(cells_of_fold, fit.fold_maps, strict=True):
        train = [cell for cell in all_cells if cell not in set(held_out)]
        augmented = torch.cat([fitted.weight, fitted.offset[None]]).double()
        left = targets.pooled(held_out)[0] - inputs.pooled(held_out) @ augmented
        solved.append(fit_map(inputs.pooled(train), left, inputs.shift, ridge=ridge, fit_bias=fit_bias))
    weight, offset = torch.zeros_like(solved[0].weight), torch.zeros_like(solved[0].offset)
    for one in solved:
        weight += one.weight
        offset += one.offset
    return tuple(
        AffineMap(one.weight.neg_().add_(weight), one.offset.neg_().add_(offset), inputs.shift) for one in solved
    )


def fit_influence(
    pulls: Sequence[AffineMap],
    x: Float[Tensor, "n_tokens d_in"],
    residual: Float[Tensor, "n_tokens d_target"],
    folds: Int64[Tensor, " n_tokens"],
) -> Float[Tensor, "n_tokens d_target"]:
    """What one more draw of each token would add, through the maps, to the held-out squared error of each target.

    Args:
        pulls: of `fit_pulls`.
        x: activations.
        residual: targets less their out-of-fold predictions.
        folds: the fold of each token.
    """
    moved = torch.empty_like(residual)
    for fold, rows in rows_by_fold(folds):
        moved[rows] = pulls[fold].predict(x[rows]).mul_(-2.0).mul_(residual[rows])
    return moved


def error_influence(
    pulls: Sequence[AffineMap], x: Tensor, error: Tensor, parts: TokenParts, folds: Int64[Tensor, " n_tokens"]
) -> Tensor:
    """`fit_influence` of an error taken apart: (n_tokens, d_model + 1), of each dimension and of the squared norm."""
    norm_residual = (row_norm_sq(error) - parts.predicted_norm_sq.double()).to(x.dtype)
    return fit_influence(pulls, x, torch.cat([parts.nonlinear, norm_residual[:, None]], dim=1), folds)
