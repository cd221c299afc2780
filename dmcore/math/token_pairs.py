"""Does the error norm of one SAE tell where that of another is large? Every ordered pair of SAEs, from sums over contexts.

y_i is the norm of the error of SAE i at a token, z_i that of its nonlinear part. For source i and target j, pooled over
tokens (paper, section on scaling per token):
    r2       = 1 - sum (y_j - a - b y_i)^2 / sum (y_j - mean y_j)^2      a, b: least squares on the other folds of contexts
    r2_both  = the same with a + b y_i + c z_i
    closed   = (r2_both - r2) / (1 - r2)      share of the unexplained variance that the source's nonlinear norm closes
    spearman = correlation of the ranks of y_i and y_j
    f, p     = nested F test of c = 0, fitted on all tokens, with 1 and n - 3 degrees of freedom
    z        = c, fitted on all tokens, over its standard error clustered by context

1. `PairMoments`: a first pass sums the Gram matrix of [1, y, z] in each fold; every fit of every pair follows from it.
2. `PairSums`: a second pass makes the Gram matrix of each context, and from it the squared residuals of every pair under
   the map of the context's fold (summed in bootstrap units) and its score (squared and summed).
3. `pair_estimates`: the numbers, with bootstrap intervals over contexts; maps, means and ranks are held. Refitted in every
   replicate the intervals are the same, but for `closed` where next to nothing is closed: there they are too narrow, and
   all below 0 in up to a quarter of cases. Whether z tells anything is a matter for its test, not for that interval.

Memory is a few numbers for each bootstrap unit and pair, whatever the number of tokens. Columns are expected about their
means and in units of their standard deviations (all numbers above are blind to both); a constant one as zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int
from scipy.stats import f as f_distribution

from dmcore.math.bootstrap import poisson_weights
from dmcore.math.intervals import interval_ends

Array = np.ndarray

EXACT = 1e-12
"""Below this share of a sum of squares, what is left of it is rounding."""


@dataclass(frozen=True)
class PairFits:
    """Least squares of every y_j on [1, y_i] and on [1, y_i, z_i], from one Gram matrix; a regressor that adds nothing to
    those before it (constant, or collinear) has the coefficient 0."""

    one: Float64[Array, "n_saes 3 n_saes"]
    """[source, coefficient of 1, y_i and z_i (which is 0), target]."""
    both: Float64[Array, "n_saes 3 n_saes"]
    """The same, z_i too."""
    apart: Float64[Array, "n_saes 3"]
    """What is left of z_i after its own fit on [1, y_i], in terms of [1, y_i, z_i]."""
    apart_sq: Float64[Array, " n_saes"]
    """Sum of its squares; 0 where z_i adds nothing."""
    gain: Float64[Array, "n_saes n_saes"]
    """Drop of the sum of squared residuals when z_i is added."""
    residual_sq: Float64[Array, "n_saes n_saes"]
    """Sum of squared residuals with both."""
    total_sq: Float64[Array, " n_saes"]
    """Sum of (y_j - mean y_j)^2."""


def _divide(numerator: Array, denominator: Array) -> Array:
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    return np.divide(numerator, denominator, out=np.zeros(shape), where=denominator > 0)


def fit_pairs(gram: Float64[Array, "n_columns n_columns"]) -> PairFits:
    """All fits from the Gram matrix of [1, y_1..y_S, z_1..z_S], by first taking y_i out of z_i (Frisch and Waugh)."""
    n_saes = gram.shape[0] // 2
    mean = gram[0, 1:] / gram[0, 0]
    centred = gram[1:, 1:] - gram[0, 0] * np.outer(mean, mean)
    mean_y, mean_z = mean[:n_saes], mean[n_saes:]
    scatter = np.diag(centred)
    scatter = np.where(scatter > EXACT * np.diag(gram)[1:], scatter, 0.0)
    y_sq, z_sq = scatter[:n_saes], scatter[n_saes:]
    y_with_y, z_with_y = centred[:n_saes, :n_saes], centred[n_saes:, :n_saes]
    own = np.diag(z_with_y)
    z_on_y = _divide(own, y_sq)
    apart_sq = z_sq - z_on_y * own
    apart_sq = np.where(apart_sq > EXACT * z_sq, apart_sq, 0.0)
    slope = _divide(y_with_y, y_sq[:, None])
    apart_with_y = z_with_y - z_on_y[:, None] * y_with_y
    added = _divide(apart_with_y, apart_sq[:, None])
    slope_both = slope - z_on_y[:, None] * added
    bias = mean_y - slope * mean_y[:, None]
    bias_both = mean_y - slope_both * mean_y[:, None] - added * mean_z[:, None]
    gain = added * apart_with_y
    return PairFits(
        one=np.stack([bias, slope, np.zeros_like(slope)], axis=1),
        both=np.stack([bias_both, slope_both, added], axis=1),
        apart=np.stack([z_on_y * mean_y - mean_z, -z_on_y, np.ones(n_saes)], axis=1),
        apart_sq=apart_sq,
        gain=gain,
        residual_sq=y_sq - slope * y_with_y - gain,
        total_sq=y_sq,
    )


class PairMoments:
    """First pass: Gram matrices of [1, y, z] in each fold."""

    def __init__(self, n_saes: int, n_folds: int) -> None:
        self._grams = np.zeros((n_folds, 1 + 2 * n_saes, 1 + 2 * n_saes))

    def add(
        self,
        values: Float64[Array, "n_contexts n_columns n_kept"],
        folds: Int[Array, " n_contexts"],
    ) -> None:
        """Add some contexts; columns are 1, y of each SAE, z of each SAE."""
        for fold, context in zip(folds, values, strict=True):
            self._grams[fold] += context @ context.T

    @property
    def n_tokens(self) -> int:
        """Tokens added."""
        return round(self._grams[:, 0, 0].sum())

    def full(self) -> PairFits:
        """Fits on all tokens."""
        return fit_pairs(self._grams.sum(0))

    def held_out(self) -> list[PairFits]:
        """For each fold, fits on all others."""
        return [fit_pairs(np.delete(self._grams, fold, axis=0).sum(0)) for fold in range(len(self._grams))]

    def means(self) -> Float64[Array, " n_saes"]:
        """Mean y of each SAE."""
        total = self._grams.sum(0)
        return total[0, 1 : 1 + len(total) // 2] / total[0, 0]


class PairSums:
    """Second pass: sums over contexts, in bootstrap units."""

    def __init__(self, moments: PairMoments, units: Int[Array, " n_contexts"]) -> None:
        self.full, held_out = moments.full(), moments.held_out()
        self.n_tokens, self.n_contexts = moments.n_tokens, len(units)
        n_units, n_saes = int(units.max()) + 1, len(self.full.total_sq)
        self._units, self._means = units, moments.means()
        self._one = np.stack([fits.one for fits in held_out])
        self._both = np.stack([fits.both for fits in held_out])
        self._columns = np.arange(n_saes)[:, None] + np.array([0, 1, 1 + n_saes])
        self._columns[:, 0] = 0
        self.total = np.zeros((n_units, n_saes))
        """(n_units, n_targets) sums of (y_j - mean y_j)^2."""
        self.one, self.both, self.ranks = (np.zeros((n_units, n_saes, n_saes)) for _ in range(3))
        """(n_units, n_sources, n_targets) squared residuals of the two fits, and products of centred ranks."""
        self.score_sq = np.zeros((n_saes, n_saes))
        """Sum over contexts of (the sum of what z_i has apart times the residual of y_j)^2."""

    def add(
        self,
        values: Float64[Array, "n_contexts n_columns n_kept"],
        ranks: Float64[Array, "n_contexts n_saes n_kept"],
        contexts: Int[Array, " n_contexts"],
        folds: Int[Array, " n_contexts"],
    ) -> None:
        """Add some contexts: the columns of the first pass, ranks of y about their mean, their numbers and folds."""
        n_saes = ranks.shape[1]
        gram = values @ values.transpose(0, 2, 1)
        design = gram[:, self._columns[:, :, None], self._columns[:, None, :]]
        with_y = gram[:, self._columns, 1 : 1 + n_saes]
        y_sq = np.diagonal(gram, axis1=1, axis2=2)[:, 1 : 1 + n_saes]
        total = y_sq - 2 * self._means * gram[:, 0, 1 : 1 + n_saes] + gram[:, :1, 0] * self._means**2
        with_residual = with_y - design @ self.full.both
        score = np.einsum("sp,cspt->cst", self.full.apart, with_residual)
        self.score_sq += np.square(score).sum(0)
        parts = (
            (self.total, total),
            (self.one, _residual_sq(self._one[folds], design, with_y, y_sq)),
            (self.both, _residual_sq(self._both[folds], design, with_y, y_sq)),
            (self.ranks, ranks @ ranks.transpose(0, 2, 1)),
        )
        for sums, of_context in parts:
            for unit, some in zip(self._units[contexts], of_context, strict=True):
                sums[unit] += some


def _residual_sq(
    coefficients: Float64[Array, "n_contexts n_saes 3 n_saes"],
    design: Float64[Array, "n_contexts n_saes 3 3"],
    with_y: Float64[Array, "n_contexts n_saes 3 n_saes"],
    y_sq: Float64[Array, "n_contexts n_saes"],
) -> Float64[Array, "n_contexts n_saes n_saes"]:
    """Sums of (y_j - coefficients . [1, y_i, z_i])^2, from products alone."""
    return y_sq[:, None] - (coefficients * (2 * with_y - design @ coefficients)).sum(2)


@dataclass(frozen=True)
class PairEstimates:
    """Of every pair [source, target]; nan where there is no number: a norm that is constant, an SAE and itself."""

    r2: Float64[Array, "3 n_saes n_saes"]
    """Value, and low and high end of the 95 % interval; so for the next three. 1 for an SAE and itself."""
    spearman: Float64[Array, "3 n_saes n_saes"]
    r2_both: Float64[Array, "3 n_saes n_saes"]
    closed: Float64[Array, "3 n_saes n_saes"]
    """nan where r2 is 1: there is nothing to close."""
    f: Float64[Array, "n_saes n_saes"]
    p: Float64[Array, "n_saes n_saes"]
    z: Float64[Array, "n_saes n_saes"]
    """nan, like f and p, where z_i is collinear with y_i."""


def pair_estimates(sums: PairSums, seed: int, tick: Callable[[], None] = lambda: None) -> PairEstimates:
    """The numbers of every pair.

    Args:
        sums: of all contexts.
        seed: of the bootstrap.
        tick: called once for each source.

    `f` and `p` equal `compare_f_test` of statsmodels; `z` equals its `fit(cov_type="cluster")` with groups = contexts (never
    the bundles of the bootstrap) and its default correction, G / (G - 1) * (n - 1) / (n - 3).
    """
    n_units, n_saes = sums.total.shape
    weights = np.concatenate([np.ones((1, n_units)), poisson_weights(n_units, seed)])
    found = {name: np.full((3, n_saes, n_saes), np.nan) for name in ("r2", "spearman", "r2_both", "closed")}
    total = weights @ sums.total
    rank_sq = weights @ np.diagonal(sums.ranks, axis1=1, axis2=2)
    varies, adds = sums.full.total_sq > 0, _nonlinear_varies(sums)
    for i in np.flatnonzero(varies):
        one, both = weights @ sums.one[:, i], weights @ sums.both[:, i]
        targets = varies & (np.arange(n_saes) != i)
        open_ = targets & (one[0] > EXACT * total[0])
        with np.errstate(divide="ignore", invalid="ignore"):
            replicates = {
                "r2": (1 - one / total, targets),
                "r2_both": (1 - both / total, targets & adds[i]),
                "closed": (1 - both / one, open_ & adds[i]),
                "spearman": ((weights @ sums.ranks[:, i]) / np.sqrt(rank_sq[:, [i]] * rank_sq), targets),
            }
        for name, (drawn, there) in replicates.items():
            found[name][0, i] = np.where(there, drawn[0], np.nan)
            found[name][1:, i] = interval_ends(found[name][0, i], drawn[1:])
        for name in ("r2", "r2_both", "spearman"):
            found[name][:, i, i] = 1.0
        tick()
    return PairEstimates(**found, **_tests(sums))


def _nonlinear_varies(sums: PairSums) -> Array:
    """Whether z of each SAE varies: what is apart from y is more than nothing, or z has a slope on y."""
    return (sums.full.apart_sq > 0) | (sums.full.apart[:, 1] != 0)


def _tests(sums: PairSums) -> dict[str, Array]:
    full, dof, n_contexts = sums.full, sums.n_tokens - 3, sums.n_contexts
    there = (full.apart_sq > 0)[:, None] & (full.residual_sq > EXACT * full.total_sq) & (full.total_sq > 0)
    there &= (full.total_sq > 0)[:, None] & (sums.score_sq > 0) & (dof > 0) & (n_contexts > 1)
    np.fill_diagonal(there, False)
    empty = np.full(there.shape, np.nan)
    f = np.divide(full.gain * dof, full.residual_sq, out=empty.copy(), where=there)
    correction = n_contexts / max(n_contexts - 1, 1) * (sums.n_tokens - 1) / max(dof, 1)
    error = np.sqrt(correction * sums.score_sq)
    z = np.divide(full.both[:, 2] * full.apart_sq[:, None], error, out=empty.copy(), where=there)
    return {"f": f, "p": f_distribution.sf(f, 1, max(dof, 1)), "z": z}
