"""Regressions on any inputs, of any part of an error, from one set of moments: equal to least squares on stacked tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dmcore.math.corrections import (
    Added,
    Correction,
    Rows,
    Skip,
    Unchanged,
    fit_scale,
    fit_skips,
    linear_after,
    linear_error,
    mean_after,
)
from dmcore.math.joint_moments import ACTS, TARGETS, JointMoments, held_out_r2

N, FOLDS = 1500, 4
WIDTHS = {ACTS: 6, "previous": 6, "mlp": 4}
SUBSETS = [("previous",), ("mlp",), ("previous", "mlp"), ("mlp", "previous"), (ACTS,), ("previous", "mlp", ACTS)]
Data = tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]


def planted(seed: int = 0) -> Data:
    """Inputs with means far from 0, an error with a part from each and a square of x, and folds; some tokens skipped."""
    g = torch.Generator().manual_seed(seed)
    rows = {name: torch.randn(N, width, generator=g).double() + 2.0 for name, width in WIDTHS.items()}
    rows["mlp"] += rows[ACTS][:, :4]
    mix = [torch.randn(width, 6, generator=g).double() for width in WIDTHS.values()]
    error = sum(z @ a for z, a in zip(rows.values(), mix, strict=True)) + rows[ACTS].square()
    return rows, error, torch.randint(-1, FOLDS, (N,), generator=g)


def moments_of(data: Data, names: tuple[str, ...] = tuple(WIDTHS)) -> JointMoments:
    rows, error, folds = data
    moments = JointMoments({name: rows[name][:100].mean(0) for name in names}, FOLDS, error.shape[1])
    for first in range(0, N, 400):
        some = slice(first, first + 400)
        moments.add({name: rows[name][some] for name in names}, error[some], folds[some])
    moments.finish()
    return moments


def plain_fit(design: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Weights and, last, the bias."""
    ones = torch.ones(len(design), 1, dtype=torch.float64)
    return torch.linalg.lstsq(torch.cat([design, ones], 1), target, driver="gelsd").solution


def plain_predict(weights: torch.Tensor, design: torch.Tensor) -> torch.Tensor:
    return design @ weights[:-1] + weights[-1]


def plain_targets(data: Data, fold: int) -> dict[str, torch.Tensor]:
    """Every token's parts of the error by the map that was fitted without a fold."""
    rows, error, folds = data
    train = (folds >= 0) & (folds != fold)
    linear = plain_predict(plain_fit(rows[ACTS][train], error[train]), rows[ACTS])
    return {"error": error, "linear": linear, "nonlinear": error - linear}


@pytest.mark.parametrize("names", SUBSETS)
def test_held_out_r2_equals_least_squares_on_the_stacked_tokens(names: tuple[str, ...]) -> None:
    data = planted()
    rows, _, folds = data
    design = torch.cat([rows[name] for name in names], 1)
    found = held_out_r2(moments_of(data), names)
    residual, actual = dict.fromkeys(TARGETS, 0.0), {target: [] for target in TARGETS}
    for fold in range(FOLDS):
        train, test = (folds >= 0) & (folds != fold), folds == fold
        for target, y in plain_targets(data, fold).items():
            left = y[test] - plain_predict(plain_fit(design[train], y[train]), design[test])
            residual[target] += float(left.square().sum())
            actual[target].append(y[test])
    for target in TARGETS:
        y = torch.cat(actual[target])
        expected = 1.0 - residual[target] / float((y - y.mean(0)).square().sum())
        assert found[target] == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("names", SUBSETS)
def test_a_subset_is_what_moments_of_that_subset_alone_give(names: tuple[str, ...]) -> None:
    data = planted()
    both = moments_of(data), moments_of(data, (ACTS, *(name for name in names if name != ACTS)))
    for target in TARGETS:
        maps = [m.fit(names, [0, 2], target, linear_error(m, [0, 2], ridge=0.0, fit_bias=True)) for m in both]
        torch.testing.assert_close(maps[0].weight, maps[1].weight, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(maps[0].bias, maps[1].bias, rtol=1e-10, atol=1e-10)
    found, alone = (held_out_r2(m, names) for m in both)
    assert found == pytest.approx(alone, abs=1e-10)


def test_weights_are_those_of_least_squares_on_the_stacked_tokens() -> None:
    data = planted()
    rows, error, folds = data
    train = (folds == 0) | (folds == 3)
    design = torch.cat([rows["previous"], rows["mlp"]], 1)
    expected = plain_fit(design[train], error[train])
    found = moments_of(data).fit(("previous", "mlp"), [0, 3])
    torch.testing.assert_close(found.weight, expected[:-1], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.bias, expected[-1], rtol=1e-8, atol=1e-8)


def test_the_parts_add_up_and_x_tells_nothing_of_the_nonlinear_part() -> None:
    moments = moments_of(planted())
    linear = linear_error(moments, [0, 1], ridge=0.0, fit_bias=True)
    for names in SUBSETS:
        parts = [moments.cross(names, [2, 3], target, linear) for target in TARGETS]
        torch.testing.assert_close(parts[0], parts[1] + parts[2], rtol=1e-10, atol=1e-8)
    assert held_out_r2(moments, (ACTS,))["linear"] == pytest.approx(1.0, abs=1e-10)
    assert abs(held_out_r2(moments, (ACTS,))["nonlinear"]) < 0.02


def test_an_error_that_does_not_vary_has_no_r2() -> None:
    rows, error, folds = planted()
    found = held_out_r2(moments_of((rows, torch.zeros_like(error), folds)), ("mlp",))
    assert all(np.isnan(value) for value in found.values())


def added(moments: JointMoments, names: tuple[str, ...], folds: list[int]) -> Added:
    fitted = moments.fit(names, folds)
    return Added(names, fitted.weight, fitted.offset)


def all_corrections(moments: JointMoments, folds: list[int]) -> list[Correction]:
    linear = linear_error(moments, folds, ridge=0.0, fit_bias=True)
    skips = fit_skips(moments, folds, linear)
    return [
        Unchanged(),
        fit_scale(moments, folds, per_dimension=False),
        fit_scale(moments, folds, per_dimension=True),
        Skip(skips, 2),
        Skip(skips, 6),
        added(moments, ("previous",), folds),
        added(moments, ("mlp", ACTS), folds),
    ]


def rows_of(data: Data, moments: JointMoments, where: torch.Tensor) -> Rows:
    rows, error, _ = data
    inputs = {name: rows[name][where] - moments.shifts[name] for name in WIDTHS}
    return Rows(inputs, error[where], torch.ones(int(where.sum()), 1, dtype=torch.float64))


def test_the_linear_part_of_what_a_correction_leaves_needs_no_tokens() -> None:
    data = planted()
    rows, _, folds = data
    moments = moments_of(data)
    train = (folds == 0) | (folds == 1)
    for correction in all_corrections(moments, [0, 1]):
        left = correction.after(rows_of(data, moments, train))
        expected = plain_predict(plain_fit(rows[ACTS][train], left), rows[ACTS])
        found = linear_after(moments, correction, [0, 1], ridge=0.0, fit_bias=True).predict(rows[ACTS])
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_means_of_what_is_left_are_those_of_the_tokens() -> None:
    data = planted()
    folds = data[2]
    moments = moments_of(data)
    by_fold = [all_corrections(moments, moments.others(fold)) for fold in range(FOLDS)]
    for corrections in zip(*by_fold, strict=True):
        left = [one.after(rows_of(data, moments, folds == fold)) for fold, one in enumerate(corrections)]
        torch.testing.assert_close(mean_after(moments, corrections), torch.cat(left).mean(0), rtol=1e-9, atol=1e-9)


def test_the_scale_is_that_of_least_squares_and_undoes_planted_shrinkage() -> None:
    rows, error, folds = planted()
    moments = moments_of((rows, error, folds))
    kept = folds >= 0
    x, recon = rows[ACTS][kept], (rows[ACTS] - error)[kept]
    centred_x, centred_recon = x - x.mean(0), recon - recon.mean(0)
    every = list(range(FOLDS))
    one, each = (fit_scale(moments, every, per_dimension=which) for which in (False, True))
    assert float(one.scale) == pytest.approx(float((centred_x * centred_recon).sum() / centred_recon.square().sum()))
    torch.testing.assert_close(each.scale, (centred_x * centred_recon).sum(0) / centred_recon.square().sum(0))
    shrunk = torch.tensor([0.5, 0.8, 0.9, 0.6, 0.7, 1.25], dtype=torch.float64)
    planted_error = rows[ACTS] - (rows[ACTS].mean(0) + shrunk * (rows[ACTS] - rows[ACTS].mean(0)))
    found = fit_scale(moments_of((rows, planted_error, folds)), every, per_dimension=True)
    torch.testing.assert_close(found.scale, 1 / shrunk, rtol=1e-8, atol=1e-8)
    dead = fit_scale(moments_of((rows, rows[ACTS] - 1.5, folds)), every, per_dimension=True)
    torch.testing.assert_close(dead.scale, torch.ones(6, dtype=torch.float64))


def test_a_correction_never_does_worse_than_nothing_where_it_was_fitted() -> None:
    data = planted()
    moments, every = moments_of(data), list(range(FOLDS))
    rows = rows_of(data, moments, data[2] >= 0)
    before = float((rows.error - rows.error.mean(0)).square().sum())
    for correction in all_corrections(moments, every)[3:]:
        assert float(correction.after(rows).square().sum()) < before
        single = correction.to(torch.float32)
        inputs = {name: values.float() for name, values in rows.inputs.items()}
        left = single.after(Rows(inputs, rows.error.float(), rows.count.float()))
        torch.testing.assert_close(left.double(), correction.after(rows), rtol=1e-3, atol=1e-3)
