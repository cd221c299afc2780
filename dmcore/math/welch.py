"""Means of few independent numbers, as those of several seeds, and intervals that say how they vary with the seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dmcore.estimate import Estimate


def welch(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Mean of the first less that of the second, with the 95 % interval of Welch's t; without one where a side has under 2.

    Equivalent to `scipy.stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)`.
    Source: Welch 1947, The generalization of Student's problem when several different population variances are involved.
    """
    from scipy.special import stdtrit

    sides = [np.asarray(side, dtype=np.float64) for side in (first, second)]
    if not all(map(len, sides)):
        return Estimate(math.nan)
    difference = float(sides[0].mean() - sides[1].mean())
    if min(map(len, sides)) < 2:
        return Estimate(difference)
    parts = [float(side.var(ddof=1)) / len(side) for side in sides]
    total = sum(parts)
    if total == 0:
        return Estimate(difference, difference, difference)
    freedom = total**2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, sides, strict=True))
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(total)
    return Estimate(difference, difference - half, difference + half)


def mean_of_independent(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of independent estimates, with an interval from theirs; without one where any has none, nan of none.

    `low = mean - sqrt(sum (e - e.low)^2) / n`, and `high` likewise: how each varies by itself, and not how they differ.
    Source: Zou and Donner 2008, Construction of confidence limits about effect measures (MOVER).
    """
    if not estimates:
        return Estimate(math.nan)
    n = len(estimates)
    mean = sum(estimates) / n
    below = math.sqrt(sum((one - one.low) ** 2 for one in estimates)) / n
    above = math.sqrt(sum((one.high - one) ** 2 for one in estimates)) / n
    return Estimate(mean, mean - below, mean + above)
