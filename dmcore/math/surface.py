"""A metric over width and L0, from scattered points: piecewise linear, inside their hull alone.

1. Points that coincide are averaged; both axes are scaled to run from 0 to 1 before the points are triangulated.
2. Within a triangle the surface is the plane through its corners (barycentric weights); outside the hull there is none.
3. A line of equal value crosses a triangle in a segment; segments that meet on an edge are chained.
Equivalent to `scipy.interpolate.LinearNDInterpolator` on the scaled points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import Delaunay

from dmcore.errors import DataError

Array = np.ndarray
Edge = tuple[int, int]

FLAT = 0.02
"""Points that lie this near to one line (root mean square, in the units of the axes) span no surface."""
STEPS = (1.0, 2.0, 5.0, 2.5, 1.5, 4.0, 3.0, 7.5)
"""Steps between levels, times a power of ten; the roundest first."""
N_LEVELS = (6, 9)
"""Fewest and most levels."""


@dataclass(frozen=True)
class Surface:
    """A piecewise linear surface."""

    points: Array
    """(n, 2) where the surface was measured, each once."""
    values: Array
    """(n,)"""
    triangles: Delaunay = field(repr=False)
    """Of the scaled points."""

    def _scaled(self, points: Array) -> Array:
        low = self.points.min(0)
        return (points - low) / (self.points.max(0) - low)

    def at(self, points: Array) -> Array:
        """(m,) the surface at (m, 2) points; nan outside the hull."""
        scaled = self._scaled(np.asarray(points, dtype=float))
        found = self.triangles.find_simplex(scaled)
        frames = self.triangles.transform[found]
        weights = np.einsum("mij,mj->mi", frames[:, :2], scaled - frames[:, 2])
        weights = np.concatenate([weights, 1 - weights.sum(1, keepdims=True)], 1)
        value = (weights * self.values[self.triangles.simplices[found]]).sum(1)
        return np.where(found >= 0, value, np.nan)

    def cells(self, n: int) -> tuple[Array, Array]:
        """Cells of an n x n grid whose centres are inside the hull: (m, 4) x_low, x_high, y_low, y_high; (m,) values."""
        low, high = self.points.min(0), self.points.max(0)
        edges = [np.linspace(low[axis], high[axis], n + 1) for axis in range(2)]
        column, row = (index.ravel() for index in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
        bounds = np.stack([edges[0][column], edges[0][column + 1], edges[1][row], edges[1][row + 1]], 1)
        values = self.at(np.stack([bounds[:, :2].mean(1), bounds[:, 2:].mean(1)], 1))
        inside = np.isfinite(values)
        return bounds[inside], values[inside]

    def isolines(self, level: float) -> list[Array]:
        """Lines on which the surface has a value: (length, 2) points each; a closed line ends where it began."""
        above = self.values >= level
        neighbours: dict[Edge, list[Edge]] = {}
        for triangle in np.sort(self.triangles.simplices, 1):
            first, middle, last = (int(corner) for corner in triangle)
            crossed = [(i, j) for i, j in ((first, middle), (middle, last), (first, last)) if above[i] != above[j]]
            if crossed:
                start, end = crossed
                neighbours.setdefault(start, []).append(end)
                neighbours.setdefault(end, []).append(start)
        return [np.stack([self._crossing(edge, level) for edge in chain]) for chain in _chains(neighbours)]

    def _crossing(self, edge: Edge, level: float) -> Array:
        """(2,) where an edge has the value."""
        start, end = edge
        share = (level - self.values[start]) / (self.values[end] - self.values[start])
        return self.points[start] + share * (self.points[end] - self.points[start])


def _chains(neighbours: dict[Edge, list[Edge]]) -> Iterator[list[Edge]]:
    """Nodes of at most two neighbours each, in chains: open ones from end to end, then closed ones."""
    left = dict(sorted(neighbours.items()))
    while left:
        node: Edge | None = next((edge for edge in left if len(neighbours[edge]) == 1), next(iter(left)))
        begin, chain = node, []
        while node is not None:
            chain.append(node)
            del left[node]
            node = next((edge for edge in neighbours[chain[-1]] if edge in left), None)
        closed = len(neighbours[begin]) == 2 and len(chain) > 2
        yield [*chain, chain[0]] if closed else chain


def fit_surface(points: Array, values: Array) -> Surface:
    """The surface through (n, 2) points with (n,) values.

    Raises:
        DataError: fewer than 3 different points, or all near one line.
    """
    points, values = np.asarray(points, dtype=float).reshape(-1, 2), np.asarray(values, dtype=float)
    unique, which = np.unique(points, axis=0, return_inverse=True)
    which = which.ravel()
    if len(unique) < 3:
        raise DataError(f"{len(unique)} different points span no surface: give 3 or more.")
    spread = np.linalg.svd(unique - unique.mean(0), compute_uv=False)[1] / math.sqrt(len(unique))
    if spread < FLAT:
        raise DataError("All points lie near one line, which spans no surface: give points beside it.")
    means = np.bincount(which, values) / np.bincount(which)
    low = unique.min(0)
    return Surface(unique, means, Delaunay((unique - low) / (unique.max(0) - low)))


def round_levels(low: float, high: float) -> Array:
    """6 to 9 round numbers strictly between two values, at equal steps; none where the values do not differ."""
    span = high - low
    if not span > 1e-9 * max(abs(low), abs(high)):
        return np.empty(0)
    magnitude = 10.0 ** math.floor(math.log10(span / N_LEVELS[1]))
    for step in [magnitude * step * scale for step in STEPS for scale in (1.0, 10.0)]:
        first, last = math.floor(low / step) + 1, math.ceil(high / step) - 1
        if N_LEVELS[0] <= last - first + 1 <= N_LEVELS[1]:
            return np.round(np.arange(first, last + 1) * step, 4 - math.floor(math.log10(step)))
    return np.linspace(low, high, N_LEVELS[0] + 2)[1:-1]  # no round step fits
