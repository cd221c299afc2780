"""Bytes, operations, counts and times in words."""

from __future__ import annotations

from collections.abc import Sequence


def bytes_text(n: float) -> str:
    """`512 B`, `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} B" if unit == "B" else f"{n:.3g} {unit}" if n < 1000 else f"{n:,.0f} {unit}"
        n /= 1024
    return f"{n:.3g} TiB" if n < 1000 else f"{n:,.0f} TiB"


def flops_text(n: float) -> str:
    """`4.2e+15 operations` as `4.2 x 10^15 floating-point operations`."""
    if n < 1e3:
        return f"{n:.0f} floating-point operations"
    digits, power = f"{n:.2e}".split("e")
    return f"{digits} x 10^{int(power)} floating-point operations"


def count_text(n: float) -> str:
    """`9.24 billion`, `1.05 million`, `12,345`."""
    if n >= 1e9:
        return f"{n / 1e9:.3g} billion"
    return f"{n / 1e6:.3g} million" if n >= 1e6 else f"{n:,.0f}"


def seconds_text(n: float) -> str:
    """`45 s`, `12 min`, `3.5 h`, `2.1 days`."""
    if n < 90:
        return f"{n:.0f} s" if n >= 1 else "under 1 s"
    if n < 90 * 60:
        return f"{n / 60:.0f} min"
    return f"{n / 3600:.1f} h" if n < 48 * 3600 else f"{n / 86400:.1f} days"


def span_text(values: Sequence[int]) -> str:
    """`16,384 to 1,048,576`, or the only value."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
