"""Power laws of width, FVU(W) = c + a W^-m, with two kinds of interval (the paper's scaling section).

1. Least squares of FVU (space linear) or of log FVU (space log), with c >= 0, a >= 0 and 0 <= m <= 4, from many starts.
2. `low`, `high`: how the estimate moves with the texts. From the covariance of the bootstrap replicates, which draw the
   same contexts for all widths; how well the law fits plays no part.
3. `scatter_low`, `scatter_high`: from how the SAEs scatter about the law, each on its own and by the same share of its
   value, with n - k degrees of freedom: what other SAEs of these widths would give, if the law holds.
4. Both are the range over all laws that the data cannot tell from the estimate (`decay_region`), for parameters and for
   predictions alike. Percentiles of refitted replicates would miss: the floor has a bound, and the law is far from linear.
5. AIC is n ln(rss / n) + 2 k, with k the free parameters of the law; it compares laws in one space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dmcore.errors import DataError
from dmcore.estimate import Estimate
from dmcore.math.decay import Decay, values_at
from dmcore.math.decay_fit import Fitted, fit_decay, into
from dmcore.math.decay_region import region

Array = np.ndarray

MAX_EXPONENT = 4.0
"""Upper bound of m: past it a doubling of the width would divide what is above the floor by more than 16."""
SPACES = ("log", "linear")
MIN_REPLICATES = 20
"""Fewer give no covariance."""
LARGEST = 1e100
"""Of a value or a width: squares of products of a few of them are added up in float64."""


@dataclass(frozen=True)
class Axis:
    """How the decay's x comes of the width: x = (g(W) - origin) / unit, with g the logarithm or the width itself."""

    logarithmic: bool
    origin: float
    unit: float

    def __call__(self, widths: Array) -> Array:
        """x of widths in latents."""
        return ((np.log(widths) if self.logarithmic else np.asarray(widths, dtype=float)) - self.origin) / self.unit

    def rate(self, scaled: Array | float) -> Array | float:
        """m of a power law, or the width 1 / rate of an exponential one, from the decay's s."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return scaled / self.unit if self.logarithmic else self.unit / scaled

    def height(self, amplitude: Array | float, scaled: Array | float) -> Array | float:
        """a: the decay at W = 1 (power law) or W = 0, from its height at the narrowest width."""
        return amplitude * np.exp(np.nan_to_num(scaled) / self.unit * self.origin)


@dataclass(frozen=True)
class LawFit:
    """A law of width at its least squares. Parameters that it lacks are nan."""

    law: str
    """power, power_zero, exponential or constant."""
    space: str
    widths: Array
    """(n,) latents."""
    values: Array
    """(n,) what was fitted."""
    n_params: int
    """k: free parameters."""
    rss: float
    """Sum of squared residuals in the space of the fit."""
    at_bound: tuple[str, ...]
    """Parameters at a bound: c at 0, m at its steepest, a at 0 (then m is undefined)."""
    axis: Axis = field(repr=False)
    scale: float = field(repr=False)
    """Mean of the values: the fit was made in units of it."""
    family: Decay = field(repr=False)
    """The law that was asked for."""
    fitted: Fitted = field(repr=False)
    """The estimate: that law, or the face of its bounds that it lies on."""
    covariance: Array | None = field(repr=False)
    """(n, n) of the values in the space of the fit, from the replicates; None without them."""

    @cached_property
    def natural(self) -> Array:
        """(3,) c, A and s of the estimate."""
        if self.law == "constant":  # the family holds it as a height that does not fall
            return np.array([self.fitted.handle[0], 0.0, np.nan])
        return self.fitted.law.natural(self.fitted.handle)

    @cached_property
    def texts(self) -> Array | None:
        """(n_laws, 3) laws that the texts cannot tell from the estimate; None without replicates."""
        if self.covariance is None:
            return None
        return region(self.fitted, self.family, self.values / self.scale, self.space, self.covariance)

    @cached_property
    def scatter(self) -> Array | None:
        """(n_laws, 3) the same, for the scatter of the SAEs; None where there are no more SAEs than parameters."""
        if len(self.values) <= self.n_params:
            return None
        return region(self.fitted, self.family, self.values / self.scale, self.space)

    @property
    def aic(self) -> float:
        """n ln(rss / n) + 2 k; nan for an exact fit."""
        n = len(self.widths)
        exact = n * (1e-12 * np.abs(into(self.space, self.values / self.scale)).max()) ** 2
        return n * math.log(self.rss / n) + 2 * self.n_params if self.rss > exact else math.nan

    def _parameter(self, name: str, laws: Array) -> Array | float:
        floor, amplitude, rate = np.moveaxis(laws, -1, 0)
        if name == "c":
            return floor * self.scale
        return self.axis.rate(rate) if name == "m" else self.axis.height(amplitude, rate) * self.scale

    def _estimate(self, name: str, laws: Array | None) -> Estimate:
        with np.errstate(over="ignore"):
            value = float(self._parameter(name, self.natural))
            found = np.empty(0) if laws is None else np.asarray(self._parameter(name, laws))
        if name == "a" and self.natural[1] == 0:
            value = 0.0
        found = np.where(found < 1e-6 * self.scale, 0.0, found) if name == "c" else found  # met the bound
        found = found[~np.isnan(found)]
        return Estimate(value, min(found.min(), value), max(found.max(), value)) if found.size else Estimate(value)

    def _two(self, name: str) -> tuple[Estimate, Estimate]:
        scatter = self._estimate(name, self.scatter)
        return (scatter if self.texts is None else self._estimate(name, self.texts)), scatter

    @cached_property
    def c(self) -> Estimate:
        """The floor."""
        return self._two("c")[0]

    @cached_property
    def a(self) -> Estimate:
        """The height of what falls: at width 1 (power laws), or 0 (exponential)."""
        return self._two("a")[0]

    @cached_property
    def m(self) -> Estimate:
        """The exponent; of an exponential law the width in which it falls by a factor e."""
        return self._two("m")[0]

    @property
    def scatter_c(self) -> Estimate:
        """`c` with the interval from the scatter."""
        return self._two("c")[1]

    @property
    def scatter_a(self) -> Estimate:
        """`a` with the interval from the scatter."""
        return self._two("a")[1]

    @property
    def scatter_m(self) -> Estimate:
        """`m` with the interval from the scatter."""
        return self._two("m")[1]

    def predict(self, widths: Array) -> Array:
        """(len(widths),) the law at any widths."""
        return values_at(self.natural, self.axis(np.asarray(widths, dtype=float))) * self.scale

    def band(self, widths: Array, scatter: bool = False) -> tuple[Array, Array]:
        """Ends of the 95 % interval of the law at each width: as the texts move it, or from the scatter."""
        laws = self.scatter if scatter or self.texts is None else self.texts
        if laws is None:
            nothing = np.full(len(widths), np.nan)
            return nothing, nothing
        found = values_at(laws, self.axis(np.asarray(widths, dtype=float))) * self.scale
        return found.min(0), found.max(0)


PowerLawFit = LawFit


def _covariance(replicates: Array | None, n: int, scale: float, space: str) -> Array | None:
    """(n, n) of the values in the space of the fit, from replicates (n_replicates, n)."""
    if replicates is None:
        return None
    replicates = as_draws(replicates, n)
    usable = np.isfinite(replicates).all(1) & ((replicates > 0).all(1) | (space == "linear"))
    if usable.sum() < MIN_REPLICATES:
        return None
    found = np.cov(into(space, replicates[usable] / scale), rowvar=False)
    return np.atleast_2d(found) + 1e-14 * np.eye(replicates.shape[1])  # so that replicates that never vary do no harm


def as_draws(replicates: Any, n: int) -> Array:
    """(n_replicates, n) float64.

    Raises:
        DataError: they are no numbers, or not a row a draw and a column an SAE.
    """
    found = _as_floats(replicates, "replicates")
    if found.ndim != 2 or found.shape[1] != n:
        raise DataError(f"replicates has shape {found.shape}: give a row a draw and a column an SAE, (n_draws, {n}).")
    return found


def _as_floats(numbers: Any, name: str) -> Array:
    try:
        numbers = numbers.detach().cpu() if hasattr(numbers, "detach") else numbers  # a tensor of torch
        return np.asarray(numbers, dtype=float)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise DataError(f"{name} holds what is no number: give an array of numbers.") from error


def as_row(numbers: Any, name: str) -> Array:
    """(n,) float64.

    Raises:
        DataError: they are no numbers, or not in one row.
    """
    found = _as_floats(numbers, name)
    if found.ndim != 1:
        raise DataError(f"{name} has shape {found.shape}: give one number per SAE, in one row.")
    return found


def check_values(widths: Array, values: Array, space: str, n_params: int) -> tuple[Array, Array]:
    """The widths and values as float64.

    Raises:
        DataError: fewer widths than parameters, values that are not finite, or not positive.
    """
    widths, values = as_row(widths, "widths"), as_row(values, "values")
    if space not in SPACES:
        raise DataError(f"space is {space!r}: use log or linear.")
    if len(np.unique(widths)) < n_params or len(widths) != len(values):
        raise DataError(f"{len(np.unique(widths))} widths cannot hold {n_params} parameters: give more widths.")
    if not (np.isfinite(values).all() and np.isfinite(widths).all() and (widths > 0).all()):
        raise DataError("Values that are not finite, or widths that are not positive, have no law: leave them out.")
    if (np.abs(values) > LARGEST).any() or (widths > LARGEST).any():
        raise DataError(f"Values and widths above {LARGEST:.0e} have no squares to add up: divide them by one number.")
    if (values <= 0).any() and (space == "log" or values.mean() <= 0):
        raise DataError("Values of 0 or less have no logarithm: leave them out, or fit in linear space.")
    return widths, values


def fit_on_axis(
    name: str, axis: Axis, law: Decay, widths: Array, values: Array, replicates: Array | None, space: str
) -> LawFit:
    """The least-squares law of a family on an axis."""
    scale = float(values.mean())
    scaled = values / scale
    fitted = fit_decay(law, scaled, space)
    flat = fitted.law.rate == 0
    bounds = {
        "c": law.floor and not fitted.law.floor and not flat,
        "a": law.n_params > 1 and flat,
        "m": law.rate is None and fitted.law.rate == law.max_rate,
    }
    at_bound = tuple(parameter for parameter, held in bounds.items() if held)
    rss = fitted.rss * (1 if space == "log" else scale**2)
    covariance = _covariance(replicates, len(values), scale, space)
    return LawFit(name, space, widths, values, law.n_params, rss, at_bound, axis, scale, law, fitted, covariance)


def log_axis(widths: Array) -> Axis:
    """x = 0 at the narrowest width and 1 at the widest, by logarithm."""
    low, high = np.log(widths.min()), np.log(widths.max())
    return Axis(True, float(low), float(high - low) or 1.0)


def fit_power_law(
    widths: Array,
    values: Array,
    *,
    replicates: Array | None = None,
    space: str = "log",
    floor: bool = True,
    seed: int = 0,  # noqa: ARG001 - nothing here is drawn: the same on every call
) -> PowerLawFit:
    """FVU(W) = c + a W^-m by least squares, with intervals.

    Args:
        widths: (n,) latents; at least as many different ones as parameters.
        values: (n,) FVU.
        replicates: (n_replicates, n) FVU of each SAE in bootstrap draws of contexts, the same draws for every SAE.
            Without them `low`, `high` are those of the scatter.
        space: where squares are least: log or linear.
        floor: whether there is c; otherwise it is 0.
        seed: unused, for nothing is drawn.

    Raises:
        DataError: too few widths, or values that are not finite or not positive.

    Equivalent to `scipy.optimize.least_squares` with bounds, from many starts.
    """
    if not isinstance(floor, bool | np.bool_):
        raise DataError(f"floor is {floor!r}: give True or False.")
    widths, values = check_values(widths, values, space, 2 + int(floor))
    axis = log_axis(widths)
    law = Decay(axis(widths), MAX_EXPONENT * axis.unit, bool(floor))
    return fit_on_axis("power" if floor else "power_zero", axis, law, widths, values, replicates, space)
