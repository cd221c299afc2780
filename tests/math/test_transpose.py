"""The sorts by which codes are brought from token-major to latent-major."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dmcore.math.transpose import by_group, descending, ragged, ranges_of, uniform_of


@pytest.mark.parametrize("most_entries", [1, 10, 57, 10_000])
def test_ranges_cover_all_groups_and_none_that_could_be_shorter_is_too_large(most_entries: int) -> None:
    counts = np.random.default_rng(0).integers(0, 30, 100)
    counts[40] = 500
    bounds = ranges_of(counts, most_entries, 12)
    assert (bounds[0], bounds[-1]) == (0, 100)
    assert (np.diff(bounds) >= 1).all() and np.diff(bounds).max() <= 12
    sums = np.add.reduceat(counts, bounds[:-1])
    assert ((sums <= most_entries) | (np.diff(bounds) == 1)).all()
    # Each range is as long as it may be.
    for first, last in itertools.pairwise(bounds[:-1]):
        assert last - first == 12 or counts[first : last + 1].sum() > most_entries


def test_groups_are_sorted_stably_and_empty_ones_have_no_entries() -> None:
    groups = np.array([3, 0, 3, 5, 0, 3], dtype=np.uint16)
    order, offsets = by_group(groups, 7)
    assert order.tolist() == [1, 4, 0, 2, 5, 3]
    assert offsets.tolist() == [0, 2, 2, 2, 5, 5, 6, 6]
    assert by_group(groups[:0], 2)[1].tolist() == [0, 0, 0]


def test_descending_equals_a_sort_by_three_keys() -> None:
    g = np.random.default_rng(1)
    groups = np.sort(g.integers(0, 60_000, 3000)).astype(np.uint16)
    values = np.exp(g.normal(size=3000) * 20).astype(np.float32)
    values[::3] = np.float32(0.7)  # ties
    values[5], values[6] = np.float32(1e-45), np.finfo(np.float32).max
    expected = np.lexsort((np.arange(3000), -values, groups))
    np.testing.assert_array_equal(descending(groups, values), expected)


def test_ragged_lays_ranges_side_by_side() -> None:
    starts, lengths = np.array([5, 2, 9, 0]), np.array([2, 0, 3, 1])
    assert ragged(starts, lengths).tolist() == [5, 6, 9, 10, 11, 0]
    assert ragged(starts[:0], lengths[:0]).tolist() == []
    # Of bytes: sums past 255 are not cut.
    assert len(ragged(np.zeros(300), np.full(300, 200, dtype=np.uint8))) == 60_000


def test_drawn_numbers_are_uniform_and_depend_on_seed_and_place_alone() -> None:
    drawn = uniform_of(7, np.arange(400)[:, None], np.arange(27)[None])
    assert drawn.shape == (400, 27)
    assert (drawn >= 0).all() and (drawn < 1).all()
    assert len(np.unique(drawn)) == drawn.size
    counts = np.histogram(drawn, bins=20, range=(0, 1))[0]
    expected = drawn.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 45  # chi-squared, 19 degrees of freedom: p < 0.001 above
    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 0.04
    np.testing.assert_array_equal(uniform_of(7, np.arange(100, 103), np.full(3, 5)), drawn[100:103, 5])
    assert (uniform_of(8, np.arange(400)[:, None], np.arange(27)[None]) != drawn).all()
    assert (uniform_of(-1, np.arange(4), np.arange(4)) != drawn[np.arange(4), np.arange(4)]).all()
