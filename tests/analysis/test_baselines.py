"""Baselines of the norm: planted dependence is found, noise is not, and nothing is fitted where it is tested."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import r2_score

from dmcore.analysis.baselines import TokenColumns, baseline_table, held_out_group_means, quantile_groups, r2_of
from dmcore.estimate import Estimate

N_CONTEXTS, LENGTH, N_FOLDS = 60, 50, 5


def columns(norm_sq: np.ndarray) -> TokenColumns:
    contexts = np.repeat(np.arange(N_CONTEXTS), LENGTH)
    return TokenColumns(norm_sq, contexts, contexts % N_FOLDS)


def test_group_means_are_those_of_the_other_folds() -> None:
    g = np.random.default_rng(0)
    groups = g.integers(0, 40, N_CONTEXTS * LENGTH)
    groups[7] = 40  # a group of one token: its own fold is all there is
    some = columns(g.random(len(groups)) + groups)
    found = held_out_group_means(groups, some, N_FOLDS)
    for token in (0, 7, 1234, 2999):
        others = some.folds != some.folds[token]
        same = others & (groups == groups[token])
        expected = some.norm_sq[same].mean() if same.any() else some.norm_sq[others].mean()
        assert found[token] == pytest.approx(expected, rel=1e-12)
    assert r2_of(found, some, 0, N_CONTEXTS).value == pytest.approx(r2_score(some.norm_sq, found), abs=1e-12)


def test_a_planted_predictor_is_found_and_noise_is_not() -> None:
    g = np.random.default_rng(1)
    number, noise = g.normal(size=(2, N_CONTEXTS * LENGTH))
    token = g.integers(0, 500, N_CONTEXTS * LENGTH)
    some = columns(4 + np.sin(2 * number) + 0.1 * g.normal(size=len(number)))
    table = baseline_table(
        some, {"loss": number, "entropy": noise}, {"token": token}, Estimate(0.5), N_FOLDS, 0, N_CONTEXTS
    )
    r2 = dict(zip(table["predictor"], table["r2"], strict=True))
    assert list(r2) == ["x", "token", "loss", "entropy"]
    assert r2["loss"] > 0.9  # a sine: no straight line finds it
    assert abs(r2["entropy"]) < 0.03
    assert r2["token"] < 0.0  # 500 groups fitted to noise predict worse than the mean, when held out
    low, value, high = (table[c][1 + 1] for c in ("r2_low", "r2", "r2_high"))
    assert low < value < high


def test_values_that_are_missing_or_equal_make_groups_too() -> None:
    groups = quantile_groups(np.array([1.0, 1.0, 1.0, np.nan]))
    assert groups[0] == groups[1] == groups[2] != groups[3]
    assert quantile_groups(np.full(3, np.nan)).tolist() == [0, 0, 0]
    assert len(np.unique(quantile_groups(np.random.default_rng(0).normal(size=5000)))) == 32
