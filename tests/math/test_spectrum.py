"""Spectra: planted ranks come back, statistics equal their formulas, jackknife intervals those of a bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dmcore.math.spectrum import (
    directions_for,
    effective_rank,
    eigenbasis,
    eigenvalues,
    jackknife,
    participation_ratio,
    scatter_of,
    shares,
)


def gram_of(rows: np.ndarray, shift: np.ndarray) -> torch.Tensor:
    augmented = np.column_stack([rows - shift, np.ones(len(rows))])
    return torch.from_numpy(augmented.T @ augmented)


def test_the_scatter_of_a_gram_matrix_about_any_shift_is_that_of_numpy() -> None:
    g = np.random.default_rng(0)
    rows = g.standard_normal((200, 6)) @ g.standard_normal((6, 6)) + 3.0
    rows[:, 2] = 7.0
    expected = np.cov(rows.T, bias=True) * 200
    found = scatter_of(gram_of(rows, g.standard_normal(6)))
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert (found[2] == 0).all()


def test_the_eigenbasis_is_that_of_numpy_the_largest_first() -> None:
    g = np.random.default_rng(1)
    rows = g.standard_normal((100, 5)) @ np.diag([1.0, 3.0, 0.5, 2.0, 0.1])
    scatter = torch.from_numpy(rows.T @ rows)
    values, vectors = eigenbasis(scatter)
    np.testing.assert_allclose(values, np.linalg.svd(rows)[1] ** 2, rtol=1e-10)
    np.testing.assert_allclose(eigenvalues(scatter), values, rtol=1e-10)
    np.testing.assert_allclose(vectors.numpy() @ np.diag(values) @ vectors.numpy().T, scatter, atol=1e-9)


def test_a_planted_rank_is_found_and_eigenvalues_of_rounding_are_zero() -> None:
    g = np.random.default_rng(2)
    rows = g.standard_normal((60, 3)) @ g.standard_normal((3, 40))  # fewer directions than tokens, and than dimensions
    values = eigenvalues(scatter_of(gram_of(rows, np.zeros(40))))
    assert (values > 0).sum() == 3
    assert (values[3:] == 0).all()


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_equal_eigenvalues_have_their_number_as_both_ranks(rank: int) -> None:
    values = np.where(np.arange(16) < rank, 2.5, 0.0)
    assert effective_rank(values) == pytest.approx(rank, rel=1e-12)
    assert participation_ratio(values) == pytest.approx(rank, rel=1e-12)
    assert directions_for(values, 0.5) == pytest.approx(rank / 2, rel=1e-12)
    assert directions_for(values, 0.99) == pytest.approx(rank * 0.99, rel=1e-12)


def test_statistics_of_a_known_spectrum_are_those_worked_out_by_hand() -> None:
    values = np.array([[4.0, 2.0, 1.0, 1.0], [8.0, 4.0, 2.0, 2.0]])
    np.testing.assert_allclose(shares(values), [[0.5, 0.25, 0.125, 0.125]] * 2)
    np.testing.assert_allclose(effective_rank(values), 2**1.75)  # the entropy is 1.75 bits
    np.testing.assert_allclose(participation_ratio(values), 64 / 22)
    np.testing.assert_allclose(directions_for(values, 0.5), 1.0)
    np.testing.assert_allclose(directions_for(values, 0.9), 3.2)
    np.testing.assert_allclose(directions_for(values, 0.99), 3.92)


def test_no_variance_has_no_statistics_and_warns_of_nothing() -> None:
    for statistic in (effective_rank, participation_ratio, lambda v: directions_for(v, 0.9)):
        assert not np.isfinite(statistic(np.zeros(5)))


def test_the_jackknife_of_a_mean_of_equal_groups_is_its_textbook_interval() -> None:
    groups = np.random.default_rng(3).standard_normal(12) + 5.0
    without = (groups.sum() - groups) / 11
    low, high = jackknife(groups.mean(), without, np.full(12, 7))
    margin = 2.2009851600829484 * groups.std(ddof=1) / np.sqrt(12)  # t of 11 degrees of freedom
    assert (low, high) == pytest.approx((groups.mean() - margin, groups.mean() + margin), rel=1e-10)


def test_groups_of_unequal_size_have_the_interval_of_the_formula_written_out() -> None:
    g = np.random.default_rng(4)
    sizes = np.array([5, 10, 20, 40])
    rows = [g.standard_normal(n) for n in sizes]
    value = np.concatenate(rows).mean()
    without = np.array([np.concatenate(rows[:i] + rows[i + 1 :]).mean() for i in range(4)])
    h = sizes.sum() / sizes
    pseudo = h * value - (h - 1) * without
    estimate = 4 * value - ((1 - sizes / sizes.sum()) * without).sum()
    error = np.sqrt((np.square(pseudo - estimate) / (h - 1)).mean())
    low, high = jackknife(value, without, sizes)
    assert (high - low) / 2 == pytest.approx(3.1824463052842624 * error, rel=1e-10)
    assert (high + low) / 2 == pytest.approx(value)


@pytest.mark.parametrize("statistic", [effective_rank, participation_ratio])
def test_the_jackknife_over_groups_agrees_with_a_bootstrap_over_contexts(statistic) -> None:
    g = np.random.default_rng(5)
    n_contexts, d = 400, 6
    scale = np.exp(0.5 * g.standard_normal((n_contexts, 1, d)))  # contexts differ
    acts = g.standard_normal((n_contexts, 10, d)) * scale * np.linspace(2.0, 0.3, d)
    grams = np.stack([gram_of(rows, np.zeros(d)).numpy() for rows in acts])

    def of(weights: np.ndarray) -> float:
        gram = torch.from_numpy(np.tensordot(weights, grams, 1))
        return float(statistic(eigenvalues(scatter_of(gram))))

    groups = np.arange(n_contexts) % 20
    without = np.array([of((groups != group).astype(float)) for group in range(20)])
    low, high = jackknife(of(np.ones(n_contexts)), without, np.full(20, 20), log=True)
    drawn = [of(np.bincount(g.integers(0, n_contexts, n_contexts), minlength=n_contexts)) for _ in range(400)]
    bootstrap = np.percentile(drawn, [2.5, 97.5])
    assert (high - low) / (bootstrap[1] - bootstrap[0]) == pytest.approx(1.07, abs=0.35)  # 1.07: t, not normal
    assert low < np.median(drawn) < high


def test_one_group_and_values_that_cannot_be_have_no_interval() -> None:
    assert np.isnan(jackknife(np.ones(3), np.ones((1, 3)), np.ones(1))).all()
    ends = jackknife(np.array([1.0, 2.0]), np.array([[0.0, 2.1], [0.9, 1.9], [1.0, 2.0]]), np.ones(3), log=True)
    assert np.isnan(ends[:, 0]).all() and np.isfinite(ends[:, 1]).all()
