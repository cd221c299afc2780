"""A number with its 95 % interval."""

from __future__ import annotations

import math


class Estimate(float):
    """A statistic and its 95 % confidence interval, usable wherever a float is.

    `Estimate` is a float whose value is the point estimate, so `split.fvu < 0.2` and `f"{split.fvu:.3f}"` work;
    `.low` and `.high` are the 2.5 and 97.5 % bounds (nan where no interval could be formed).
    """

    __slots__ = ("high", "low")
    low: float
    high: float

    def __new__(cls, value: float, low: float = math.nan, high: float = math.nan) -> Estimate:
        self = super().__new__(cls, value)
        self.low, self.high = float(low), float(high)
        return self

    @property
    def value(self) -> float:
        """The point estimate as a plain float."""
        return float(self)

    def __reduce__(self) -> tuple[type, tuple[float, float, float]]:
        return Estimate, (self.value, self.low, self.high)

    def __repr__(self) -> str:
        return f"Estimate({self.value:.6g}, low={self.low:.6g}, high={self.high:.6g})"

    def __str__(self) -> str:
        return f"{self.value:.4g} (95 % {self.low:.4g} to {self.high:.4g})"
