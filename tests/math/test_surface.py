"""Surfaces: scipy's interpolation, a planted plane, nothing outside the hull, and lines that lie on their level."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import LinearNDInterpolator

from dmcore.errors import DataError
from dmcore.math.surface import fit_surface, round_levels


def scattered(n: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    points = np.stack([g.uniform(8, 14, n), g.uniform(0.5, 2.0, n)], 1)
    return points, np.sin(points[:, 0]) + points[:, 1] ** 2


def in_hull(points: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Whether places are on the inner side of all lines through two points that have every point on one side."""
    held = np.ones(len(places), dtype=bool)
    for i, start in enumerate(points):
        for end in np.delete(points, i, 0):
            normal = np.array([start[1] - end[1], end[0] - start[0]])
            if ((points - start) @ normal >= -1e-12).all():
                held &= (places - start) @ normal >= -1e-9
    return held


def test_interpolation_is_that_of_scipy() -> None:
    points, values = scattered()
    places = np.random.default_rng(1).uniform([7, 0], [15, 2.5], (500, 2))
    low, high = points.min(0), points.max(0)
    reference = LinearNDInterpolator((points - low) / (high - low), values)((places - low) / (high - low))
    found = fit_surface(points, values).at(places)
    np.testing.assert_allclose(found, reference, rtol=1e-10)
    assert np.isnan(found).any()
    assert np.isfinite(found).any()


def test_a_planted_plane_comes_back() -> None:
    points, _ = scattered()
    surface = fit_surface(points, 2 + 0.3 * points[:, 0] - 0.7 * points[:, 1])
    bounds, values = surface.cells(40)
    centres = np.stack([bounds[:, :2].mean(1), bounds[:, 2:].mean(1)], 1)
    np.testing.assert_allclose(values, 2 + 0.3 * centres[:, 0] - 0.7 * centres[:, 1], rtol=1e-12)


def test_no_cell_has_its_centre_outside_the_hull_and_none_inside_is_missed() -> None:
    points, values = scattered(8, seed=3)
    bounds, _ = fit_surface(points, values).cells(40)
    centres = np.stack([bounds[:, :2].mean(1), bounds[:, 2:].mean(1)], 1)
    assert in_hull(points, centres).all()
    low, high = points.min(0), points.max(0)
    grid = [low[axis] + (np.arange(40) + 0.5) / 40 * (high[axis] - low[axis]) for axis in range(2)]
    every = np.stack([axis.ravel() for axis in np.meshgrid(*grid)], 1)
    assert in_hull(points, every).sum() == len(centres) < 1600


def test_points_that_coincide_are_averaged() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    surface = fit_surface(points, np.array([0.0, 1.0, 0.0, 3.0]))
    assert surface.at(np.array([[0.5, 0.0]]))[0] == pytest.approx(1.0)


def test_every_vertex_of_an_isoline_has_its_level_and_lines_are_whole() -> None:
    grid = np.stack([axis.ravel() for axis in np.meshgrid(np.arange(8.0, 15.0), np.linspace(0.5, 2.0, 7))], 1)
    for points in (grid, scattered(40)[0]):
        centre = points.mean(0)
        values = ((points - centre) ** 2 / [4.0, 0.25]).sum(1)
        surface = fit_surface(points, values)
        levels = round_levels(values.min(), values.max())
        for level in levels:
            lines = surface.isolines(float(level))
            assert lines
            low, high = points.min(0), points.max(0)
            for line in lines:
                inner = np.clip(line, low, high) * (1 - 1e-9) + centre * 1e-9  # not lost to rounding on the hull
                np.testing.assert_allclose(surface.at(inner), level, rtol=1e-6)
                assert len(line) >= 2
    bowl = fit_surface(grid, ((grid - grid.mean(0)) ** 2 / [4.0, 0.25]).sum(1)).isolines(0.6)
    assert len(bowl) == 1
    np.testing.assert_array_equal(bowl[0][0], bowl[0][-1])


def test_the_isolines_of_a_plane_are_straight_and_run_from_side_to_side() -> None:
    grid = np.stack([axis.ravel() for axis in np.meshgrid(np.arange(5.0), np.arange(4.0))], 1)
    (line,) = fit_surface(grid, grid[:, 0]).isolines(1.5)
    np.testing.assert_allclose(line[:, 0], 1.5)
    assert sorted([line[0, 1], line[-1, 1]]) == [0.0, 3.0]
    assert (np.diff(line[:, 1]) > 0).all() or (np.diff(line[:, 1]) < 0).all()


def test_levels_are_round_and_six_to_nine() -> None:
    g = np.random.default_rng(2)
    for _ in range(500):
        low = g.uniform(-1, 1) * 10.0 ** g.integers(-3, 3)
        high = low + 10.0 ** g.uniform(-4, 2)
        levels = round_levels(low, high)
        assert 6 <= len(levels) <= 9
        assert (levels > low).all()
        assert (levels < high).all()
    np.testing.assert_array_equal(round_levels(0.103, 0.187), [0.11, 0.12, 0.13, 0.14, 0.15, 0.16, 0.17, 0.18])
    assert round_levels(0.5, 0.5).size == 0


def test_what_spans_no_surface_is_refused_with_a_remedy() -> None:
    line = np.stack([np.arange(8.0, 13.0), 0.3 * np.arange(8.0, 13.0)], 1)
    with pytest.raises(DataError, match="give points beside it"):
        fit_surface(line, np.arange(5.0))
    with pytest.raises(DataError, match="give points beside it"):
        fit_surface(np.stack([np.arange(8.0, 13.0), np.full(5, 1.2)], 1), np.arange(5.0))
    with pytest.raises(DataError, match="give 3 or more"):
        fit_surface(line[[0, 1, 1]], np.arange(3.0))
    with pytest.raises(DataError, match="give 3 or more"):
        fit_surface(np.empty((0, 2)), np.empty(0))
