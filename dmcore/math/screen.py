"""A slab of atoms rounded to bfloat16, with what the rounding can have changed; see `dmcore.math.best_atom`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

SCREEN_BLOCK = 2048
"""Atoms whose inner products are made at once in bfloat16."""
GROUP = 8
"""Atoms of which the screen keeps only the best."""
DEPTHS = 32
"""The matrix units take dimensions in multiples of this."""


@dataclass(frozen=True)
class Screen:
    """A slab in bfloat16."""

    blocks: list[Tensor]
    """(SCREEN_BLOCK, depth) each, rows and columns of zeros added; the last one may have fewer rows."""
    strides: Int64[Tensor, " n_blocks"]
    """How far apart the atoms of a group are: atoms j, j + stride, ... of a block are its group j."""
    rounding: Float[Tensor, " n_blocks"]
    """Largest `|d - d'|` of a block, with what float32 accumulation adds."""
    longest: Float[Tensor, " n_blocks"]
    """Largest `|d'|` of a block."""


def screen_of(rows: Float[Tensor, "n_rows d_model"]) -> Screen:
    """A slab's rows, rounded, with their margins."""
    depth = -(-rows.shape[1] // DEPTHS) * DEPTHS
    blocks, rounding, longest = [], [], []
    for part in rows.split(SCREEN_BLOCK):
        n_rows = -(-part.shape[0] // (4 * GROUP)) * (4 * GROUP)
        packed = torch.zeros(n_rows, depth, dtype=torch.bfloat16, device=rows.device)
        packed[: part.shape[0], : rows.shape[1]] = part
        rounded = packed[: part.shape[0], : rows.shape[1]].float()
        lost = (part - rounded).norm(dim=1) + depth * 2.0**-23 * part.norm(dim=1)
        blocks.append(packed)
        rounding.append(lost.max())
        longest.append(rounded.norm(dim=1).max())
    strides = torch.tensor([len(block) // GROUP for block in blocks], device=rows.device)
    return Screen(blocks, strides, torch.stack(rounding), torch.stack(longest))
