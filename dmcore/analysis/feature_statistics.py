"""What is said of each latent in one row: how often and how strongly it is active, on which tokens, with how much error.

With `a` the activation of a latent (0 where it is not active) and `p` the norm of a part of the error, over all kept tokens:

1. frequency, mean and largest activation, the most common token, a histogram: over the tokens on which it is active.
2. share = sum of `a` over the tenth of the tokens with the largest `p`, over sum of `a`.
3. r = sum a (p - mean p) / sqrt(sum (a - mean a)^2 sum (p - mean p)^2): exact, from the active tokens alone, because `a` is
   0 on the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dmcore.analysis.feature_codes import Slab
from dmcore.analysis.token_norms import read_part
from dmcore.analysis.worst_tokens import largest
from dmcore.results.features import N_BINS
from dmcore.results.scaling import PARTS
from dmcore.sources.contexts import Contexts

CONSTANT = 1e-12
"""A latent whose activations vary by less, as a share of their sum of squares, does not vary."""


@dataclass(frozen=True)
class Part:
    """The norm of one part of the error at every token."""

    high: np.ndarray
    """(n_tokens,) bool: kept, and in the tenth of the kept tokens where it is largest; of equal ones the first."""
    unit: np.ndarray
    """(n_tokens,) float64 norm about its mean over kept tokens, scaled to length 1 over them; 0 elsewhere."""


def n_high_of(n_kept: int) -> int:
    """Tokens in the top tenth."""
    return -(-n_kept // 10)


def read_parts(tokens: Path, name: str, contexts: Contexts, skip_positions: int) -> dict[str, Part | None]:
    """Each of `PARTS`; None for one that is the same at all kept tokens.

    Raises:
        DataError: the table of tokens cannot be read, does not fit, or holds what is no squared norm.
    """
    found: dict[str, Part | None] = {}
    for part in PARTS:
        squares = read_part(tokens, name, part, contexts.n_contexts, contexts.length)
        kept = squares[:, skip_positions:]
        if kept.min() == kept.max():
            found[part] = None
            continue
        top = largest(kept.reshape(-1), n_high_of(kept.size))
        high, unit = np.zeros(squares.shape, dtype=bool), np.zeros(squares.shape)
        flags = np.zeros(kept.size, dtype=bool)
        flags[top] = True
        high[:, skip_positions:] = flags.reshape(kept.shape)
        norms = np.sqrt(kept, dtype=np.float64)
        norms -= norms.mean()
        unit[:, skip_positions:] = norms / np.sqrt(np.square(norms).sum())
        found[part] = Part(high.reshape(-1), unit.reshape(-1))
    return found


class LatentStatistics:
    """Filled slab by slab; then its columns are those of the table of latents, and its histograms what pages draw."""

    def __init__(self, d_sae: int, contexts: Contexts, skip_positions: int, parts: dict[str, Part | None]) -> None:
        self._ids, self._parts = contexts.tokens.reshape(-1), parts
        self.n_kept = contexts.n_contexts * (contexts.length - skip_positions)
        self.n_active = np.zeros(d_sae, dtype=np.int64)
        self.mean, self.largest = np.full((2, d_sae), np.nan)
        self.share = {part: np.full(d_sae, np.nan) for part in PARTS}
        self.r = {part: np.full(d_sae, np.nan) for part in PARTS}
        self.token, self.token_share = np.zeros(d_sae, dtype=np.int64), np.full(d_sae, np.nan)
        self.histogram = np.zeros((d_sae, N_BINS), dtype=np.uint32)

    def add(self, slab: Slab) -> None:
        """Take the kept entries of some latents."""
        counts = np.diff(slab.offsets)
        alive = np.flatnonzero(counts)
        where = slab.first + alive
        self.n_active[slab.first : slab.first + slab.n_latents] = counts
        if not len(alive):
            return
        values, n = slab.values.astype(np.float64), counts[alive]

        def total(of: np.ndarray) -> np.ndarray:
            return np.bincount(slab.local, weights=of, minlength=slab.n_latents)[alive]

        sums = total(values)
        self.mean[where] = sums / n
        top = np.maximum.reduceat(slab.values, slab.offsets[alive]).astype(np.float64)
        self.largest[where] = top
        mean_over_all = np.zeros(slab.n_latents)
        mean_over_all[alive] = sums / self.n_kept
        # About the mean, in two steps: sum a^2 - n mean^2 would cancel for a latent that is always active.
        scatter = total(np.square(values - mean_over_all[slab.local]))
        scatter += (self.n_kept - n) * np.square(sums / self.n_kept)
        varies = scatter > CONSTANT * total(np.square(values))
        for name, part in self._parts.items():
            if part is not None:
                self.share[name][where] = total(values * part.high[slab.tokens]) / sums
                with np.errstate(divide="ignore", invalid="ignore"):
                    r = total(values * part.unit[slab.tokens]) / np.sqrt(scatter)
                self.r[name][where] = np.where(varies, np.clip(r, -1.0, 1.0), np.nan)
        self._add_tokens(slab, where, alive, n)
        largest_of = np.ones(slab.n_latents)
        largest_of[alive] = top
        bins = np.minimum((values * (N_BINS / largest_of[slab.local])).astype(np.int64), N_BINS - 1)
        flat = np.bincount(slab.local * np.int64(N_BINS) + bins, minlength=slab.n_latents * N_BINS)
        self.histogram[slab.first : slab.first + slab.n_latents] = flat.reshape(-1, N_BINS)

    def _add_tokens(self, slab: Slab, where: np.ndarray, alive: np.ndarray, n: np.ndarray) -> None:
        ids = np.asarray(self._ids[slab.tokens], dtype=np.int64)
        size = int(ids.max()) + 1
        keys = np.sort(slab.local * np.int64(size) + ids)
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        times = np.diff(np.append(starts, len(keys)))
        latent, token = np.divmod(keys[starts], size)
        begins = np.searchsorted(latent, alive)
        most = np.maximum.reduceat(times, begins)
        is_most = np.flatnonzero(times == np.repeat(most, np.diff(np.append(begins, len(times)))))
        # Runs are in the order of ids: the first of the most common ones is the lowest.
        first = is_most[np.searchsorted(latent[is_most], alive)]
        self.token[where], self.token_share[where] = token[first], times[first] / n

    def columns(self) -> dict[str, np.ndarray]:
        """By name; NaN stands for null, and `token` is to be null where `token_share` is."""
        return {
            "latent": np.arange(len(self.n_active)),
            "frequency": self.n_active / self.n_kept,
            "n_active": self.n_active,
            "mean_active": self.mean,
            "max_active": self.largest,
            **{f"{part}_share": self.share[part] for part in PARTS},
            **{f"{part}_r": self.r[part] for part in PARTS},
            "token": self.token,
            "token_share": self.token_share,
        }
