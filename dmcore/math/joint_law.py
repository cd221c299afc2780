"""One law for width and L0 together: FVU(W, L0) = c + a W^-m L0^-n, least squares in log space.

1. Starts: floors from none to almost the least value; what is above the floor is linear in logarithms.
2. Damped Gauss-Newton steps of (c, log a, m, n) from all starts; from the best of these, of all replicates at once.
3. Bounds: 0 <= c. A fit that would have a floor below 0 has none, and is then linear least squares of the logarithms.
4. Intervals: percentiles of the replicates' fits. AIC = n ln(rss / n) + 2 k with k = 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dmcore.errors import DataError
from dmcore.estimate import Estimate
from dmcore.math.bootstrap import interval

Array = np.ndarray

N_PARAMS = 4
FLOORS = (0.02, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97)
"""Starts of the floor, as shares of the least value."""
MAX_STEPS = 40
"""Most Gauss-Newton steps."""


@dataclass(frozen=True)
class JointLaw:
    """FVU = c + a W^-m L0^-n at its least squares in log space."""

    c: Estimate
    a: Estimate
    m: Estimate
    n: Estimate
    rss: float
    """Sum of squared residuals of log FVU."""
    n_saes: int

    @property
    def aic(self) -> float:
        """n ln(rss / n) + 2 k; nan for an exact fit."""
        exact = self.n_saes * 1e-24
        return self.n_saes * math.log(self.rss / self.n_saes) + 2 * N_PARAMS if self.rss > exact else math.nan

    def predict(self, widths: Array, l0s: Array) -> Array:
        """The law at each width and L0."""
        return self.c.value + self.a.value * np.asarray(widths) ** -self.m.value * np.asarray(l0s) ** -self.n.value


def _squares(parameters: Array, design: Array, logs: Array) -> Array:
    """(n_fits,) sums of squares of (n_fits, 4) parameters c, then log a, -m and -n."""
    with np.errstate(all="ignore"):
        fitted = np.log(parameters[:, :1] + np.exp(parameters[:, 1:] @ design.T))
    found = ((logs - fitted) ** 2).sum(-1)
    return np.where((parameters[:, 0] >= 0) & np.isfinite(found), found, np.inf)


def _descend(parameters: Array, design: Array, logs: Array) -> tuple[Array, Array]:
    """Damped Gauss-Newton of many fits at once: (n_fits, 4) parameters, and (n_fits, n_saes) logs or (n_saes,)."""
    rss, damping, eye = _squares(parameters, design, logs), np.full(len(parameters), 1e-4), np.eye(4)
    for _ in range(MAX_STEPS):
        above = np.exp(parameters[:, 1:] @ design.T)
        value = parameters[:, :1] + above
        slopes = np.concatenate([1 / value[..., None], (above / value)[..., None] * design], -1)
        normal = slopes.swapaxes(-1, -2) @ slopes
        scale = np.einsum("...ii->...i", normal)[..., None] * eye
        pull = slopes.swapaxes(-1, -2) @ (logs - np.log(value))[..., None]
        step = np.linalg.solve(normal + damping[:, None, None] * scale + 1e-12 * eye, pull)[..., 0]
        tried = _squares(parameters + step, design, logs)
        better = tried <= rss
        done = (np.abs(step) <= 1e-11 * (1 + np.abs(parameters))).all(-1) | (damping > 1e10)
        parameters, rss = np.where(better[:, None], parameters + step, parameters), np.where(better, tried, rss)
        damping = np.where(better, damping * 0.1, np.maximum(damping, 1e-7) * 8)
        if done.all():
            break
    return parameters, rss


def _without_floor(design: Array, logs: Array) -> tuple[Array, Array]:
    """The same for c = 0, where the law is linear in logarithms."""
    solved = np.atleast_2d(logs @ np.linalg.pinv(design).T)
    parameters = np.concatenate([np.zeros((len(solved), 1)), solved], 1)
    return parameters, _squares(parameters, design, logs)


def _better(first: tuple[Array, Array], second: tuple[Array, Array]) -> Array:
    """(n_fits, 4) of two ways to fit, the one with less left."""
    return np.where((first[1] < second[1])[:, None], first[0], second[0])


def fit_joint_law(widths: Array, l0s: Array, values: Array, *, replicates: Array | None = None) -> JointLaw:
    """The joint law of (n_saes,) SAEs, with intervals from (n_replicates, n_saes) redraws of their values.

    Raises:
        DataError: no more SAEs than parameters, one width or one L0 only, all on one line, or values that are not positive.
    """
    widths, l0s, values = (np.asarray(part, dtype=float) for part in (widths, l0s, values))
    if not ((values > 0).all() and np.isfinite(values).all() and (widths > 0).all() and (l0s > 0).all()):
        raise DataError("Values, widths and L0 must be positive: leave out SAEs for which they are not.")
    design = np.stack([np.ones_like(widths), np.log(widths / widths.mean()), np.log(l0s / l0s.mean())], 1)
    if len(values) <= N_PARAMS or np.linalg.matrix_rank(design, tol=1e-3) < 3:
        raise DataError("A law of width and L0 needs 5 SAEs or more, at several widths and L0s.")
    scale = float(np.exp(np.log(values).mean()))
    logs = np.log(values / scale)
    starts = []
    for share in FLOORS:
        floor = share * np.exp(logs.min())
        starts.append(np.concatenate([[floor], np.linalg.pinv(design) @ np.log(np.exp(logs) - floor)]))
    found, rss = _descend(np.stack(starts), design, logs)
    best = int(np.argmin(rss))
    point = _better((found[best : best + 1], rss[best : best + 1]), _without_floor(design, logs))
    every = np.empty((0, 4))
    if replicates is not None:
        redrawn = replicates[np.isfinite(replicates).all(1) & (replicates > 0).all(1)]
        redrawn = np.log(np.asarray(redrawn, dtype=float) / scale)
        if len(redrawn):
            begin = np.repeat(found[best : best + 1], len(redrawn), 0)
            every = _better(_descend(begin, design, redrawn), _without_floor(design, redrawn))

    def natural(parameters: Array) -> Array:
        floor, height, by_width, by_l0 = parameters.T
        height = height - by_width * np.log(widths.mean()) - by_l0 * np.log(l0s.mean())
        return np.stack([scale * floor, scale * np.exp(height), -by_width, -by_l0])

    estimates = [
        interval(float(value[0]), redraws) for value, redraws in zip(natural(point), natural(every), strict=True)
    ]
    return JointLaw(*estimates, rss=float(_squares(point, design, logs)[0]), n_saes=len(values))
