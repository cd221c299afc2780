"""The n largest of many values that are read a batch at a time, exactly, in memory that does not grow with their number.

1. A float32 that is not negative has the order of its bits. First reading: how many values have each upper half of bits;
   this says in which half the n-th largest is. Second reading: the same for the lower halves within it.
2. `Cut.take` then marks them, batch by batch: those above the n-th largest, and of its equals the first ones.

Equal to the first n of a stable sort of -values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass
class Cut:
    """Marks the largest values of batches that come in order, once."""

    n: int
    """Values that will be marked."""
    bound: float
    """The smallest of them; infinity where there are none."""
    equals_left: int
    """Of those equal to `bound`, how many are still to be marked."""

    def take(self, values: Array) -> Array:
        """(n,) whether each value of the next batch is among the largest."""
        marked = values > self.bound
        equal = np.flatnonzero(values == self.bound)[: self.equals_left]
        self.equals_left -= len(equal)
        marked[equal] = True
        return marked


def cut_largest(batches: Callable[[], Iterable[Array]], n: Callable[[int], int]) -> Cut:
    """Where the largest values are cut off.

    Args:
        batches: gives the same batches of float32 on every call, which is twice; values below 0 and nan do not count.
        n: how many are wanted of so many that count.
    """
    upper = np.zeros(1 << 16, dtype=np.int64)
    for values in batches():
        upper += np.bincount(_bits(values) >> 16, minlength=1 << 16)
    wanted = min(n(int(upper.sum())), int(upper.sum()))
    if not wanted:
        return Cut(0, np.inf, 0)
    half, above = _from_top(upper, wanted)
    lower = np.zeros(1 << 16, dtype=np.int64)
    for values in batches():
        bits = _bits(values)
        lower += np.bincount(bits[bits >> 16 == half] & 0xFFFF, minlength=1 << 16)
    rest, above_in_half = _from_top(lower, wanted - above)
    bound = np.array([half << 16 | rest], dtype=np.uint32).view(np.float32)[0]
    return Cut(wanted, float(bound), wanted - above - above_in_half)


def _bits(values: Array) -> Array:
    # Adding 0 turns -0 into 0, whose bits are 0.
    return (values[values >= 0].astype(np.float32) + np.float32(0)).view(np.uint32).astype(np.int64)


def _from_top(counts: Array, wanted: int) -> tuple[int, int]:
    """The bin of the `wanted`-th from the top, and how many are in the bins above."""
    cumulative = counts[::-1].cumsum()
    place = int(np.searchsorted(cumulative, wanted))
    return len(counts) - 1 - place, int(cumulative[place] - counts[::-1][place])
