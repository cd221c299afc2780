"""Lifts: how much more often something is there on some marked tokens than on all, with intervals clustered by context.

Of N tokens H are marked; an item (a latent, a kind of token) is active on B tokens, of which A are marked.

1. lift = (A / H) / (B / N): P(active | marked) / P(active).
2. `LiftSums`: of each context c its counts a, b, h, n. Every variance below is a quadratic form of them, so that only
   sums of their products are kept: memory grows with the number of items alone.
3. Interval: the delta method for log lift, whose influence is z_c = a / A - b / B - h / H + n / N; its variance is
   C / (C - 1) sum z_c^2 over the C contexts, but not less than that of independent tokens, (1 - A / B) (1 - B / N) / A.
   Where A is 0 or B the delta method has nothing to go by: there the end is Clopper and Pearson's, a context an observation.
4. p: D = A - B H / N is the sum over tokens of (active - B / N) (marked - H / N). D over its standard error, with the
   variance C / (C - 1) sum (u_c - D / C)^2 of the sums u_c of each context, but not less than that of independent tokens,
   B H / N (1 - H / N) (1 - B / N): without that bound, a latent that is on no marked token would have hardly any.
   Both with Student's t, for the number of contexts in which the item is active, less one.

Reference: Liang and Zeger 1986, Longitudinal data analysis using generalized linear models (the clustered variance).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import false_discovery_control
from scipy.stats import t as student_t

Array = np.ndarray


@dataclass(frozen=True)
class Lifts:
    """Lifts of all items; arrays of one number an item."""

    n_active: Array
    """B: tokens on which it is active."""
    n_high: Array
    """A: of these, the marked ones."""
    n_contexts: Array
    """Contexts in which it is active."""
    lift: Array
    """(A / H) / (B / N); nan where it is never active, or nothing is marked."""
    low: Array
    """2.5 % end; nan for an item in fewer than two contexts."""
    high: Array
    """97.5 % end."""
    p: Array
    """Two-sided, that lift is 1; nan for an item in fewer than two contexts."""


class LiftSums:
    """Sums over contexts, for `n_items` items."""

    def __init__(self, n_items: int) -> None:
        self.n_items, self.n_contexts = n_items, 0
        self._counts = np.zeros((3, n_items))
        """a, b, and contexts."""
        self._products = np.zeros((2, 4, n_items))
        """Sums of products of a and b with a, b, h, n, in this order."""
        self._totals = np.zeros(2)
        self._context_products = np.zeros((2, 2))

    def add(self, contexts: Array, items: Array, marked: Array, n_marked: Array, n_tokens: Array) -> None:
        """Add whole contexts.

        Args:
            contexts: (n_entries,) number of the context, from 0, of each token and item that is active on it.
            items: (n_entries,) the item.
            marked: (n_entries,) whether the token is marked.
            n_marked, n_tokens: (n_contexts,) marked tokens, and tokens, of each context.
        """
        keys, inverse = np.unique(contexts.astype(np.int64) * self.n_items + items, return_inverse=True)
        context, item = np.divmod(keys, self.n_items)
        b = np.bincount(inverse, minlength=len(keys)).astype(np.float64)
        a = np.bincount(inverse, weights=marked.astype(np.float64), minlength=len(keys))
        per_context = np.stack([n_marked, n_tokens]).astype(np.float64)
        values = [a, b, *per_context[:, context]]
        for row, of in enumerate((a, b, np.ones_like(a))):
            np.add.at(self._counts[row], item, of)
        for i in range(2):
            for j in range(i, 4):
                np.add.at(self._products[i, j], item, values[i] * values[j])
        self._totals += per_context.sum(1)
        self._context_products += per_context @ per_context.T
        self.n_contexts += len(n_tokens)

    @property
    def n_marked(self) -> int:
        """H."""
        return int(self._totals[0])

    @property
    def n_tokens(self) -> int:
        """N."""
        return int(self._totals[1])

    def _sum_of_squares(self, *coefficients: Array | float) -> Array:
        """(n_items,) sum over contexts of (ca a + cb b + ch h + cn n)^2."""
        total = np.zeros(self.n_items)
        for i in range(4):
            for j in range(i, 4):
                products = self._products[i, j] if i < 2 else self._context_products[i - 2, j - 2]
                total += (1.0 if i == j else 2.0) * coefficients[i] * coefficients[j] * products
        return total.clip(0.0)

    def lifts(self) -> Lifts:
        """The lifts of all that was added."""
        (A, B, contexts), (H, N), C = self._counts, self._totals, self.n_contexts
        with np.errstate(divide="ignore", invalid="ignore"):
            p, q = np.divide(H, N), B / N
            lift = A / B / p
            dof = np.where(contexts > 1, contexts - 1, np.nan)
            cluster = C / (C - 1) if C > 1 else np.nan
            z_sq = cluster * self._sum_of_squares(1.0 / A, -1.0 / B, np.divide(-1.0, H), np.divide(1.0, N))
            spread = np.sqrt(np.maximum(z_sq, (1.0 - A / B) * (1.0 - q) / A))
            margin = student_t.ppf(0.975, dof) * spread
            low, high = lift * np.exp(-margin), lift * np.exp(margin)
            # 0.025^(1 / n): the share that n observations without exception leave possible.
            least = np.where(contexts > 1, 0.025 ** (1.0 / contexts), np.nan)
            low, high = np.where(A == 0, 0.0 * least, low), np.where(A == 0, (1.0 - least) / p, high)
            low, high = np.where(A == B, np.minimum(low, least / p), low), np.where(A == B, 1.0 / p, high)
            excess = A - B * p
            u_sq = cluster * (self._sum_of_squares(1.0, -p, -q, p * q) - np.square(excess) / C).clip(0.0)
            error = np.sqrt(np.maximum(u_sq, B * p * (1.0 - p) * (1.0 - q)))
            chance = 2.0 * student_t.sf(np.abs(excess) / error, dof)
        known = np.isfinite(lift) & (contexts > 1)
        low, high = (
            np.where(known, end, np.nan) for end in (low, np.minimum(high, np.divide(1.0, p) if H else np.nan))
        )
        return Lifts(*(v.astype(np.int64) for v in (B, A, contexts)), lift, low, high, np.where(known, chance, np.nan))


def adjusted(p: Array) -> Array:
    """Benjamini and Hochberg's adjusted p of each test; nan, which is no test, stays."""
    found = np.full(len(p), np.nan)
    tested = np.isfinite(p)
    if tested.any():
        found[tested] = false_discovery_control(p[tested], method="bh")
    return found
