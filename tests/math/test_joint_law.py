"""The law of width and L0: a planted one comes back, the fit is scipy's, and intervals hold it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from dmcore.errors import DataError
from dmcore.math.joint_law import fit_joint_law

WIDTHS, L0S = (axis.ravel() for axis in np.meshgrid(2.0 ** np.arange(8, 13), [4.0, 8.0, 16.0, 32.0]))
PLANTED = {"c": 0.05, "a": 3.0, "m": 0.4, "n": 0.3}
VALUES = 0.05 + 3 * WIDTHS**-0.4 * L0S**-0.3


def test_a_law_without_noise_comes_back() -> None:
    fit = fit_joint_law(WIDTHS, L0S, VALUES)
    for name, truth in PLANTED.items():
        assert getattr(fit, name) == pytest.approx(truth, rel=1e-6)
    np.testing.assert_allclose(fit.predict(WIDTHS * 8, L0S), 0.05 + 3 * (WIDTHS * 8) ** -0.4 * L0S**-0.3, rtol=1e-7)
    no_floor = fit_joint_law(WIDTHS, L0S, 3 * WIDTHS**-0.4 * L0S**0.2)
    assert no_floor.c == pytest.approx(0, abs=1e-9)
    assert no_floor.n == pytest.approx(-0.2, rel=1e-6)


def test_the_fit_is_that_of_scipy() -> None:
    g = np.random.default_rng(3)
    for _ in range(5):
        values = VALUES * np.exp(0.02 * g.normal(size=20))
        fit = fit_joint_law(WIDTHS, L0S, values)
        reference = least_squares(
            lambda p, logs: np.log(p[0] + np.exp(p[1]) * (WIDTHS / 1024) ** -p[2] * (L0S / 10) ** -p[3]) - logs,
            [0.02, np.log(0.1), 0.3, 0.3],
            bounds=([0, -20, -4, -4], [1, 20, 4, 4]),
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
            args=(np.log(values),),
        )
        assert fit.rss == pytest.approx(2 * reference.cost, rel=1e-8)
        np.testing.assert_allclose([fit.c, fit.m, fit.n], reference.x[[0, 2, 3]], rtol=1e-5, atol=1e-9)
        assert fit.aic == pytest.approx(20 * np.log(fit.rss / 20) + 8)


def test_intervals_hold_the_planted_law() -> None:
    g = np.random.default_rng(4)
    hits = []
    for _ in range(60):
        values = VALUES * np.exp(0.01 * g.normal(size=20))
        fit = fit_joint_law(WIDTHS, L0S, values, replicates=values * np.exp(0.01 * g.normal(size=(200, 20))))
        hits.append([getattr(fit, name).low <= truth <= getattr(fit, name).high for name, truth in PLANTED.items()])
    coverage = np.mean(hits, axis=0)
    assert ((coverage >= 0.87) & (coverage <= 1)).all(), coverage


def test_what_cannot_be_fitted_is_refused_with_a_remedy() -> None:
    with pytest.raises(DataError, match="5 SAEs or more"):
        fit_joint_law(WIDTHS[:4], L0S[:4], VALUES[:4])
    with pytest.raises(DataError, match="several widths and L0s"):
        fit_joint_law(WIDTHS, np.full(20, 8.0), VALUES)
    with pytest.raises(DataError, match="must be positive"):
        fit_joint_law(WIDTHS, L0S, VALUES - 1)
