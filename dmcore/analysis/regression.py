"""What else the moments tell about the regression of an SAE's error on x: the ridge path, and undone shrinkage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor

from dmcore.math.linear_map import AffineMap, RidgeBasis, ridge_basis, ridge_path, squared_error
from dmcore.math.moments import InputMoments, TargetMoments

RELATIVE_RIDGES = (0.0, *(10.0 ** (step / 2) for step in range(-12, 5)))
"""Ridges of the path, in units of the mean eigenvalue of the scatter of x: 0 and 1e-6 to 100 in half decades."""

Cells = Sequence[Sequence[int]]


def _others(cells_of_fold: Cells, fold: int) -> list[int]:
    return [cell for other, cells in enumerate(cells_of_fold) if other != fold for cell in cells]


def ridge_bases(inputs: InputMoments, cells_of_fold: Cells) -> list[RidgeBasis]:
    """One eigendecomposition a fold; serves every SAE of the site."""
    return [
        ridge_basis(inputs.pooled(_others(cells_of_fold, fold)), inputs.pooled(held_out))
        for fold, held_out in enumerate(cells_of_fold)
    ]


def ridge_table(
    bases: Sequence[RidgeBasis], inputs: InputMoments, targets: TargetMoments, cells_of_fold: Cells
) -> pl.DataFrame:
    """Held-out R2 of the error vector (pooled) and of its squared norm, for each ridge and fold (with a bias).

    R2 of a fold is about the means of that fold, as `sklearn.metrics.r2_score` on it.
    """
    all_cells = [cell for cells in cells_of_fold for cell in cells]
    d_model = inputs.shift.shape[0]
    mean_eigenvalue = float(inputs.scatter(all_cells).sum()) / d_model
    relative = np.array(RELATIVE_RIDGES)
    ridges = torch.tensor(relative * mean_eigenvalue, dtype=torch.float64)
    frames = []
    for fold, held_out in enumerate(cells_of_fold):
        others = _others(cells_of_fold, fold)
        train_gram, test_gram = inputs.pooled(others), inputs.pooled(held_out)
        train_cross, _ = targets.pooled(others)
        test_cross, test_sq = targets.pooled(held_out)
        scatter = test_sq - test_cross[-1].square() / test_gram[-1, -1]
        columns = {}
        for name, where in (("r2_error", slice(0, d_model)), ("r2_error_norm_sq", slice(d_model, None))):
            errors = ridge_path(
                bases[fold],
                (train_gram, train_cross[:, where]),
                (test_gram, test_cross[:, where], test_sq[where]),
                ridges,
            )
            columns[name] = (1.0 - errors / scatter[where].sum()).cpu().numpy()
        frames.append(
            pl.DataFrame(
                {"ridge": ridges.numpy(), "ridge_relative": relative, "fold": np.full(len(relative), fold), **columns}
            )
        )
    return pl.concat(frames)


def shrinkage_r2(inputs: InputMoments, targets: TargetMoments, cells_of_fold: Cells) -> float:
    """Held-out R2 (pooled) of the error by one number, `e ~ alpha (x - mean x) + mean e`: is it undone shrinkage?"""
    d_model = inputs.shift.shape[0]
    residual = torch.zeros((), dtype=torch.float64, device=inputs.shift.device)
    for fold, held_out in enumerate(cells_of_fold):
        others = _others(cells_of_fold, fold)
        fitted = _scalar_map(inputs.pooled(others), targets.pooled(others)[0][:, :d_model], inputs.shift)
        cross, target_sq = targets.pooled(held_out)
        residual += squared_error(fitted, inputs.pooled(held_out), cross[:, :d_model], target_sq[:d_model]).sum()
    cross, target_sq = targets.pooled([cell for cells in cells_of_fold for cell in cells])
    count = inputs.pooled([cell for cells in cells_of_fold for cell in cells])[-1, -1]
    scatter = (target_sq[:d_model] - cross[-1, :d_model].square() / count).sum()
    return float(1.0 - residual / scatter) if float(scatter) > 0 else float("nan")


def _scalar_map(gram: Tensor, cross: Tensor, shift: Tensor) -> AffineMap:
    count, sums = gram[-1, -1], gram[-1, :-1]
    covariance = (cross[:-1].diagonal() - sums * cross[-1] / count).sum()
    variance = (gram.diagonal()[:-1] - sums.square() / count).sum()
    weight = torch.eye(shift.shape[0], dtype=torch.float64, device=shift.device) * (covariance / variance)
    return AffineMap(weight, (cross[-1] - sums @ weight) / count, shift)
