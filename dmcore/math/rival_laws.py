"""Laws that a power law of width must beat: exponential, constant, and a power law without a floor.

1. Exponential: c + a exp(-W / w0). The same family as the power law with W in place of log W (`decay`).
2. Constant: c; the geometric mean in log space.
3. Power law to zero: a W^-m.
4. Which is best: AIC within one space, and the prediction of the widest SAE from the others.
"""

from __future__ import annotations

import numpy as np

from dmcore.errors import DataError
from dmcore.estimate import Estimate
from dmcore.math.decay import Decay
from dmcore.math.power_law import Axis, LawFit, check_values, fit_on_axis, fit_power_law, log_axis

Array = np.ndarray

N_PARAMS = {"power": 3, "power_zero": 2, "exponential": 3, "constant": 1}
"""Free parameters of each law."""
MAX_RATE = 16.0
"""Upper bound of the fall of an exponential law, as a power of e, from the narrowest width to the middle one."""


def fit_exponential(widths: Array, values: Array, *, replicates: Array | None = None, space: str = "log") -> LawFit:
    """c + a exp(-W / m) by least squares; arguments, intervals and errors as in `fit_power_law`. m is a width."""
    widths, values = check_values(widths, values, space, 3)
    ordered = np.unique(widths)
    low, unit = ordered[0], ordered[len(ordered) // 2] - ordered[0]
    axis = Axis(False, float(low), float(unit))
    law = Decay(axis(widths), min(MAX_RATE, 500 * unit / low))
    return fit_on_axis("exponential", axis, law, widths, values, replicates, space)


def fit_constant(widths: Array, values: Array, *, replicates: Array | None = None, space: str = "log") -> LawFit:
    """The same value at every width; arguments, intervals and errors as in `fit_power_law`."""
    widths, values = check_values(widths, values, space, 1)
    axis = log_axis(widths)
    law = Decay(axis(widths), 1.0, floor=False, rate=0.0)
    return fit_on_axis("constant", axis, law, widths, values, replicates, space)


def fit_law(law: str, widths: Array, values: Array, *, replicates: Array | None = None, space: str = "log") -> LawFit:
    """One of the laws of `N_PARAMS`, by its name."""
    if law not in N_PARAMS:
        raise DataError(f"{law!r} is no law: use one of {', '.join(N_PARAMS)}.")
    if law == "exponential":
        return fit_exponential(widths, values, replicates=replicates, space=space)
    if law == "constant":
        return fit_constant(widths, values, replicates=replicates, space=space)
    return fit_power_law(widths, values, replicates=replicates, space=space, floor=law == "power")


def predict_widest(
    law: str, widths: Array, values: Array, *, replicates: Array | None = None, space: str = "log"
) -> Estimate:
    """The value of the widest SAE by the law of the others; nan where these are no more than the law's parameters.

    The interval says how the prediction moves with the texts (without replicates: with the scatter of the SAEs).
    """
    widths, values = np.asarray(widths, dtype=float), np.asarray(values, dtype=float)
    kept = widths < widths.max()
    if len(np.unique(widths[kept])) <= N_PARAMS[law]:
        return Estimate(np.nan)
    others = None if replicates is None else np.asarray(replicates)[:, kept]
    fit = fit_law(law, widths[kept], values[kept], replicates=others, space=space)
    widest = np.array([widths.max()])
    low, high = fit.band(widest)
    return Estimate(float(fit.predict(widest)[0]), low[0], high[0])
