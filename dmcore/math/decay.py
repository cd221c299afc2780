"""Laws that fall to a floor, c + A exp(-s x): their values, their slopes, and what holds their parameters.

1. A power law c + a W^-m is such a law of x = log W, an exponential one of x = W. `x` is scaled: 0 at the
   narrowest width, 1 at one that is far enough from it.
2. (c, A, s) are a poor handle: their errors are far from Gaussian and almost collinear. The values of the law at x = 0,
   1/2 and 1 are a good one, and lead back in closed form: exp(-s/2) = (f(1/2) - f(1)) / (f(0) - f(1/2)).
3. In that handle the bounds c >= 0, A >= 0, 0 <= s <= max_rate are a convex set. Its faces are laws with fewer
   parameters: no floor, the steepest rate, a constant.
Reference: Ross 1990, Nonlinear Estimation (expected-value parameters); Bates and Watts 1988, chapter 7.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

Array = np.ndarray

_SMALL = 1e-4
"""Rates below this count as this in the slopes, where the formula cancels."""


@dataclass(frozen=True)
class Decay:
    """One law of the family; which parameters are free is set by `floor` and `rate`."""

    x: Array
    """(n,) positions, of which the least is 0."""
    max_rate: float
    """Upper bound of s."""
    floor: bool = True
    """Whether c is free; otherwise it is 0."""
    rate: float | None = None
    """None: s is free. A constant is the law with no floor and rate 0."""

    @property
    def n_params(self) -> int:
        """How many parameters are free."""
        return 1 + self.floor + (self.rate is None)

    @property
    def faces(self) -> list[Decay]:
        """The laws that bound this one, those with fewest parameters first."""
        constant = replace(self, floor=False, rate=0.0)
        if self.n_params == 1:
            return []
        steepest = replace(self, floor=False, rate=self.max_rate)
        found = [constant, steepest]
        return [*found, replace(self, floor=False), replace(self, rate=self.max_rate)] if self.n_params == 3 else found

    def _rates(self, handle: Array) -> Array:
        """(...) s of each handle; infinite or nan where no law of the family has it."""
        if self.rate is not None:
            return np.full(handle.shape[:-1], self.rate)
        if not self.floor:
            return np.asarray(np.log(handle[..., 0] / handle[..., 1]))
        first, middle, last = handle[..., 0], handle[..., 1], handle[..., 2]
        return np.asarray(-2 * np.log((middle - last) / (first - middle)))

    def natural(self, handle: Array) -> Array:
        """(..., 3) c, A and s of handles (..., n_params)."""
        rate, first = self._rates(handle), handle[..., 0]
        if self.floor:
            amplitude = (first - handle[..., -1]) / -np.expm1(-np.maximum(rate, 1e-12))
            return np.stack([first - amplitude, amplitude, rate], -1)
        if self.rate == 0:
            return np.stack([first, 0 * first, np.full_like(first, np.nan)], -1)
        return np.stack([0 * first, first, rate], -1)

    def values(self, handle: Array) -> Array:
        """(..., n) the law at `x`."""
        rate, first = self._rates(handle)[..., None], handle[..., :1]
        if not self.floor:
            return first * np.exp(-rate * self.x)
        rate = np.maximum(rate, _SMALL)
        return first + (handle[..., -1:] - first) * (np.expm1(-rate * self.x) / np.expm1(-rate))

    def slopes(self, handle: Array) -> Array:
        """(..., n, n_params) derivatives of `values` by the handle."""
        x, rate = self.x, self._rates(handle)[..., None]
        if not self.floor:
            if self.rate is not None:
                return np.exp(-rate * x)[..., None]
            values = self.values(handle)
            return np.stack([values * (1 - x) / handle[..., :1], values * x / handle[..., 1:]], -1)
        rate = np.maximum(rate, _SMALL)
        whole, part = np.expm1(-rate), np.expm1(-rate * x)
        share = part / whole
        if self.rate is not None:
            return np.stack([1 - share, share], -1)
        by_rate = (np.exp(-rate) * part - x * np.exp(-rate * x) * whole) / whole**2
        half = np.exp(-rate / 2)
        # (last - first) times the slopes of s: the size of the fall cancels, so that a flat law does no harm
        first, last = -2 * (1 + half) * by_rate, -2 * (1 + half) / half * by_rate
        return np.stack([1 - share + first, -first - last, share + last], -1)

    def inside(self, handle: Array) -> Array:
        """(...) whether the bounds hold."""
        if self.n_params == 1:
            return np.asarray(handle[..., 0] > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            rate, first, last = self._rates(handle), handle[..., 0], handle[..., -1]
            held = (handle > 0).all(-1) & (rate >= 0) & (rate <= self.max_rate) & (first >= last)
            if not self.floor:
                return np.asarray(held)
            return np.asarray(held & (first >= (first - last) / -np.expm1(-np.maximum(rate, 1e-12))))

    def handle(self, floor: Array | float, amplitude: Array | float, rate: Array | float) -> Array:
        """(..., n_params) the handle of a law given by c, A and s."""
        at = {1: (0.0,), 2: (0.0, 1.0), 3: (0.0, 0.5, 1.0)}[self.n_params]
        return np.stack([floor + amplitude * np.exp(-rate * x) for x in at], -1)


def values_at(natural: Array, x: Array) -> Array:
    """(..., len(x)) laws given by (..., 3) c, A and s, at any positions."""
    floor, amplitude, rate = (natural[..., k, None] for k in range(3))
    return floor + amplitude * np.exp(-np.nan_to_num(rate, posinf=1e9) * x)
