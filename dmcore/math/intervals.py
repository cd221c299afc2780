"""Intervals of many statistics at once: `bootstrap.interval`, over arrays."""

from __future__ import annotations

import numpy as np

from dmcore.math.bootstrap import interval

Array = np.ndarray


def interval_ends(values: Array, replicates: Array) -> Array:
    """The 2.5 and 97.5 percentiles of the replicates of each statistic; equal to `bootstrap.interval` on each one.

    Args:
        values: (...) the statistics; where one is not finite, it has no interval.
        replicates: (n_replicates, ...) of each.

    Returns:
        (2, ...) low and high ends; nan where there is no interval.
    """
    ends = np.full((2, *values.shape), np.nan)
    there = np.isfinite(values)
    whole = there & np.isfinite(replicates).all(0) & (len(replicates) >= 20)
    if whole.any():
        ends[:, whole] = np.percentile(replicates[:, whole], [2.5, 97.5], axis=0)
    for index in map(tuple, np.argwhere(there & ~whole)):
        found = interval(float(values[index]), replicates[(slice(None), *index)])
        ends[(slice(None), *index)] = found.low, found.high
    return ends
