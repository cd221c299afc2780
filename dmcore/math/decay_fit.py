"""Least squares of a law that falls to a floor, within its bounds.

1. Laws that are straight lines in the space of the fit: in closed form.
2. Others: starts on a grid of rates, each with its best floor and height (linear least squares: variable projection), and
   damped Gauss-Newton steps from the best of them, all at once; a step that leaves the bounds is refused.
3. The same on each face of the bounds. The least sum of squares wins, and of equals the law with fewest parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dmcore.math.decay import Decay

Array = np.ndarray

N_RATES = 24
"""Starts of the rate."""
N_TRIED = 12
"""Starts that are followed."""
MAX_STEPS = 300
"""Most Gauss-Newton steps."""


@dataclass(frozen=True)
class Fitted:
    """A law at its least squares."""

    law: Decay
    """The law that was asked for, or the face of its bounds that the estimate lies on."""
    handle: Array
    """(n_params,)"""
    rss: float
    """Sum of squared residuals in the space of the fit."""


def into(space: str, values: Array) -> Array:
    """Values in the space of a fit."""
    return np.log(values) if space == "log" else values


def _slopes(law: Decay, handle: Array, space: str) -> tuple[Array, Array]:
    """(..., n) values of the law, and (..., n, n_params) their slopes in the space of the fit."""
    values, slopes = law.values(handle), law.slopes(handle)
    return values, slopes / values[..., None] if space == "log" else slopes


def _starts(law: Decay, values: Array, space: str) -> Array:
    """(n_starts, n_params) handles of laws within the bounds: linear least squares of the floor and height at each rate."""
    rates = np.geomspace(1e-2, law.max_rate, N_RATES) if law.rate is None else np.array([law.rate])
    weight = 1 / values if space == "log" else np.ones_like(values)
    basis = np.exp(-rates[:, None] * law.x)
    if law.floor:
        design = np.stack([np.ones_like(basis), basis], -1) * weight[:, None]
        solved = np.einsum("sij,j->si", np.linalg.pinv(design), values * weight)
        floor, amplitude = (
            np.maximum(solved[:, 0], 1e-3 * max(values.min(), 0)),
            np.maximum(solved[:, 1], 1e-3 * values.max()),
        )
    else:
        floor = np.zeros(rates.size)
        amplitude = (basis * weight**2 * values).sum(-1) / ((basis * weight) ** 2).sum(-1)
    handles = law.handle(floor, amplitude, rates)
    return handles[law.inside(handles)]


def _squares(law: Decay, handles: Array, target: Array, space: str) -> Array:
    """(n,) sums of squares of (n, n_params) handles; infinite outside the bounds."""
    inside = law.inside(handles)
    safe = np.where(inside[:, None], handles, 1.0) if law.n_params == 1 else handles
    with np.errstate(all="ignore"):
        found = ((target - into(space, law.values(safe))) ** 2).sum(-1)
    return np.where(inside & np.isfinite(found), found, np.inf)


def _straight(law: Decay, values: Array, space: str) -> Array | None:
    """(n_params,) the least-squares handle, were there no bounds, of a law that is linear in the space of the fit."""
    if law.floor or (law.rate is None and space == "linear"):
        return None
    if space == "linear":
        basis = np.exp(-law.rate * law.x) if law.rate else np.ones_like(law.x)
        return np.array([(basis @ values) / (basis @ basis)])
    logs = np.log(values)
    if law.rate is not None:
        return np.exp(np.array([(logs + law.rate * law.x).mean()]))
    apart = law.x - law.x.mean()
    slope = (apart @ logs) / (apart @ apart)
    return np.exp(logs.mean() + slope * (np.array([0.0, 1.0]) - law.x.mean()))


def _least(law: Decay, values: Array, space: str) -> Fitted:
    """The law at its least squares, with an infinite sum if the bounds do not hold it."""
    straight = _straight(law, values, space)
    if straight is None:
        return Fitted(law, *_descend(law, values, space))
    return Fitted(law, straight, float(_squares(law, straight[None], into(space, values), space)[0]))


def _descend(law: Decay, values: Array, space: str) -> tuple[Array, float]:
    """The best of damped Gauss-Newton from all starts; steps that leave the bounds are refused."""
    handles = _starts(law, values, space)
    if not len(handles):
        return np.empty(law.n_params), np.inf
    target, eye = into(space, values), np.eye(law.n_params)
    rss = _squares(law, handles, target, space)
    keep = np.argsort(rss, kind="stable")[:N_TRIED]
    handles, rss, damping = handles[keep], rss[keep], np.full(len(keep), 1e-6)
    for _ in range(MAX_STEPS):
        fitted, slopes = _slopes(law, handles, space)
        transposed = slopes.swapaxes(-1, -2)
        normal = transposed @ slopes
        scale = np.einsum("...ii->...i", normal)[..., None] * eye
        pull = transposed @ (target - into(space, fitted))[..., None]
        floor = (1e-14 * scale.max((-2, -1)) + 1e-300)[:, None, None]  # a slope that is 0 must not stop the others
        step = np.linalg.solve(normal + damping[:, None, None] * scale + floor * eye, pull)[..., 0]
        tried = _squares(law, handles + step, target, space)
        better = tried <= rss
        small = (np.abs(step) <= 1e-12 * np.abs(handles).max(-1, keepdims=True)).all(-1)
        handles = np.where(better[:, None], handles + step, handles)
        rss = np.where(better, tried, rss)
        damping = np.where(better, damping * 0.1, np.maximum(damping, 1e-7) * 8)
        if (small | (damping > 1e6)).all():
            break
    best = int(np.argmin(rss))
    return handles[best], float(rss[best])


def fit_decay(law: Decay, values: Array, space: str) -> Fitted:
    """Least squares of (n,) positive values within the bounds of the law.

    Equivalent to `scipy.optimize.least_squares` with bounds, from many starts.
    """
    with np.errstate(all="ignore"):  # a step may try a law that has no rate; it is refused
        candidates = [_least(family, values, space) for family in (*law.faces, law)]
    least = min(candidate.rss for candidate in candidates)
    nought = len(values) * (1e-12 * np.abs(into(space, values)).max()) ** 2
    return next(candidate for candidate in candidates if candidate.rss <= least * (1 + 1e-9) + nought)
