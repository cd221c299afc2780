"""Is a metric the same at all widths?

1. Slope: least squares of log metric on log2 width, so per doubling.
2. Ratio of the widest SAE to the narrowest.
3. Wald test that all widths have one mean: differences of neighbours in log metric, with the covariance of the replicates'
   (which draw the same contexts for all widths, so what the widths share drops out), against F: the covariance is itself
   judged from the contexts, and with few of them chi squared would find differences where there are none (Hotelling 1931).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from dmcore.errors import DataError
from dmcore.estimate import Estimate
from dmcore.math.bootstrap import interval

Array = np.ndarray


@dataclass(frozen=True)
class Constancy:
    """How a metric moves with width; intervals by percentiles of the replicates."""

    slope: Estimate
    """Of log metric, per doubling of the width."""
    ratio: Estimate
    """Widest over narrowest."""
    wald: float
    """Statistic of the test that all widths have one mean; nan where the replicates give no covariance."""
    dof: int
    p: float


def wald_equal(values: Array, replicates: Array, n_units: int | None = None) -> tuple[float, int, float]:
    """Statistic, degrees of freedom and p of the test that (n,) values have one mean, given (n_replicates, n) redraws.

    Args:
        values: logarithms of a metric.
        replicates: the same, redrawn.
        n_units: bootstrap units that were redrawn (contexts, or bundles of them); None for very many.

    `p` is Hotelling's: wald (n_units - dof) / (dof (n_units - 1)) against F with dof and n_units - dof degrees of freedom; nan
    where there are no more units than dof.

    Raises:
        DataError: fewer than 2 values.
    """
    if len(values) < 2:
        raise DataError("One value cannot differ from itself: give at least 2.")
    dof = len(values) - 1
    usable = replicates[np.isfinite(replicates).all(1)]
    if len(usable) <= 2 * len(values):
        return np.nan, dof, np.nan
    spread = np.atleast_2d(np.cov(np.diff(usable, axis=1), rowvar=False))
    if np.linalg.matrix_rank(spread, hermitian=True) < dof:
        return np.nan, dof, np.nan
    contrast = np.diff(values)
    wald = float(contrast @ np.linalg.solve(spread, contrast))
    if n_units is None:
        return wald, dof, float(stats.chi2.sf(wald, dof))
    if n_units <= dof:
        return np.nan, dof, np.nan
    return wald, dof, float(stats.f.sf(wald * (n_units - dof) / (dof * (n_units - 1)), dof, n_units - dof))


def constancy(widths: Array, values: Array, replicates: Array, n_units: int | None = None) -> Constancy:
    """Slope, ratio and test of (n,) positive values at different widths, with (n_replicates, n) redraws of `n_units` units.

    Raises:
        DataError: fewer than 2 widths, or values that are not positive.

    The slope is that of `scipy.stats.linregress`.
    """
    widths, values = np.asarray(widths, dtype=float), np.asarray(values, dtype=float)
    if len(np.unique(widths)) < 2:
        raise DataError("One width has no slope: give at least 2.")
    if not (values > 0).all():
        raise DataError("Values of 0 or less have no logarithm: leave them out.")
    usable = replicates[np.isfinite(replicates).all(1) & (replicates > 0).all(1)]
    position = np.log2(widths) - np.log2(widths).mean()
    weights = position / (position @ position)
    widest, narrowest = int(np.argmax(widths)), int(np.argmin(widths))
    slope = interval(float(weights @ np.log(values)), np.log(usable) @ weights)
    ratio = interval(values[widest] / values[narrowest], usable[:, widest] / usable[:, narrowest])
    return Constancy(slope, ratio, *wald_equal(np.log(values), np.log(usable), n_units))
