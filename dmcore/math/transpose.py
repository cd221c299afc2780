"""From token-major to latent-major: ranges of latents that fit in memory, and the sorts inside of one.

1. `ranges_of`: consecutive latents, together until they have so many active tokens, or are so many.
2. `by_group`: where each group begins once entries are sorted by it, stably, in linear time.
3. `descending`: entries of each group from the largest value to the smallest; of equal values the first one first.
4. `ragged`: the indices of many ranges, side by side.
"""

from __future__ import annotations

import numpy as np

MOST_GROUPS = 65_535
"""Groups that `by_group` can tell apart."""


def ranges_of(counts: np.ndarray, most_entries: int, most_groups: int) -> np.ndarray:
    """(n_ranges + 1,) ascending bounds of ranges of groups: range `i` has groups `bounds[i]` to `bounds[i + 1] - 1`.

    Args:
        counts: (n_groups,) entries of each group.
        most_entries: in one range; a group that has more has a range of its own.
        most_groups: in one range.
    """
    ends = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    bounds = [0]
    while bounds[-1] < len(counts):
        first = bounds[-1]
        fits = int(np.searchsorted(ends, ends[first] + most_entries, side="right")) - 1
        bounds.append(min(max(fits, first + 1), first + most_groups, len(counts)))
    return np.array(bounds)


def by_group(groups: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """The order that sorts entries by their group, those of one group as they come, and where each group then begins.

    Args:
        groups: (n,) uint16; numpy sorts these by radix.
        n_groups: at most `MOST_GROUPS`.

    Returns:
        (n,) indices and (n_groups + 1,) offsets.
    """
    offsets = np.zeros(n_groups + 1, dtype=np.int64)
    np.cumsum(np.bincount(groups, minlength=n_groups), out=offsets[1:])
    return np.argsort(groups, kind="stable"), offsets


def descending(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(n,) the order by group, then by value from the largest down, then as they come.

    Equal to `np.lexsort((np.arange(n), -values, groups))`, with one key.

    Args:
        groups: (n,) uint16.
        values: (n,) float32 above 0, whose bits are in the order of their values.
    """
    bits = np.uint64(0xFFFFFFFF) - np.ascontiguousarray(values).view(np.uint32)
    return np.argsort((groups.astype(np.uint64) << np.uint64(32)) | bits, kind="stable")


def ragged(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`starts[0], ..., starts[0] + lengths[0] - 1, starts[1], ...`, as int64."""
    lengths = lengths.astype(np.int64)
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts.astype(np.int64) - before, lengths) + np.arange(int(lengths.sum()))


def uniform_of(seed: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1) that depend on the seed and two whole numbers alone: splitmix64, the same on every machine.

    Args:
        seed: any.
        first, second: whole numbers that broadcast together; `second` below 2^20.
    """
    with np.errstate(over="ignore"):
        state = (first.astype(np.uint64) << np.uint64(20)) + second.astype(np.uint64)
        state = _mixed(state + _mixed(np.full(1, seed & (2**64 - 1), dtype=np.uint64)))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(state: np.ndarray) -> np.ndarray:
    """One step of splitmix64 (Steele, Lea and Flood 2014)."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
