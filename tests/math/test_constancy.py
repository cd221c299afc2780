"""Constancy in width: the slope is scipy's, and the test rejects what it should as often as it should."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dmcore.errors import DataError
from dmcore.math.bootstrap import poisson_weights
from dmcore.math.constancy import constancy, wald_equal

WIDTHS = 2.0 ** np.arange(8, 13)


def redraws(g: np.random.Generator, values: np.ndarray, n: int) -> np.ndarray:
    """Redraws of log values whose noise is mostly shared between widths."""
    return values + 0.02 * g.normal(size=(n, 1)) + 0.004 * g.normal(size=(n, 5))


def test_the_slope_is_that_of_linregress_and_the_ratio_is_paired() -> None:
    g = np.random.default_rng(0)
    values = 0.3 * WIDTHS**-0.1 * np.exp(0.02 * g.normal(size=5))
    replicates = np.exp(redraws(g, np.log(values), 500))
    found = constancy(WIDTHS, values, replicates)
    assert found.slope == pytest.approx(stats.linregress(np.log2(WIDTHS), np.log(values)).slope, rel=1e-12)
    ends = np.percentile([stats.linregress(np.log2(WIDTHS), np.log(one)).slope for one in replicates], [2.5, 97.5])
    np.testing.assert_allclose([found.slope.low, found.slope.high], ends, rtol=1e-9)
    assert found.ratio == pytest.approx(values[-1] / values[0])
    paired = np.percentile(replicates[:, -1] / replicates[:, 0], [2.5, 97.5])
    np.testing.assert_allclose([found.ratio.low, found.ratio.high], paired)


def test_the_wald_statistic_is_the_quadratic_form_of_any_contrasts() -> None:
    g = np.random.default_rng(1)
    replicates = redraws(g, np.zeros(5), 300)
    values = 0.01 * g.normal(size=5)
    wald, dof, p = wald_equal(values, replicates)
    contrasts = np.eye(5)[1:] - np.eye(5)[0]
    spread = contrasts @ np.cov(replicates.T) @ contrasts.T
    expected = contrasts @ values @ np.linalg.inv(spread) @ contrasts @ values
    assert wald == pytest.approx(expected, rel=1e-9)
    assert dof == 4
    assert p == pytest.approx(stats.chi2.sf(expected, 4))


def test_p_is_uniform_where_all_widths_have_one_mean_and_small_where_they_have_not() -> None:
    g = np.random.default_rng(2)
    null, sloped = [], []
    for _ in range(300):
        values = redraws(g, np.zeros(5), 1)[0]
        replicates = redraws(g, values, 1000)
        null.append(wald_equal(values, replicates)[2])
        slope = -0.01 * np.arange(5)
        sloped.append(wald_equal(values + slope, replicates + slope)[2])
    assert stats.kstest(null, "uniform").pvalue > 0.05
    assert 0.02 <= np.mean(np.array(null) < 0.05) <= 0.09
    assert np.mean(np.array(sloped) < 0.05) > 0.95


@pytest.mark.parametrize("n_contexts", [10, 15])
def test_with_few_contexts_the_test_still_rejects_one_in_twenty(n_contexts: int) -> None:
    g = np.random.default_rng(3)
    weights = poisson_weights(n_contexts, seed=1)
    weights = weights[weights.sum(1) > 0]
    found, known = [], []
    for _ in range(300):
        errors = np.exp(0.3 * g.normal(size=(n_contexts, 1)) + 0.1 * g.normal(size=(n_contexts, 5)))
        logs = np.log(errors.mean(0)), np.log((weights @ errors) / weights.sum(1, keepdims=True))
        found.append(wald_equal(*logs, n_contexts)[2])
        known.append(wald_equal(*logs)[2])
    assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.09
    assert np.mean(np.array(known) < 0.05) > 0.1, "chi squared would not do"


def test_p_is_that_of_hotelling() -> None:
    g = np.random.default_rng(4)
    sample = g.normal(size=(15, 4)) + 0.4 * np.arange(4)
    differences = np.diff(sample, axis=1)
    mean, spread = differences.mean(0), np.cov(differences.T) / 15
    statistic = mean @ np.linalg.solve(spread, mean)
    expected = stats.f.sf((15 - 3) / (3 * 14) * statistic, 3, 12)
    redrawn = sample.mean(0) + g.multivariate_normal(np.zeros(4), np.cov(sample.T) / 15, 200_000)
    wald, dof, p = wald_equal(sample.mean(0), redrawn, 15)
    assert wald == pytest.approx(statistic, rel=0.02)
    assert dof == 3
    assert p == pytest.approx(expected, rel=0.05)
    assert np.isnan(wald_equal(sample.mean(0), redrawn, 3)[2])


def test_where_replicates_say_nothing_the_test_is_undefined() -> None:
    values = 0.3 * WIDTHS**-0.1
    for replicates in (np.empty((0, 5)), np.tile(values, (100, 1)), np.full((100, 5), np.nan)):
        found = constancy(WIDTHS, values, replicates)
        assert np.isnan(found.wald)
        assert np.isnan(found.p)
        assert found.slope == pytest.approx(-0.1 * np.log(2))
    with pytest.raises(DataError, match="at least 2"):
        constancy(WIDTHS[:1], values[:1], np.empty((0, 1)))
    with pytest.raises(DataError, match="logarithm"):
        constancy(WIDTHS, values - 1, np.empty((0, 5)))
