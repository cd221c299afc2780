"""Subspaces: overlaps equal scipy's angles, a planted subspace is stable, noise is at chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from dmcore.math.spectrum import eigenbasis
from dmcore.math.subspaces import dimensions, halvings, overlaps, variance_along, variance_within


def random_basis(d: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q


@pytest.mark.parametrize(
    ("d", "expected"), [(1, ()), (2, (1,)), (3, (1,)), (16, (1, 2, 4, 8)), (17, (1, 2, 4, 8)), (15, (1, 2, 4))]
)
def test_dimensions_are_powers_of_two_up_to_half(d: int, expected: tuple[int, ...]) -> None:
    assert dimensions(d) == expected


def test_overlaps_are_mean_squared_cosines_of_the_angles_of_scipy() -> None:
    first, second = random_basis(12, 0), random_basis(12, 1)
    ks = [1, 3, 6, 12]
    expected = [np.square(np.cos(subspace_angles(first[:, :k].numpy(), second[:, :k].numpy()))).mean() for k in ks]
    np.testing.assert_allclose(overlaps(first, second, ks), expected, atol=1e-10)
    assert overlaps(first, first, ks) == pytest.approx(1.0)


def test_random_subspaces_are_at_chance_on_average() -> None:
    d, ks = 32, [1, 4, 16]
    found = np.mean([overlaps(random_basis(d, 2 * i), random_basis(d, 2 * i + 1), ks) for i in range(200)], axis=0)
    np.testing.assert_allclose(found, np.array(ks) / d, rtol=0.2)


def test_a_planted_subspace_comes_back_in_another_sample_and_what_is_beyond_it_does_not() -> None:
    g, d = torch.Generator().manual_seed(3), 32
    basis = random_basis(d, 4)
    scale = torch.cat([torch.tensor([9.0, 8.0, 7.0, 6.0]), torch.ones(d - 4)]).double()
    halves = [torch.randn(2000, d, generator=g, dtype=torch.float64) * scale @ basis.T for _ in range(2)]
    first, second = (eigenbasis(rows.T @ rows)[1] for rows in halves)
    assert overlaps(first, second, [4])[0] > 0.99
    assert overlaps(basis, first, [4])[0] > 0.99
    assert overlaps(first[:, 4:], second[:, 4:], [4])[0] == pytest.approx(4 / 28, abs=0.13)


def test_halvings_are_different_halves_fixed_by_the_seed() -> None:
    found = halvings(20, 8, seed=1)
    assert len({half.tobytes() for half in found}) == 8
    assert all(half.sum() == 10 and half[0] for half in found)
    np.testing.assert_array_equal(found, halvings(20, 8, seed=1))
    assert not np.array_equal(found, halvings(20, 8, seed=2))


@pytest.mark.parametrize(("n_groups", "n_found"), [(1, 0), (2, 1), (3, 3), (4, 3)])
def test_there_are_no_more_halvings_than_there_can_be(n_groups: int, n_found: int) -> None:
    found = halvings(n_groups, 8, seed=0)
    assert len(found) == n_found
    assert all(1 <= half.sum() <= n_groups - 1 for half in found)


def test_variance_within_a_basis_is_that_of_the_projected_tokens_with_and_without_each_group() -> None:
    g, d = np.random.default_rng(5), 6
    rows = [g.standard_normal((n, d)) * np.arange(1, d + 1) + 2.0 for n in (30, 40, 50)]
    basis, shift, ks = random_basis(d, 6), g.standard_normal(d), [1, 2, 4]
    grams = []
    for some in rows:
        augmented = np.column_stack([some - shift, np.ones(len(some))])
        grams.append(torch.from_numpy(augmented.T @ augmented))
    along = np.stack([variance_along(gram, basis).numpy() for gram in grams])
    samples = [np.concatenate(rows), *(np.concatenate(rows[:i] + rows[i + 1 :]) for i in range(3))]
    totals = np.array([np.square(v - v.mean(0)).sum() for v in samples])
    share, without = variance_within(along, np.array([30.0, 40.0, 50.0]), totals, ks)

    def plain(v: np.ndarray, k: int) -> float:
        centred = v - v.mean(0)
        return float(np.square(centred @ basis.numpy()[:, :k]).sum() / np.square(centred).sum())

    np.testing.assert_allclose([share, *without], [[plain(v, k) for k in ks] for v in samples], rtol=1e-10)
