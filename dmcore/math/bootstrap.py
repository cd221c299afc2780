"""Confidence intervals by a Poisson bootstrap over contexts.

1. Tokens of one context share a text, so the context is the unit that is drawn.
2. In each replicate a context has a Poisson(1) weight, which depends on the seed and the context alone. Every statistic
   of every SAE on the same contexts therefore sees the same replicates, and their differences have paired intervals.
3. A statistic that is a ratio of sums over contexts needs only those sums.

Past `MAX_UNITS` contexts, contexts are bundled; sums of independent contexts are as good a unit, and memory is bounded.
The means about which variances are taken, and the fitted maps, are held at their full-sample values: by itself the bootstrap
says how held-out numbers vary with the text, not how they vary with the fit; `dmcore.math.fit_noise` adds that.
Reference: Chamandy et al. 2012, Estimating Uncertainty for Massive Data Streams.
"""

from __future__ import annotations

import numpy as np

from dmcore.estimate import Estimate

Array = np.ndarray

MAX_UNITS = 2000
"""Most bootstrap units kept; more contexts than this are bundled."""

N_REPLICATES = 1000
"""Replicates drawn for every interval."""

_POISSON_CDF = np.cumsum([np.exp(-1.0) / np.prod(np.arange(1, k + 1, dtype=float)) for k in range(20)])


def bootstrap_units(n_contexts: int) -> Array:
    """(n_contexts,) unit of each context: itself, or one of `MAX_UNITS` bundles where there are more."""
    return np.arange(n_contexts) % min(n_contexts, MAX_UNITS)


def poisson_weights(n_units: int, seed: int, n_replicates: int = N_REPLICATES) -> Array:
    """(n_replicates, n_units) float64 Poisson(1) weights; column `u` depends on `seed` and `u` only.

    Inverse transform of raw Philox output, so that the numbers do not change with numpy's samplers.
    """
    weights = np.empty((n_replicates, n_units))
    for unit in range(n_units):
        key = np.array(
            [int(seed) & (2**64 - 1), unit], dtype=np.uint64
        )  # as such: a list of large numbers becomes floats
        raw = np.random.Philox(key=key).random_raw(n_replicates)
        uniform = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
        weights[:, unit] = np.searchsorted(_POISSON_CDF, uniform, side="right")
    return weights


def interval(value: float, replicates: Array) -> Estimate:
    """The estimate with the 2.5 and 97.5 percentiles of its replicates (those that are not finite are left out)."""
    finite = replicates[np.isfinite(replicates)]
    if not np.isfinite(value) or finite.size < 20:
        return Estimate(value)
    low, high = np.percentile(finite, [2.5, 97.5])
    return Estimate(value, low, high)


def ratio(numerator: Array, denominator: Array, weights: Array) -> Array:
    """(n_replicates,) weighted sum of `numerator` over weighted sum of `denominator`, both (n_units,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (weights @ numerator) / (weights @ denominator)
