"""Intervals for shares of windows, of one latent.

Windows count as independent draws; those of one context are a little less than that.
"""

from __future__ import annotations

import math

from dmcore.estimate import Estimate

Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def wilson(successes: int, n: int) -> Estimate:
    """A share with its 95 % score interval; nan where `n` is 0.

    Equivalent to `statsmodels.stats.proportion.proportion_confint(successes, n, method="wilson")`.
    Source: Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference.
    """
    if n == 0:
        return Estimate(math.nan)
    share = successes / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    # At 0 and n of n an end is the share itself, up to rounding.
    return Estimate(share, max(centre - half, 0.0), min(centre + half, 1.0))


def mean_of_two(first: Estimate, second: Estimate) -> Estimate:
    """Mean of two independent shares, with an interval from theirs.

    `low = mean - sqrt((first - first.low)^2 + (second - second.low)^2) / 2`, and `high` likewise.
    Source: Zou and Donner 2008, Construction of confidence limits about effect measures (MOVER).
    """
    mean = (first + second) / 2
    below = math.hypot(first - first.low, second - second.low) / 2
    above = math.hypot(first.high - first, second.high - second) / 2
    return Estimate(mean, mean - below, mean + above)
