"""A float32 matrix in two halves: bfloat16 for the matrix units, and the int16 that is missing to float32, exactly.

The four bytes of a float32 are kept, and no more: the upper two, rounded to nearest, are the number in bfloat16, which a screen
multiplies as it is; with the lower two, as a signed difference of the bits, they give back the float32, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import BFloat16, Float, Int16
from torch import Tensor

ROWS_AT_ONCE = 4096
"""Rows that are taken apart at once: integers of twice the size wait in between."""


def split_bits(values: Float[Tensor, "*shape"]) -> tuple[BFloat16[Tensor, "*shape"], Int16[Tensor, "*shape"]]:
    """The two halves of some float32, contiguous."""
    bits = values.contiguous().view(torch.int32)
    high = (bits + 0x8000) >> 16
    low = bits - (high << 16)
    return high.to(torch.int16).view(torch.bfloat16), low.to(torch.int16)


def join_bits(high: BFloat16[Tensor, "*shape"], low: Int16[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The float32 of two halves."""
    bits = high.contiguous().view(torch.int16).to(torch.int32) << 16
    return bits.add_(low).view(torch.float32)


@dataclass
class HalvedRows:
    """Rows of a matrix in halves, with room for further columns beside the upper ones."""

    high: BFloat16[Tensor, "n_rows depth"]
    """The upper halves in the first d columns; what is beyond them is the owner's, zeros at first."""
    low: Int16[Tensor, "n_rows d"]

    @classmethod
    def of(cls, rows: Float[Tensor, "n_rows d"], depth: int, device: torch.device) -> HalvedRows:
        """The halves of float32 rows (any layout, any device) on a device, a few thousand rows at a time."""
        n_rows, d = rows.shape
        high = torch.zeros(n_rows, depth, dtype=torch.bfloat16, device=device)
        low = torch.empty(n_rows, d, dtype=torch.int16, device=device)
        for first in range(0, n_rows, ROWS_AT_ONCE):
            some = slice(first, first + ROWS_AT_ONCE)
            high[some, :d], low[some] = split_bits(rows[some].to(device, torch.float32))
        return cls(high, low)

    def block(self, first: int, last: int) -> Float[Tensor, "n d"]:
        """Rows first to last - 1 in float32."""
        return join_bits(self.high[first:last, : self.low.shape[1]], self.low[first:last])

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        return self.high.nbytes + self.low.nbytes
