"""Silhouettes equal scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from dmcore.math import silhouettes as module
from dmcore.math.silhouettes import silhouettes


@pytest.mark.parametrize("bytes_at_once", [2**26, 8 * 150 * 7])
def test_silhouettes_of_many_clusterings_are_those_of_scikit_learn(
    bytes_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BYTES", bytes_at_once)
    g = np.random.default_rng(0)
    points = g.standard_normal((150, 4))
    points[:50] += 3.0
    points[7] = points[8]
    clusterings = [g.permutation(np.arange(150) % k) for k in (2, 3, 9)]
    clusterings.append((np.arange(150) >= 50).astype(int))
    clusterings.append(np.where(np.arange(150) == 149, 1, 0))  # one alone
    expected = [silhouette_score(points, labels) for labels in clusterings]
    np.testing.assert_allclose(silhouettes(points, clusterings), expected, atol=1e-9)
    assert expected[3] > 0.4


def test_points_that_are_all_one_have_silhouettes_of_zero() -> None:
    assert silhouettes(np.ones((6, 2)), [np.arange(6) % 2]).tolist() == [0.0]
