"""The laws that cannot be told from the one of least squares, and so the interval of anything about it.

1. The least-squares estimate solves U(p) = J' r = 0 (J slopes, r residuals, in the space of the fit). If the values have
   covariance S, then at the law that least squares would find without noise U has mean 0 and covariance J' S J. So the
   laws with U' (J' S J)^-1 U below the 95 % quantile with one degree of freedom are those that noise could have moved
   to the estimate (a score test, turned around), and the range over them of any function of the law is its interval.
   That the law fits badly makes this neither wrong nor empty: the interval is about the estimate, not about the points.
2. Rays from the estimate find the edge of that region: where the statistic passes its quantile, or a bound is met.
3. If the estimate lies on a face of the bounds, the region within that face is added.
Reference: Stock and Wright 2000, GMM with Weak Identification (the statistic S); Hamilton, Watts and Bates 1982.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import stats

from dmcore.math.decay import Decay
from dmcore.math.decay_fit import Fitted, into

Array = np.ndarray

N_RAYS = 120
"""Rays that look for the edge of a region of more than one dimension."""
N_CLOSER = 4
"""Steps that close in on the edge along a ray."""


@cache
def _quantile(freedom: int | None) -> float:
    """95 % quantile of a squared standard normal number, or of one whose variance was judged on so many degrees."""
    return float(stats.chi2.ppf(0.95, 1) if freedom is None else stats.f.ppf(0.95, 1, freedom))


@cache
def _directions(n_params: int) -> Array:
    """(n_rays, n_params) unit vectors, evenly spread: the same on every call."""
    if n_params == 1:
        return np.array([[-1.0], [1.0]])
    if n_params == 2:
        angles = 2 * np.pi * np.arange(N_RAYS) / N_RAYS
        return np.stack([np.cos(angles), np.sin(angles)], -1)
    height = 1 - (2 * np.arange(N_RAYS) + 1) / N_RAYS
    turn = np.pi * (1 + 5**0.5) * np.arange(N_RAYS)
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), height], -1)


def _noise(covariance: Array | None, values: Array, space: str) -> Array:
    """(..., n, n) covariance of the values in the space of the fit; None: independent, and of one relative size."""
    if covariance is not None:
        return covariance
    eye = np.eye(values.shape[-1])
    return np.broadcast_to(eye, (*values.shape, values.shape[-1])) if space == "log" else values[..., None] ** 2 * eye


def _statistic(law: Decay, handles: Array, target: Array, covariance: Array | None, space: str) -> Array:
    """(n_rays,) U' (J' S J)^-1 U."""
    values, slopes = law.values(handles), law.slopes(handles)
    if space == "log":
        slopes = slopes / values[..., None]
    transposed = slopes.swapaxes(-1, -2)
    score = transposed @ (target - into(space, values))[..., None]
    spread = transposed @ _noise(covariance, values, space) @ slopes
    least = 1e-14 * np.nan_to_num(np.abs(spread).max((-2, -1)), nan=1.0, posinf=1.0) + 1e-300
    return (score * np.linalg.solve(spread + least[..., None, None] * np.eye(law.n_params), score))[..., 0].sum(-1)


def _reach(slopes: Array, spread: Array, start: Array) -> Array:
    """(n_params, n_params) a root of the covariance of the estimate, were the law linear; any scale where that fails."""
    try:
        inverse = np.linalg.inv(slopes.T @ slopes)
        return np.linalg.cholesky(inverse @ spread @ inverse)
    except np.linalg.LinAlgError:
        return np.diag(0.01 * start)


def scatter_variance(fitted: Fitted, law: Decay, values: Array, space: str) -> float:
    """Variance of the points about the law, relative to the law, with n - n_params degrees of freedom.

    Of the residuals only what is orthogonal to the score counts; at an estimate within the bounds that is all of them.
    """
    fit = fitted.law.values(fitted.handle)
    natural = fitted.law.natural(fitted.handle)
    if law.n_params == fitted.law.n_params:
        slopes = law.slopes(fitted.handle)
    else:
        slopes = law.slopes(law.handle(natural[0], natural[1], np.nan_to_num(natural[2])))
    residual = into(space, values) - into(space, fit)
    if space == "log":
        slopes = slopes / fit[:, None]
    else:
        residual, slopes = residual / fit, slopes * fit[:, None]
    basis = np.linalg.qr(slopes)[0]
    residual = residual - basis @ (basis.T @ residual)
    return float((residual**2).sum() / (len(values) - law.n_params))


def _inner_starts(law: Decay, fitted: Fitted) -> Array:
    """(n_starts, n_params) where rays begin: the estimate, moved off the faces by next to nothing."""
    if law.n_params == fitted.law.n_params:
        return fitted.handle[None]
    floor, amplitude, rate = fitted.law.natural(fitted.handle)
    if np.isnan(rate):  # a constant: any rate would do
        rates = law.max_rate * np.array([0.02, 0.1, 0.3, 0.9])
        height = np.full(4, 1e-4 * floor)
        return law.handle((floor - height) * law.floor + 0 * rates, height + (not law.floor) * (floor - height), rates)
    nudge = 1e-6 * (floor + amplitude) * law.floor
    floor = max(floor, nudge)
    return law.handle(floor, amplitude - nudge, min(rate, law.max_rate * (1 - 1e-9)))[None]


def _edge(law: Decay, start: Array, values: Array, covariance: Array | None, level: float, space: str) -> Array:
    """(n_rays, n_params) where rays from a start inside the region leave it."""
    target = into(space, values)
    fit, slopes = law.values(start), law.slopes(start)
    if space == "log":
        slopes = slopes / fit[:, None]
    spread = slopes.T @ _noise(covariance, fit, space) @ slopes
    rays = _directions(law.n_params) @ _reach(slopes, spread, start).T * np.sqrt(level)
    # how far the bounds let each ray go: they are convex
    limit, width = np.zeros(len(rays)), 64.0
    for _ in range(8):
        width = width / 8
        reach = limit + width * np.arange(1, 9)[:, None]
        limit = limit + width * law.inside(start + reach[..., None] * rays).sum(0)

    def offset(reach: Array) -> Array:
        found = _statistic(law, start + reach[:, None] * rays, target, covariance, space)
        return np.sqrt(np.maximum(found, 0)) - np.sqrt(level)

    # along a ray the statistic is nearly a parabola: first where it first passes its level, then ever closer
    low, high = np.zeros(len(rays)), np.minimum(limit, 1.0)
    beyond = offset(high) > 0
    for _ in range(10):
        grow = ~beyond & (high < limit)
        if not grow.any():
            break
        low, high = np.where(grow, high, low), np.where(grow, np.minimum(limit, high * 2), high)
        beyond = offset(high) > 0
    # false position on the root of the statistic, which is nearly straight (Illinois: an end that stays counts half)
    at_low, at_high = offset(low), offset(high)
    for _ in range(N_CLOSER):
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.clip(np.nan_to_num(at_low / (at_low - at_high), nan=0.5), 0.0, 1.0)
        middle = low + share * (high - low)
        at_middle = offset(middle)
        out = at_middle > 0
        at_low, at_high = np.where(out, at_low / 2, at_middle), np.where(out, at_middle, at_high / 2)
        low, high = np.where(out, low, middle), np.where(out, middle, high)
    return start + np.where(beyond, low, np.minimum(limit, high))[:, None] * rays


def region(fitted: Fitted, law: Decay, values: Array, space: str, covariance: Array | None = None) -> Array:
    """(n_laws, 3) c, A and s of laws on the edge of the region, and of the estimate.

    Args:
        fitted: the estimate.
        law: the law that was asked for.
        values: (n,) what was fitted.
        space: log or linear.
        covariance: (n, n) of the values in that space, known; None: independent noise of one relative size at every
            point, judged from how they scatter about the law.
    """
    with np.errstate(all="ignore"):  # a flat law has no rate
        return _region(fitted, law, values, space, covariance)


def _region(fitted: Fitted, law: Decay, values: Array, space: str, covariance: Array | None) -> Array:
    found = [fitted.law.natural(fitted.handle)[None]]
    for family in [law] if fitted.law.n_params == law.n_params else [law, fitted.law]:
        freedom = len(values) - family.n_params
        level = _quantile(None)
        if covariance is None:
            if freedom < 1:
                continue
            level = _quantile(freedom) * scatter_variance(fitted, family, values, space)
        for start in _inner_starts(family, fitted):
            here = _statistic(family, start[None], into(space, values), covariance, space)[0]
            if here < level and family.inside(start):
                found.append(family.natural(_edge(family, start, values, covariance, level, space)))
    return np.concatenate(found)
