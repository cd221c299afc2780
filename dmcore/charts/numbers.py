"""Numbers as text, rounded to what their interval supports.

The half width of the interval decides the digits: its first digit is kept, and a second one where the first is 1, so that
0.12134 with an interval from 0.1181 to 0.1243 reads `0.121 (0.118 to 0.124)`.
"""

from __future__ import annotations

import math

MISSING = "not computed"
"""What is shown for a number that is null or nan."""

_MOST_DECIMALS = 4


def _known(*values: float | None) -> bool:
    return all(value is not None and math.isfinite(value) for value in values)


def decimals_for(low: float, high: float) -> int:
    """Decimals that an interval supports, from 0 to 4."""
    half = (high - low) / 2
    if half <= 0:
        return _MOST_DECIMALS
    exponent = math.floor(math.log10(half) + 1e-9)
    leading = half / 10**exponent
    decimals = -exponent + (1 if leading < 1.95 else 0)
    return min(max(decimals, 0), _MOST_DECIMALS)


def fixed(value: float, decimals: int) -> str:
    """A number with so many decimals; never `-0.00`."""
    text = f"{value:,.{decimals}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def number(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """`0.121 (0.118 to 0.124)`; the value alone, to three figures, where there is no interval."""
    if value is None or not _known(value):
        return MISSING
    if low is None or high is None or not _known(low, high):
        return _three_figures(value)
    decimals = decimals_for(low, high)
    return f"{fixed(value, decimals)} ({fixed(low, decimals)} to {fixed(high, decimals)})"


def point(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """The value as `number` rounds it, without its interval."""
    return number(value, low, high).split(" (")[0]


def span(low: float | None, high: float | None) -> str:
    """The interval alone: `0.118 to 0.124`; empty where there is none."""
    if low is None or high is None or not _known(low, high):
        return ""
    decimals = decimals_for(low, high)
    return f"{fixed(low, decimals)} to {fixed(high, decimals)}"


def percent(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A share as `35 % (33 to 37)`."""
    if value is None or not _known(value):
        return MISSING
    if low is None or high is None or not _known(low, high):
        return f"{_three_figures(100 * value)} %"
    decimals = min(decimals_for(100 * low, 100 * high), 2)
    ends = f"{fixed(100 * low, decimals)} to {fixed(100 * high, decimals)}"
    return f"{fixed(100 * value, decimals)} % ({ends})"


def times(factor: float) -> str:
    """A ratio of two sizes in words: `16 times`, `1.5 times`."""
    return f"{factor:,.0f} times" if factor >= 10 or abs(factor - round(factor)) < 0.05 else f"{factor:.1f} times"


def compact(value: float) -> str:
    """A large count for an axis or a label: 4,096, 1.05M."""
    return f"{value / 1e6:.3g}M" if value >= 1e6 else f"{value:,.0f}"


def _three_figures(value: float) -> str:
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return fixed(value, min(decimals, 6))
