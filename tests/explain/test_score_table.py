"""Intervals and means: equal to statsmodels, and to a bootstrap by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from dmcore.explain.score_table import Outcome, failed, outcome_of, score_table, summarise
from dmcore.explain.wilson import mean_of_two, wilson
from dmcore.math.bootstrap import poisson_weights
from tests.explain import planted


@pytest.mark.parametrize("successes, n", [(0, 1), (1, 1), (3, 7), (0, 50), (50, 50), (49, 100), (999, 1000)])
def test_wilson_intervals_equal_those_of_statsmodels(successes: int, n: int) -> None:
    found = wilson(successes, n)
    assert found == successes / n
    assert (found.low, found.high) == pytest.approx(proportion_confint(successes, n, method="wilson"), abs=1e-12)


def test_a_share_of_nothing_is_no_number() -> None:
    assert all(math.isnan(value) for value in (wilson(0, 0), wilson(0, 0).low, wilson(0, 0).high))


def test_the_interval_of_a_balanced_accuracy_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.binomial(50, 0.9, 2000).tolist(), generator.binomial(40, 0.6, 2000).tolist()
    intervals = [mean_of_two(wilson(a, 50), wilson(b, 40)) for a, b in zip(first, second, strict=True)]
    covered = np.mean([one.low <= 0.75 <= one.high for one in intervals])
    assert 0.935 <= covered <= 0.965  # 0.95, and three standard errors


def test_a_row_counts_what_was_told_rightly() -> None:
    examples = planted.plain()
    said = [decile >= 4 for decile in range(10)]
    outcome = outcome_of(examples, "why", said, [True, *[False] * 9], auc=0.8)
    (row,) = score_table([Outcome.of_record(outcome.record())]).to_dicts()
    assert row["decile_accuracy"] == [0.0] * 4 + [1.0] * 6
    assert row["decile_n"] == [1] * 10
    assert (row["accuracy"], row["silent_accuracy"], row["balanced_accuracy"]) == pytest.approx((0.75, 0.9, 0.75))
    assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx(proportion_confint(15, 20, method="wilson"))
    assert row["decile_low"][9] == pytest.approx(proportion_confint(1, 1, method="wilson")[0])
    assert (row["n"], row["n_active"], row["auc"], row["failure"]) == (20, 10, 0.8, None)


def test_balanced_accuracy_gives_both_sides_the_same_weight() -> None:
    outcome = Outcome(0, "", (*[0] * 9, 3, 90), (*[0] * 9, 4, 100))
    (row,) = score_table([outcome]).to_dicts()
    assert row["balanced_accuracy"] == pytest.approx((3 / 4 + 0.9) / 2)
    assert row["accuracy"] == pytest.approx(93 / 104)
    assert row["decile_accuracy"] == [None] * 9 + [0.75]


def test_means_are_over_latents_with_a_bootstrap_over_them() -> None:
    generator = np.random.default_rng(1)
    right = generator.integers(0, 5, size=(30, 11))
    outcomes = [Outcome(number, "", tuple(row), (4,) * 10 + (8,)) for number, row in enumerate(right.tolist())]
    outcomes.insert(3, failed(99, "no"))
    found = summarise(score_table(outcomes), seed=5)
    assert (found.n_scored, found.n_failed) == (30, 1)
    shares = right.sum(1) / 48
    weights = poisson_weights(30, 5)
    means = (weights * shares).sum(1) / weights.sum(1)
    assert found.accuracy == pytest.approx(shares.mean())
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
    assert found.deciles[2] == pytest.approx(right[:, 2].mean() / 4)
    assert found.silent_accuracy == pytest.approx(right[:, 10].mean() / 8)
    assert math.isnan(found.auc)


def test_a_decile_without_windows_is_in_no_mean() -> None:
    outcomes = [Outcome(0, "", (1,) * 11, (1,) * 11), Outcome(1, "", (0,) * 10 + (1,), (0,) * 9 + (2, 1))]
    found = summarise(score_table(outcomes))
    assert found.deciles[0] == 1.0
    assert found.deciles[9] == 0.5


def test_nothing_scored_has_no_means() -> None:
    found = summarise(score_table([failed(0, "no")]))
    assert (found.n_scored, found.n_failed) == (0, 1)
    assert math.isnan(found.accuracy)
    assert all(math.isnan(one) for one in found.deciles)


def test_more_latents_than_units_are_bundled_and_none_is_lost() -> None:
    outcomes = [Outcome(n, "", (1,) * 10 + (n % 2,), (1,) * 11) for n in range(2500)]
    found = summarise(score_table(outcomes))
    assert found.silent_accuracy == 0.5
    assert found.silent_accuracy.low < 0.5 < found.silent_accuracy.high
