"""What held-out least squares gives where there is nothing to find: below 0, by a bias that is known.

A map with a bias is fitted on n tokens of d inputs and predicts tokens that it has not seen. A target that has nothing to do
with x is then predicted worse than by its mean, because the map is fitted to noise. For x0 that was not seen, with the
training mean m and scatter S = sum (x - m)^T (x - m), and a target of variance v,

    E (y0 - prediction)^2 = v (1 + 1/n + (x0 - m) S^-1 (x0 - m)^T).

1. `gaussian_bias`: the mean of that for Gaussian x; held-out R2 is about -d / (n - d - 1).
2. `exchangeable_bias`: for the very x of a study, exact for targets whose rows have been shuffled over all tokens: the
   residual is a contrast of exchangeable values, so its variance is exactly as above, whatever the targets are. R2 is pooled
   over K folds and about the mean of all N tokens, whose scatter is (N - 1) v.
3. `independent_bias`: the same for targets of a variance that depends on the token, each in a direction of its own.
4. `ridge_by_folds`: R2 with the ridge of each fold chosen on the others; where there is nothing to find it tends to 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dmcore.math.linear_map import RidgeBasis, centred, fit_map, ridge_path, solve_scaled, squared_error
from dmcore.math.moments import InputMoments, TargetMoments

Cells = Sequence[Sequence[int]]
"""The cells that hold each fold's tokens."""
RELATIVE_RIDGES = (0.0, *(10.0 ** (step / 2) for step in range(-12, 9)), 1e6, 1e9)
"""In units of the mean eigenvalue of the scatter of x; the largest leave the mean alone."""


def others(cells_of_fold: Cells, fold: int) -> list[int]:
    """The cells of all folds but one."""
    return [cell for other, cells in enumerate(cells_of_fold) if other != fold for cell in cells]


def gaussian_bias(n_train: float, d_in: int, n_tokens: int) -> float:
    """Expected R2, pooled over folds, of a target that has nothing to do with Gaussian `x`; nan where it has no mean.

    `1 - (1 + 1/n) (n - 2) / (n - d - 2) N / (N - 1)`, which is about `-d / (n - d - 1)`; with d = 0, that of the mean alone.

    Args:
        n_train: n, training tokens of a fold.
        d_in: d, dimensions of x.
        n_tokens: N, all tokens, about whose mean the variance is.
    """
    left = n_train - d_in - 2
    worse = (1.0 + 1.0 / n_train) * (n_train - 2) / left if left > 0 else float("nan")
    return 1.0 - worse * n_tokens / (n_tokens - 1.0)


def exchangeable_bias(inputs: InputMoments, cells_of_fold: Cells) -> float:
    """Expected R2, pooled over folds, of targets whose rows have been shuffled over all tokens: exact, given `x`."""
    total, n_tokens = 0.0, 0.0
    for fold, held_out in enumerate(cells_of_fold):
        train, test = inputs.pooled(others(cells_of_fold, fold)), inputs.pooled(held_out)
        n_train, n_test = float(train[-1, -1]), float(test[-1, -1])
        total += n_test * (1.0 + 1.0 / n_train) + float(_leverage(train, test))
        n_tokens += n_test
    return 1.0 - total / (n_tokens - 1.0)


def _leverage(train: Tensor, test: Tensor) -> Tensor:
    """`sum (x0 - m) S^-1 (x0 - m)^T` over held-out tokens."""
    mean = train[-1, :-1] / train[-1, -1]
    scatter, _ = centred(train, torch.zeros(train.shape[0], 1, dtype=train.dtype, device=train.device))
    outer = torch.outer(test[-1, :-1], mean)
    about = test[:-1, :-1] - outer - outer.T + test[-1, -1] * torch.outer(mean, mean)
    return solve_scaled(scatter, about, 0.0).trace()


def independent_bias(
    inputs: InputMoments, cells_of_fold: Cells, x: Tensor, norm_sq: Tensor, folds: Tensor, rows: int = 8192
) -> float:
    """Expected R2, pooled, of targets `|e| u` with `u` a direction of its own for each token: exact, given x and |e|.

    Args:
        inputs: moments of x over the cells.
        cells_of_fold: the cells of each fold.
        x: (n_tokens, d_in) activations.
        norm_sq: (n_tokens,) squared norms `|e|^2`.
        folds: (n_tokens,) fold of each token.
        rows: tokens worked on at once.

    A training token i adds `|e_i|^2 sum_0 w_i(x0)^2`, with `w_i(x0) = [x0, 1] G^-1 [x_i, 1]^T`: a quadratic form of x_i.
    """
    forms = []
    for fold, held_out in enumerate(cells_of_fold):
        train, test = inputs.pooled(others(cells_of_fold, fold)), inputs.pooled(held_out)
        half = solve_scaled(train, test, 0.0)
        forms.append(solve_scaled(train, half.T.contiguous(), 0.0))
    extra = 0.0
    for start in range(0, x.shape[0], rows):
        some = x[start : start + rows].double() - inputs.shift
        some = torch.cat([some, torch.ones_like(some[:, :1])], dim=1)
        weights, own = norm_sq[start : start + rows].double(), folds[start : start + rows]
        for fold, form in enumerate(forms):
            seen = own != fold
            extra += float((weights * ((some @ form) * some).sum(1))[seen].sum())
    total, n_tokens = float(norm_sq.double().sum()), x.shape[0]
    return 1.0 - (total + extra) / (total * (1.0 - 1.0 / n_tokens))


def held_out_r2(inputs: InputMoments, targets: TargetMoments, cells_of_fold: Cells, columns: slice) -> float:
    """R2 by least squares with a bias, pooled over folds and the targets in `columns`, from moments alone."""
    residual = 0.0
    for fold, held_out in enumerate(cells_of_fold):
        cells = others(cells_of_fold, fold)
        fitted = fit_map(inputs.pooled(cells), targets.pooled(cells)[0][:, columns], inputs.shift)
        cross, target_sq = targets.pooled(held_out)
        residual += float(squared_error(fitted, inputs.pooled(held_out), cross[:, columns], target_sq[columns]).sum())
    return 1.0 - residual / _scatter(inputs, targets, cells_of_fold, columns)


def ridge_by_folds(
    bases: Sequence[RidgeBasis], inputs: InputMoments, targets: TargetMoments, cells_of_fold: Cells, columns: slice
) -> float:
    """As `held_out_r2`, with the ridge of each fold the one that predicts the other folds best when they are held out.

    Args:
        bases: `ridge_basis` of each fold.
        inputs, targets, cells_of_fold, columns: as of `held_out_r2`.
    """
    every = [cell for cells in cells_of_fold for cell in cells]
    mean_eigenvalue = float(inputs.scatter(every).mean())
    ridges = torch.tensor(RELATIVE_RIDGES, dtype=torch.float64) * mean_eigenvalue
    paths = []
    for fold, held_out in enumerate(cells_of_fold):
        cells = others(cells_of_fold, fold)
        train = (inputs.pooled(cells), targets.pooled(cells)[0][:, columns])
        cross, target_sq = targets.pooled(held_out)
        test = (inputs.pooled(held_out), cross[:, columns], target_sq[columns])
        paths.append(ridge_path(bases[fold], train, test, ridges))
    errors = torch.stack(paths)
    chosen = [int((errors.sum(0) - own).argmin()) for own in errors]
    residual = sum(float(errors[fold, ridge]) for fold, ridge in enumerate(chosen))
    return 1.0 - residual / _scatter(inputs, targets, cells_of_fold, columns)


def _scatter(inputs: InputMoments, targets: TargetMoments, cells_of_fold: Cells, columns: slice) -> float:
    """`sum (y - mean y)^2` over all tokens."""
    every = [cell for cells in cells_of_fold for cell in cells]
    cross, target_sq = targets.pooled(every)
    count = inputs.pooled(every)[-1, -1]
    return float((target_sq[columns] - cross[-1, columns].square() / count).sum())
