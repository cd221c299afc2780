"""Comparisons of two SAEs on the same draws of contexts.

Row r of every SAE's `replicates` has the same context weights, so a ratio taken row by row cancels what the two SAEs share:
which texts happened to be drawn.
"""

from __future__ import annotations

import numpy as np

from dmcore.estimate import Estimate
from dmcore.results import Summary


def paired_ratio(above: Summary, below: Summary, metric: str) -> Estimate:
    """`metric` of one SAE over that of another, with the 95 % percentile interval of the paired replicates."""
    value = _divide(np.array([above.record[metric]]), np.array([below.record[metric]]))[0]
    a, b = (s.replicates[metric].to_numpy().astype(np.float64) for s in (above, below))
    if a.size != b.size or a.size < 20:
        return Estimate(float(value))
    ratios = _divide(a, b)
    ratios = ratios[np.isfinite(ratios)]
    if ratios.size < 20:
        return Estimate(float(value))
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return a / b
