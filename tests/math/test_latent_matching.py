"""Matching of latents: the best assignment, mutual neighbours in blocks, and what chance gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from dmcore.math.latent_matching import (
    ASSIGNED,
    MUTUAL,
    match_latents,
    random_rows,
    shaped_rows,
    stable_latents,
)


@pytest.mark.parametrize("most_assigned", [8192, 0])
def test_a_permuted_copy_of_another_scale_is_found_whole(most_assigned: int) -> None:
    rows = random_rows(60, 12, 0)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    scale = torch.linspace(0.1, 9.0, 60)[:, None]
    found = match_latents(rows, rows[order] * scale, most_assigned=most_assigned, rows_at_once=17)
    assert (order.numpy()[found.second] == found.first).all()
    assert found.first.tolist() == list(range(60))
    np.testing.assert_allclose(found.cosine, 1.0, atol=1e-6)
    assert found.share_above(0.999) == 1.0
    assert found.method == (ASSIGNED if most_assigned else MUTUAL)


def test_the_sign_counts() -> None:
    rows = random_rows(8, 50, 0)
    assert match_latents(rows, -rows).cosine.max() < 0.9, "a latent that points the other way is another latent"


def test_the_assignment_is_the_best_of_all() -> None:
    a, b = random_rows(5, 3, 0), random_rows(6, 3, 1)
    cosines = (a.double() @ b.double().T).numpy()
    best = max(sum(cosines[i, j] for i, j in enumerate(chosen)) for chosen in itertools.permutations(range(6), 5))
    found = match_latents(a, b)
    assert found.cosine.sum() == pytest.approx(best, abs=1e-6)
    assert found.cosine == pytest.approx(cosines[found.first, found.second], abs=1e-6)
    assert len(set(found.second.tolist())) == 5


@pytest.mark.parametrize("rows_at_once", [1, 7, 1000])
def test_mutual_neighbours_in_blocks_are_those_of_the_whole_matrix(rows_at_once: int) -> None:
    a, b = random_rows(40, 6, 2), random_rows(31, 6, 3)
    cosines = (a @ b.T).numpy()
    pairs = [
        (i, j)
        for i, j in itertools.product(range(40), range(31))
        if cosines[i].argmax() == j and cosines[:, j].argmax() == i
    ]
    found = match_latents(a, b, most_assigned=30, rows_at_once=rows_at_once)
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == pairs
    assert 0 < len(pairs) < 31
    over = [cosines[pair] for pair in pairs if cosines[pair] > 0.8]
    assert found.share_above(0.8) == pytest.approx(len(over) / 31), "latents without a partner are found nowhere"
    assert 0 < len(over) < len(pairs)


def test_shares_are_of_the_smaller_dictionary() -> None:
    a = random_rows(10, 30, 0)
    found = match_latents(a, torch.cat([a[:4], random_rows(3, 30, 5)]))
    assert found.share_above(0.9) == pytest.approx(4 / 7)
    assert (found.n_first, found.n_second) == (10, 7)
    assert (found.of_first() > 0.9).nonzero()[0].tolist() == [0, 1, 2, 3]
    assert (found.of_first() == -1.0).sum() == 3, "three of ten have no partner"


def test_latents_are_stable_where_every_other_dictionary_has_them() -> None:
    a = random_rows(6, 40, 0)
    others = [torch.cat([a[:4], random_rows(2, 40, 1)]), torch.cat([a[2:], random_rows(2, 40, 2)])]
    assert stable_latents([match_latents(a, other) for other in others], 0.9).tolist() == [2, 3]


def test_an_empty_dictionary_matches_nothing() -> None:
    found = match_latents(torch.zeros(0, 4), random_rows(3, 4, 0))
    assert len(found.cosine) == 0
    assert np.isnan(found.mean_cosine)
    assert np.isnan(found.share_above(0.5))


def test_a_row_of_zeros_has_cosine_0() -> None:
    found = match_latents(torch.zeros(1, 4), random_rows(1, 4, 0))
    assert found.cosine.tolist() == [0.0]


def test_rows_of_few_dimensions_meet_more_often_by_chance() -> None:
    flat = torch.cat([random_rows(80, 3, 0), torch.zeros(80, 27)], 1)
    shaped = [shaped_rows(flat, seed) for seed in (1, 2)]
    for rows in shaped:
        assert rows.norm(dim=1) == pytest.approx(torch.ones(80), abs=1e-5)
        assert float(rows[:, 3:].abs().max()) == 0.0
    within = match_latents(*shaped).mean_cosine
    assert within > 0.9 > 0.6 > match_latents(random_rows(80, 30, 1), random_rows(80, 30, 2)).mean_cosine
    # As many rows drawn on the same three-dimensional sphere.
    assert within == pytest.approx(match_latents(random_rows(80, 3, 1), random_rows(80, 3, 2)).mean_cosine, abs=0.03)


def test_random_rows_of_a_shape_do_not_depend_on_how_many_are_drawn_together() -> None:
    like = random_rows(333, 12, 0)
    at_once = torch.randn(333, 333, generator=torch.Generator().manual_seed(4)) @ like
    expected = at_once / at_once.norm(dim=1, keepdim=True)
    for rows_at_once in (16, 128, 1024):
        torch.testing.assert_close(shaped_rows(like, 4, rows_at_once=rows_at_once), expected)
