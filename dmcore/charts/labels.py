"""Where text goes: labels beside the ends of lines, moved apart where lines end close together, and ticks of log axes."""

from __future__ import annotations

import math
from collections.abc import Sequence


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Positions moved as little as keeps neighbours at least `gap` apart, in the given order.

    Neighbours that are too close form a block around their common mean; blocks that then touch are joined.
    """
    order = sorted(range(len(positions)), key=lambda k: positions[k])
    blocks: list[list[int]] = []

    def centre(block: list[int]) -> float:
        return sum(positions[k] for k in block) / len(block)

    for k in order:
        blocks.append([k])
        while len(blocks) > 1:
            below, above = blocks[-2], blocks[-1]
            if centre(above) - centre(below) >= gap * (len(below) + len(above)) / 2:
                break
            blocks[-2:] = [below + above]
    moved = [0.0] * len(positions)
    for block in blocks:
        start = centre(block) - gap * (len(block) - 1) / 2
        for rank, k in enumerate(block):
            moved[k] = start + gap * rank
    return moved


def decade_ticks(low: float, high: float) -> list[float]:
    """Ticks of a log axis within its ends: 1, 2, 5 of each decade, or its powers of ten where there are many decades."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    finest = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    ticks: list[float] = []
    for steps in ((1, 2, 5), finest) if len(decades) <= 4 else ((1,), (1, 2, 5), finest):
        ticks = [step * 10.0**k for k in decades for step in steps if low * 0.999 <= step * 10.0**k <= high * 1.001]
        if len(ticks) >= 3:
            break
    return ticks
