"""Means of few independent numbers: the same intervals as scipy's, and no more than there is to say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_ind

from dmcore.estimate import Estimate
from dmcore.math.welch import mean_of_independent, welch


@pytest.mark.parametrize("sizes", [(3, 3), (2, 5), (10, 4)])
def test_the_interval_of_a_difference_is_scipys(sizes: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(0.7, 0.02, sizes[0]), generator.normal(0.6, 0.1, sizes[1])
    expected = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    found = welch(first.tolist(), second.tolist())
    assert found.value == pytest.approx(first.mean() - second.mean(), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_one_number_has_no_interval_none_has_no_mean_and_equal_ones_no_width() -> None:
    assert welch([0.7], [0.6, 0.5]) == pytest.approx(0.15)
    assert math.isnan(welch([0.7], [0.6, 0.5]).low)
    assert math.isnan(welch([], [0.6]))
    same = welch([0.75, 0.75], [0.5, 0.5])
    assert (same.value, same.low, same.high) == (0.25, 0.25, 0.25)


def test_means_of_independent_estimates_have_the_interval_of_their_sum() -> None:
    found = mean_of_independent([Estimate(0.6, 0.57, 0.64), Estimate(0.8, 0.76, 0.83)])
    assert found.value == pytest.approx(0.7)
    assert found.low == pytest.approx(0.7 - math.hypot(0.03, 0.04) / 2)
    assert found.high == pytest.approx(0.7 + math.hypot(0.04, 0.03) / 2)
    one = mean_of_independent([Estimate(0.6, 0.5, 0.8)])
    assert (one.value, one.low, one.high) == pytest.approx((0.6, 0.5, 0.8))
    assert math.isnan(mean_of_independent([]))
    assert math.isnan(mean_of_independent([Estimate(0.6)]).low)
