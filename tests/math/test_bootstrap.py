"""Intervals: the weights are Poisson(1) and shared, and 95 % means 95 %."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dmcore.math.bootstrap import bootstrap_units, interval, poisson_weights, ratio


def test_weights_are_poisson_and_depend_on_seed_and_unit_alone() -> None:
    weights = poisson_weights(200, seed=5, n_replicates=2000)
    assert weights.mean() == pytest.approx(1.0, abs=0.01)
    assert weights.var() == pytest.approx(1.0, abs=0.02)
    assert np.mean(weights == 0) == pytest.approx(np.exp(-1), abs=0.003)
    np.testing.assert_array_equal(poisson_weights(50, seed=5, n_replicates=2000), weights[:, :50])
    assert (poisson_weights(50, seed=6, n_replicates=2000) != weights[:, :50]).any()
    assert abs(np.corrcoef(weights[:, 0], weights[:, 1])[0, 1]) < 0.1


def test_intervals_of_a_ratio_cover_the_truth_95_times_in_100() -> None:
    g = np.random.default_rng(0)
    covered = 0
    for trial in range(400):
        size = g.gamma(4.0, 1.0, 120)
        share = np.clip(g.normal(0.3, 0.1, 120), 0, None)
        weights = poisson_weights(120, seed=trial, n_replicates=400)
        value = (share * size).sum() / size.sum()
        estimate = interval(value, ratio(share * size, size, weights))
        covered += estimate.low <= 0.3 <= estimate.high
    assert 0.91 <= covered / 400 <= 0.98


def test_more_contexts_than_units_are_bundled_evenly() -> None:
    units = bootstrap_units(5003)
    assert np.bincount(units).max() - np.bincount(units).min() == 1
    assert units.max() == 1999
    np.testing.assert_array_equal(bootstrap_units(7), np.arange(7))


def test_large_seeds_differ_and_small_ones_are_what_they_were() -> None:
    assert not np.array_equal(poisson_weights(5, 2**63), poisson_weights(5, 2**63 + 1))
    raw = np.random.Philox(key=[3, 2]).random_raw(1000)
    cdf = np.cumsum([np.exp(-1.0) / math.factorial(k) for k in range(20)])
    expected = np.searchsorted(cdf, (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53, side="right")
    np.testing.assert_array_equal(poisson_weights(5, 3)[:, 2], expected)
