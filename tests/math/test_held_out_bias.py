"""The bias of held-out least squares is what shuffling gives, and what a plain implementation gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge

from dmcore.math.held_out_bias import (
    RELATIVE_RIDGES,
    exchangeable_bias,
    gaussian_bias,
    held_out_r2,
    independent_bias,
    others,
    ridge_by_folds,
)
from dmcore.math.linear_map import ridge_basis
from dmcore.math.moments import InputMoments, MomentAccumulator, TargetMoments

N, D, FOLDS = 300, 12, 5


def activations(seed: int = 0, *, heavy: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Correlated activations, heavy in the tails, that drift from fold to fold; and their folds."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(4, (N, D)) if heavy else rng.standard_normal((N, D))
    folds = np.arange(N) * FOLDS // N
    if heavy:
        x = x @ rng.standard_normal((D, D)) + folds[:, None] * rng.standard_normal(D) + 5.0
    return x, folds


def moments(x: np.ndarray, y: np.ndarray, folds: np.ndarray) -> tuple[InputMoments, TargetMoments]:
    inputs = InputMoments(FOLDS, torch.from_numpy(x.mean(0)))
    targets = TargetMoments(FOLDS, x.shape[1], y.shape[1])
    accumulator = MomentAccumulator(inputs, targets, inputs.shift)
    accumulator.add(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(folds))
    accumulator.finish()
    return inputs, targets


CELLS = [[fold] for fold in range(FOLDS)]


def naive(x: np.ndarray, y: np.ndarray, folds: np.ndarray, ridges: list[float] | None = None) -> float:
    """One fit of scikit-learn a fold; R2 pooled about the mean of all."""
    predicted = np.empty_like(y)
    for fold in range(FOLDS):
        train = folds != fold
        model = LinearRegression() if ridges is None else Ridge(alpha=ridges[fold])
        predicted[~train] = model.fit(x[train], y[train]).predict(x[~train]).reshape(-1, y.shape[1])
    return 1 - ((y - predicted) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()


def test_r2_from_moments_is_that_of_scikit_learn() -> None:
    x, folds = activations()
    y = x @ np.random.default_rng(1).standard_normal((D, 3)) + np.random.default_rng(2).standard_normal((N, 3))
    inputs, targets = moments(x, y, folds)
    assert held_out_r2(inputs, targets, CELLS, slice(0, 3)) == pytest.approx(naive(x, y, folds), abs=1e-9)
    assert held_out_r2(inputs, targets, CELLS, slice(1, 2)) == pytest.approx(naive(x, y[:, 1:2], folds), abs=1e-9)


@pytest.mark.parametrize("heavy", [True, False])
def test_the_bias_is_what_shuffling_gives_whatever_the_targets(heavy: bool) -> None:
    x, folds = activations(heavy=heavy)
    rng = np.random.default_rng(3)
    y = np.exp(rng.standard_normal((N, 4))) + x[:, :4] ** 2  # far from Gaussian, and made of x
    values = []
    for _ in range(300):
        inputs, targets = moments(x, y[rng.permutation(N)], folds)
        values.append(held_out_r2(inputs, targets, CELLS, slice(0, 4)))
    exact = exchangeable_bias(inputs, CELLS)
    error = np.std(values) / np.sqrt(len(values))
    assert error < abs(exact) / 20
    assert np.mean(values) == pytest.approx(exact, abs=3.5 * error)
    if heavy:
        gaussian = gaussian_bias(N * (1 - 1 / FOLDS), D, N)
        assert abs(np.mean(values) - gaussian) > 4 * error, "else the exact one would not be needed"


def test_for_gaussian_activations_it_is_the_known_formula() -> None:
    exact = []
    for seed in range(150):
        x, folds = activations(seed, heavy=False)
        inputs, _ = moments(x, x[:, :1], folds)
        exact.append(exchangeable_bias(inputs, CELLS))
    known = gaussian_bias(N * (1 - 1 / FOLDS), D, N)
    assert np.mean(exact) == pytest.approx(known, rel=0.02)
    n, d = 50_000.0, 128
    assert gaussian_bias(n, d, 62_500) == pytest.approx(-d / (n - d - 1), rel=0.02)
    assert np.isnan(gaussian_bias(13.0, 12, 16))


def test_random_directions_of_unequal_norms_have_the_bias_of_their_norms() -> None:
    x, folds = activations()
    rng = np.random.default_rng(4)
    norms = np.exp(rng.standard_normal(N)) * (1 + (x[:, 0] - x[:, 0].mean()) ** 2)
    values = []
    for _ in range(300):
        u = rng.standard_normal((N, 6))
        y = u / np.linalg.norm(u, axis=1, keepdims=True) * norms[:, None]
        inputs, targets = moments(x, y, folds)
        values.append(held_out_r2(inputs, targets, CELLS, slice(0, 6)))
    known = independent_bias(
        inputs, CELLS, torch.from_numpy(x), torch.from_numpy(norms**2), torch.from_numpy(folds), rows=77
    )
    error = np.std(values) / np.sqrt(len(values))
    assert np.mean(values) == pytest.approx(known, abs=4 * error)
    assert abs(known - exchangeable_bias(inputs, CELLS)) > 10 * error, "unequal norms matter here"


def bases(inputs: InputMoments) -> list:
    return [ridge_basis(inputs.pooled(others(CELLS, f)), inputs.pooled(CELLS[f])) for f in range(FOLDS)]


def test_a_chosen_ridge_finds_nothing_in_noise_and_everything_in_a_map() -> None:
    x, folds = activations(heavy=False)
    rng = np.random.default_rng(5)
    noise = rng.standard_normal((N, 8))
    inputs, targets = moments(x, noise, folds)
    bias = exchangeable_bias(inputs, CELLS)
    assert abs(ridge_by_folds(bases(inputs), inputs, targets, CELLS, slice(0, 8))) < abs(bias) / 4
    planted = x @ rng.standard_normal((D, 8)) + 0.1 * noise
    inputs, targets = moments(x, planted, folds)
    plain = held_out_r2(inputs, targets, CELLS, slice(0, 8))
    assert ridge_by_folds(bases(inputs), inputs, targets, CELLS, slice(0, 8)) == pytest.approx(plain, abs=1e-4)


def test_the_ridge_of_a_fold_is_chosen_on_the_others_as_a_plain_search_does() -> None:
    x, folds = activations()
    y = x @ np.random.default_rng(6).standard_normal((D, 2)) + 20 * np.random.default_rng(7).standard_normal((N, 2))
    inputs, targets = moments(x, y, folds)
    mean = float(inputs.scatter(range(FOLDS)).mean())
    errors = np.empty((FOLDS, len(RELATIVE_RIDGES)))
    for k, ridge in enumerate(RELATIVE_RIDGES):
        for fold in range(FOLDS):
            train = folds != fold
            model = Ridge(alpha=ridge * mean).fit(x[train], y[train])
            errors[fold, k] = ((y[~train] - model.predict(x[~train])) ** 2).sum()
    chosen = [float(RELATIVE_RIDGES[(errors.sum(0) - errors[fold]).argmin()] * mean) for fold in range(FOLDS)]
    found = ridge_by_folds(bases(inputs), inputs, targets, CELLS, slice(0, 2))
    assert found == pytest.approx(naive(x, y, folds, chosen), abs=1e-7)
