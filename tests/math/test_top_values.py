"""The largest of many values in batches are those of a stable sort."""

from __future__ import annotations

import numpy as np
import pytest

from dmcore.math.top_values import cut_largest


@pytest.mark.parametrize("n", [1, 7, 100, 500])
@pytest.mark.parametrize("ties", [False, True])
def test_marked_values_are_the_first_of_a_stable_sort(n: int, ties: bool) -> None:
    g = np.random.default_rng(n)
    values = np.exp(3 * g.standard_normal(500)).astype(np.float32)
    values = np.round(values) if ties else values
    batches = np.array_split(values, [3, 3, 90, 400])
    cut = cut_largest(lambda: iter(batches), lambda _: n)
    marked = np.concatenate([cut.take(batch) for batch in batches])
    assert set(np.flatnonzero(marked)) == set(np.argsort(-values, kind="stable")[:n])
    assert cut.n == n and cut.equals_left == 0
    assert cut.bound == np.sort(values)[-n]


def test_values_below_zero_and_nan_do_not_count_but_zero_does() -> None:
    values = np.array([-1.0, 0.0, np.nan, 2.0, -0.0, -3.0], dtype=np.float32)
    counted: list[int] = []
    cut = cut_largest(lambda: iter([values]), lambda n: counted.append(n) or 2)
    assert counted == [3]
    assert np.flatnonzero(cut.take(values)).tolist() == [1, 3]


def test_more_than_there_are_is_all_and_none_is_none() -> None:
    values = np.array([3.0, 1.0], dtype=np.float32)
    assert cut_largest(lambda: iter([values]), lambda _: 5).take(values).all()
    for none in (cut_largest(lambda: iter([values]), lambda _: 0), cut_largest(lambda: iter([-values]), lambda n: n)):
        assert none.n == 0 and not none.take(values).any()
