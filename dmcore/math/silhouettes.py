"""Silhouettes of many clusterings of the same points, from one reading of their distances.

For a point in cluster c: a is its mean distance to the others of c, b the least mean distance to another cluster, and
s = (b - a) / max(a, b); 0 for a point alone in its cluster. The silhouette of a clustering is the mean of s.
Rousseeuw 1987. Equivalent to `sklearn.metrics.silhouette_score`, which makes the distances anew for every clustering.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import euclidean_distances

Array = np.ndarray

BYTES = 2**26
"""Of the distances held at once."""


def silhouettes(points: Array, clusterings: Sequence[Array]) -> Array:
    """(len(clusterings),) the silhouette of each.

    Args:
        points: (n, d).
        clusterings: each (n,) numbers of clusters, from 0, all of which occur; at least two clusters.
    """
    n, sizes = len(points), [np.bincount(labels) for labels in clusterings]
    firsts = np.concatenate([[0], np.cumsum([len(size) for size in sizes])])
    member = np.zeros((n, firsts[-1]))
    for labels, first in zip(clusterings, firsts, strict=False):
        member[np.arange(n), first + labels] = 1.0
    totals = np.zeros(len(clusterings))
    step = max(1, BYTES // (8 * n))
    for start in range(0, n, step):
        rows = np.arange(start, min(start + step, n))
        sums = euclidean_distances(points[rows], points) @ member
        for i, labels in enumerate(clusterings):
            totals[i] += _widths(sums[:, firsts[i] : firsts[i + 1]], labels[rows], sizes[i]).sum()
    return totals / n


def _widths(sums: Array, labels: Array, sizes: Array) -> Array:
    """s of some points, from their sums of distances to each cluster."""
    own = np.arange(len(labels)), labels
    within = sums[own] / np.maximum(sizes[labels] - 1, 1)
    others = sums / sizes
    others[own] = np.inf
    nearest = others.min(1)
    larger = np.maximum(within, nearest)
    found = np.divide(nearest - within, larger, out=np.zeros_like(larger), where=larger > 0)
    return np.where(sizes[labels] > 1, found, 0.0)
