"""What one more draw of a context does through the maps, against maps that are fitted anew; and what intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.coverage import World, covered, simulate
from dmcore.math.fit_noise import fit_influence, fit_pulls
from dmcore.math.moments import InputMoments, MomentAccumulator, TargetMoments
from dmcore.math.split import fit_folds
from dmcore.results import METRICS

N, D, TARGETS, N_STUDIES = 120, 5, 3, 60


def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, targets, and which of two folds each token is held out in."""
    g = np.random.default_rng(0)
    x = g.standard_normal((N, D)) + 2.0
    y = x @ g.standard_normal((D, TARGETS)) + 0.5 * x[:, :1] ** 2 + g.standard_normal((N, TARGETS))
    return x, y, np.arange(N) // 10 % 2


def held_out_squares(
    x: np.ndarray, y: np.ndarray, folds: np.ndarray, weights: np.ndarray, ridge: float, bias: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The plain way: fit each fold's map by weighted ridge on the other fold; squared errors of the *unweighted* held-out tokens
    of each fold, and the residual of every token under the map that it trains."""
    design = np.concatenate([x, np.ones((len(x), 1))], axis=1) if bias else x
    penalty = ridge * np.diag([1.0] * D + [0.0] * bias)
    total, trained = np.zeros(TARGETS), np.zeros_like(y)
    for fold in (0, 1):
        train = folds != fold
        gram = design[train].T @ (weights[train, None] * design[train])
        fitted = np.linalg.solve(gram + penalty, design[train].T @ (weights[train, None] * y[train]))
        total += ((y[~train] - design[~train] @ fitted) ** 2).sum(0)
        trained[train] = y[train] - design[train] @ fitted
    return total, trained


@pytest.mark.parametrize(("ridge", "bias"), [(0.0, True), (0.0, False), (30.0, True), (30.0, False)])
def test_the_influence_of_a_context_is_the_derivative_of_the_held_out_squares(ridge: float, bias: bool) -> None:
    x, y, folds = planted()
    inputs, targets = InputMoments(2, torch.full((D,), 1.7, dtype=torch.float64)), TargetMoments(2, D, TARGETS)
    accumulator = MomentAccumulator(inputs, targets, inputs.shift)
    accumulator.add(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(folds))
    accumulator.finish()
    fit = fit_folds(inputs, targets, [[0], [1]], ridge=ridge, fit_bias=bias)
    pulls = fit_pulls(inputs, targets, [[0], [1]], fit, ridge=ridge, fit_bias=bias)
    _, trained = held_out_squares(x, y, folds, np.ones(N), ridge, bias)
    # With two folds each token trains one map: given its residual under that map, the first order is exact.
    found = fit_influence(pulls, torch.from_numpy(x), torch.from_numpy(trained), torch.from_numpy(folds)).numpy()
    for context in (0, 3, 7):
        tokens, step = np.arange(N) // 10 == context, 1e-4
        up, down = (held_out_squares(x, y, folds, 1.0 + s * step * tokens, ridge, bias)[0] for s in (1, -1))
        np.testing.assert_allclose(found[tokens].sum(0), (up - down) / (2 * step), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def world() -> World:
    return World.make(8)


@pytest.fixture(scope="module")
def truth(world: World) -> dict[str, float]:
    return world.truth(32, np.random.default_rng(1), n_contexts=4000, n_fits=150)


@pytest.fixture(scope="module")
def by_context(world: World) -> list[dict[str, float]]:
    return simulate(world, 40, N_STUDIES)  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("metric", METRICS)
def test_intervals_over_contexts_cover_the_planted_truth(world, truth, by_context, metric) -> None:
    # Where 93 % are covered, fewer than 80 % of 60 are about one in a thousand.
    assert covered(by_context, truth, metric) >= 0.8


@pytest.mark.parametrize("how", [{"mean": 0.0}, {"freedom": 12.0}])
def test_the_truth_is_what_a_very_large_study_finds(how: dict[str, float]) -> None:
    other, bias = World.make(4, **how), "mean" not in how
    given = other.truth(1600, np.random.default_rng(3), n_contexts=8000, n_fits=3, fit_bias=bias)
    (found,) = simulate(other, 2000, 1, fit_bias=bias)
    for metric in METRICS:
        half = (found[metric].high - found[metric].low) / 2
        assert abs(found[metric].value - given[metric]) < 2 * half, metric
        assert half < 0.1 * abs(given[metric]) + 0.01, "a study that is not large tells nothing"
    assert (given["r2_error_norm_sq"] < 0) == (not bias), "no line through 0 predicts a size"


def test_intervals_over_tokens_do_not_cover_it(world, truth) -> None:
    by_token = simulate(world, 40, N_STUDIES, draw_tokens=True)
    assert covered(by_token, truth, "fvu") < 0.7
    assert covered(by_token, truth, "fvu_nonlinear") < 0.7


def test_without_the_noise_of_the_fit_the_interval_of_the_norm_is_too_short(
    world, truth, by_context, monkeypatch
) -> None:
    monkeypatch.setattr("dmcore.math.fit_noise.fit_influence", lambda pulls, x, residual, folds: 0 * residual)
    texts_alone = simulate(world, 40, N_STUDIES)
    for metric in ("r2_error_norm_sq", "r2_error"):
        with_fit, without = ([s[metric].high - s[metric].low for s in studies] for studies in (by_context, texts_alone))
        assert np.mean(with_fit) > 1.05 * np.mean(without)
    assert covered(texts_alone, truth, "r2_error_norm_sq") < covered(by_context, truth, "r2_error_norm_sq")
