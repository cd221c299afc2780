"""`a.T @ b` of float32, as exact as float64, from products in float32: for GPUs whose float64 is slow.

1. Every column is scaled by a power of two to below 1 and cut into `SLICES` slices of `BITS` bits: `a = s (a1 2^-7 + a2 2^-14
   + ...)` with whole numbers of at most 2^7 in magnitude.
2. A product of slices of at most `ROWS` rows is a sum of whole numbers below 2^24, of which float32 holds every one: exact,
   in whatever order a GPU adds, and by tf32 or bfloat16 too.
3. The products are scaled back and added in float64. Those of two low slices are left out.

Ten products instead of one, at the rate of float32: consumer GPUs have 1/64 of it in float64. The error of an element is at
most `n 2^-27 max|a_i| max|b_j|`, over n rows and the largest magnitudes of the two columns: as good as it can be with inputs in
float32, which are off by 2^-24 each themselves. (The scheme of Ozaki et al., Numerical Algorithms 59, 2012.)
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int32
from torch import Tensor

BITS, SLICES = 7, 4
ROWS = 1024
"""2^10 rows of products of 2^14 stay within the 2^24 up to which float32 has every whole number."""


def slices_of(a: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n_slices n d"], Float64[Tensor, " d"]]:
    """Whole numbers of at most 2^BITS in magnitude, and the power of two by which each column was divided."""
    _, exponent = torch.frexp(a.abs().amax(0))
    # A power of two below float32's least, or its inverse above the largest, would make infinities of tiny columns.
    scale = power_of_two(exponent.clamp(-100, 100))
    left = a / scale
    found = torch.empty(SLICES, *a.shape, dtype=torch.float32, device=a.device)
    for number in range(SLICES):
        left = left * 2.0**BITS
        found[number] = left.round()
        left = left - found[number]
    return found, scale.double()


def power_of_two(exponent: Int32[Tensor, " d"]) -> Float[Tensor, " d"]:
    """2 to whole exponents from -126 to 127, exactly, from the bits: `torch.ldexp` raises 2 to a power in float32, which some
    devices round."""
    return ((exponent + 127) << 23).view(torch.float32)


def add_product(total: Float64[Tensor, "d m"], a: Float[Tensor, "n d"], b: Float[Tensor, "n m"] | None = None) -> None:
    """Add `a.T @ b` to a sum in float64; `a.T @ a` if there is no `b`.

    Args:
        total: the sum.
        a, b: at most `ROWS` rows in float32, finite.
    """
    if a.shape[0] > ROWS:
        raise ValueError(f"{a.shape[0]} rows at once are more than the {ROWS} whose products are exact")
    ours, scale = slices_of(a)
    theirs, other = (ours, scale) if b is None else slices_of(b)
    made = torch.zeros_like(total)
    for level in range(SLICES, 0, -1):  # small ones first
        for i in range(level):
            made += torch.mm(ours[i].T, theirs[level - 1 - i]).double() * 2.0 ** (-BITS * (level + 1))
    total += made * scale[:, None] * other
