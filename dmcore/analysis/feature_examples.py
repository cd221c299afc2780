"""Examples of each latent: the tokens on which it is most active, and some of each lower decile, with the text around them.

1. Kept tokens of a latent are ranked by activation, of equal ones the lower token first. The largest are shown, at most
   `MOST_OF_CONTEXT` of one context, so that one text does not fill the card.
2. The rank `j` of `n`, counted from the largest, is in decile `9 - floor(10 j / n)`. The ranks of each of the deciles 0 to 8
   are cut into equal parts, and one is drawn from each part, by a number that depends on seed, latent and part alone.
3. Around each a window of its context; what is stored of it is the ids, and where in it the latent is active.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dmcore.analysis.codes import NpyAppender
from dmcore.analysis.feature_codes import Slab
from dmcore.math.transpose import descending, ragged, uniform_of
from dmcore.results.features import TOP, window_of

MOST_OF_CONTEXT = 2
"""Examples of one context among the largest."""


@dataclass(frozen=True)
class Chosen:
    """The examples of some latents, in the order in which they are stored."""

    entries: np.ndarray
    """(n,) which of the slab's entries."""
    groups: np.ndarray
    """(n,) uint8: `TOP`, or the decile."""
    counts: np.ndarray
    """(n_latents,) examples of each latent."""


def choose(slab: Slab, length: int, seed: int, n_top: int, n_per_decile: int) -> Chosen:
    """The examples of each latent of a slab of kept entries.

    Args:
        slab: at kept positions.
        length: tokens of a context.
        seed: of what is drawn.
        n_top: most of the largest.
        n_per_decile: of each lower decile.
    """
    order = descending(slab.local, slab.values)
    top = _top_ranks(slab, order, length, n_top)
    latents, deciles, lower = _lower_ranks(slab, seed, n_per_decile)
    ranks = np.concatenate([top, lower])
    groups = np.concatenate([np.full(len(top), TOP), deciles])
    owners = np.concatenate([slab.local[top], latents])  # sorting by value leaves each latent where it was
    sort = np.lexsort((ranks, -groups, owners))
    counts = np.bincount(owners, minlength=slab.n_latents)
    return Chosen(order[ranks[sort]], groups[sort].astype(np.uint8), counts)


def _top_ranks(slab: Slab, order: np.ndarray, length: int, n_top: int) -> np.ndarray:
    """Where in `order` the largest are, at most `MOST_OF_CONTEXT` of a context."""
    n = len(order)
    if not n:
        return np.zeros(0, dtype=np.int64)
    rank = np.empty(n, dtype=np.int64)
    rank[order] = np.arange(n)
    contexts = slab.tokens // np.uint32(length)
    starts = np.flatnonzero(
        np.concatenate([[True], (contexts[1:] != contexts[:-1]) | (slab.local[1:] != slab.local[:-1])])
    )
    allowed = np.zeros(n, dtype=bool)
    for _ in range(MOST_OF_CONTEXT):
        best = np.minimum.reduceat(rank, starts)
        best = best[best < n]
        allowed[best] = True
        rank[order[best]] = n
    so_far = np.concatenate([[0], np.cumsum(allowed)])
    own = so_far[1:] - np.repeat(so_far[slab.offsets[:-1]], np.diff(slab.offsets))
    return np.flatnonzero(allowed & (own <= n_top))


def _lower_ranks(slab: Slab, seed: int, n_per_decile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latent, decile and place in `order` of what is drawn from the deciles 0 to 8."""
    n = np.diff(slab.offsets)[:, None, None]
    decile, part = np.arange(TOP)[None, :, None], np.arange(n_per_decile)[None, None, :]
    first, last = (-(-k * n // 10) for k in (TOP - decile, TOP + 1 - decile))
    low, high = (first + (last - first) * k // n_per_decile for k in (part, part + 1))
    numbers = slab.first + np.arange(slab.n_latents)[:, None, None]
    drawn = low + (uniform_of(seed, numbers, decile * n_per_decile + part) * (high - low)).astype(np.int64)
    latents, deciles, _ = found = np.nonzero(high > low)
    return latents, deciles, slab.offsets[latents] + drawn[found]


class ExampleWriter:
    """Writes the examples of consecutive slabs of latents into the arrays of `dmcore.results.features`.

    Args:
        folder: where to.
        tokens: (n_contexts, length) ids of all texts.
        most_id: the largest of them.
    """

    def __init__(self, folder: Path, tokens: np.ndarray, most_id: int) -> None:
        self._ids, self._length = tokens.reshape(-1), tokens.shape[1]
        self._id_type = np.uint16 if most_id < 2**16 else np.uint32
        types = {
            "example_token": np.uint32,
            "example_group": np.uint8,
            "example_activation": np.float32,
            "example_hits": np.uint8,
            "window_tokens": self._id_type,
            "hit_place": np.uint8,
            "hit_value": np.float16,
        }
        self._out = {name: NpyAppender(folder / f"{name}.npy", kind) for name, kind in types.items()}
        self._first = NpyAppender(folder / "first.npy", np.int64, (3,))
        self._first.append(np.zeros((1, 3)))
        self._totals = np.zeros(3, dtype=np.int64)
        self.ids_seen = np.zeros(most_id + 1, dtype=bool)
        """Whether each id is in a window."""

    def add(self, every: Slab, kept: Slab, chosen: Chosen) -> None:
        """Write the examples of the next latents.

        Args:
            every: their entries at all positions.
            kept: those at kept positions.
            chosen: of these.
        """
        tokens = kept.tokens[chosen.entries].astype(np.int64)
        owners = np.repeat(np.arange(kept.n_latents), chosen.counts)
        position = tokens % self._length
        start, stop = (tokens - position + end for end in window_of(position, self._length))
        ids = np.asarray(self._ids[ragged(start, stop - start)])
        n_tokens = len(self._ids)
        keys = every.local * np.int64(n_tokens) + every.tokens
        low, high = (np.searchsorted(keys, owners * n_tokens + end) for end in (start, stop))
        hits = ragged(low, high - low)
        place = every.tokens[hits] - np.repeat(start, high - low)
        largest = np.ones(kept.n_latents, dtype=np.float32)
        alive = np.flatnonzero(np.diff(kept.offsets))
        if len(alive):
            largest[alive] = np.maximum.reduceat(kept.values, kept.offsets[alive])
        # At a skipped position an activation may be larger than at any kept one; float16 ends at 65,504.
        value = np.minimum(every.values[hits] / np.repeat(largest[owners], high - low), np.finfo(np.float16).max)
        self.ids_seen[ids] = True
        rows = {
            "example_token": tokens,
            "example_group": chosen.groups,
            "example_activation": kept.values[chosen.entries],
            "example_hits": high - low,
            "window_tokens": ids,
            "hit_place": place,
            "hit_value": value,
        }
        for name, array in rows.items():
            self._out[name].append(array)
        sizes = np.stack([np.ones_like(owners), stop - start, high - low])
        per_latent = np.stack([np.bincount(owners, weights=size, minlength=kept.n_latents) for size in sizes], 1)
        ends = self._totals + np.cumsum(per_latent.astype(np.int64), axis=0)
        self._first.append(ends)
        self._totals = ends[-1]

    def close(self) -> None:
        """Finish the files."""
        for appender in (*self._out.values(), self._first):
            appender.close()
