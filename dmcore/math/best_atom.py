"""For each token the atom with the largest inner product with its residual: exact, without a tokens x latents array.

`PlainScan` multiplies block by block and keeps a running maximum. `ScreenedScan` gives the same answer several times faster
where the processor, or GPU, has matrix units for bfloat16:

1. *Screen*: multiply in bfloat16, block by block, and keep the maximum of every group of `GROUP` atoms. With `r'`, `d'`
   the rounded ones, `|r d - r' d'| <= |r| |d - d'| + |r - r'| |d'|` (Cauchy-Schwarz), about 3/1000 of `|r| |d|`; to this
   comes what rounding the product itself does.
2. *Bound*: the best atom is at least as good as the best group less its margin. A group that cannot reach that even with
   its margin cannot hold the best atom; one or two of a token's thousands of groups can.
3. *Decide*: the atoms of those groups get their inner products in the full dtype, and the largest wins.

A token whose bound says nothing (no inner product clearly above 0, or too many groups left) goes through `PlainScan`. A
bound on how far the inner products can have moved since the last scan, `|d| |r_now - r_then|`, would spare scans only if
steps were small against the spread of the inner products: in hundreds of dimensions one step already exceeds it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dmcore.math.arithmetic import float32_products
from dmcore.math.atoms import Atoms, Slab
from dmcore.math.halved_encoders import halves_pay
from dmcore.math.screen import DEPTHS, GROUP, SCREEN_BLOCK
from dmcore.math.screened import sampled_product, screening_pays
from dmcore.math.sparse_codes import where_true

PLAIN_BLOCK = 1024
"""Atoms whose inner products are made at once in the full dtype."""
MOST_GROUPS = 64
"""Groups of a token that may pass the screen before it goes through the plain scan."""
ROUNDED = 2.0**-8
"""Share of an inner product that rounding it to bfloat16 can change, twice over."""
SLACK = 1.01
"""Factor on the margin, for the float32 rounding of the margin itself."""
TINY = 1e-15
"""Norm of a residual below which squares may vanish from it, and with them the margin."""
COLUMNS = 32
"""The matrix units slow down where the number of tokens is no multiple of this."""
LEAST, NOTHING = -(2**15), 2**15 - 1
"""As edges: every group passes, none does."""


@dataclass
class Best:
    """The best atom of each token so far."""

    scores: Float[Tensor, " n_tokens"]
    """Its inner product with the residual (its magnitude, where signs do not count); -inf if none was allowed."""
    atoms: Int64[Tensor, " n_tokens"]
    rows: Float[Tensor, "n_tokens d_model"]

    @staticmethod
    def none(residual: Tensor) -> Best:
        """Before any atom has been seen."""
        n_tokens = residual.shape[0]
        scores = residual.new_full((n_tokens,), -torch.inf)
        atoms = torch.full((n_tokens,), -1, dtype=torch.int64, device=residual.device)
        return Best(scores, atoms, torch.zeros_like(residual))

    def offer(self, tokens: Tensor, scores: Tensor, within: Tensor, slab: Slab) -> None:
        """Let a slab's best atoms of some tokens compete with those so far; an earlier one wins a tie."""
        better = (scores > self.scores[tokens]).nonzero().squeeze(1)
        tokens, within = tokens[better], within[better]
        self.scores[tokens] = scores[better]
        self.atoms[tokens] = within + slab.first
        self.rows[tokens] = slab.rows[within]


class Taken:
    """Atoms that each token has and may not choose again.

    Args:
        support: atoms, of which -1 marks free slots.
        stride: columns of the arrays of atoms by tokens in which they are to be found; at least one a token.
    """

    def __init__(self, support: Int64[Tensor, "n_tokens n_slots"], stride: int) -> None:
        self._stride = stride
        tokens = torch.arange(support.shape[0], device=support.device)[:, None]
        self._keys = torch.where(support >= 0, support * stride + tokens, -1).view(-1).sort().values

    def places(self, slab: Slab, step: int) -> list[Int64[Tensor, " n_taken"]]:
        """Where they are in (step, stride) arrays, flat, of consecutive blocks of a slab's atoms by tokens."""
        last = slab.first + slab.rows.shape[0]
        firsts = [*range(slab.first, last, step), last]
        edges = torch.searchsorted(self._keys, torch.tensor(firsts, device=self._keys.device) * self._stride).tolist()
        return [self._keys[a:b] - first * self._stride for a, b, first in zip(edges, edges[1:], firsts, strict=False)]

    def hold(self, tokens: Tensor, atoms: Tensor) -> Tensor:
        """Whether each pair is one of them."""
        asked = atoms * self._stride + tokens
        place = torch.searchsorted(self._keys, asked).clamp_max_(self._keys.numel() - 1)
        return self._keys[place] == asked


class PlainScan:
    """The best atoms by products in the full dtype.

    Args:
        atoms: the dictionary.
        signed: whether an atom of large negative inner product is a bad one; else magnitudes count.
    """

    def __init__(self, atoms: Atoms, *, signed: bool = True) -> None:
        self.atoms, self.signed = atoms, signed

    def best(
        self,
        residual: Float[Tensor, "n_tokens d_model"],
        support: Int64[Tensor, "n_tokens n_slots"] | None = None,
    ) -> Best:
        """The best atom of each token that is not in its `support` (of which -1 marks free slots)."""
        best = Best.none(residual)
        support = None if support is None or support.numel() == 0 else support
        self._scan_all(residual, support, best)
        return best

    def _scan_all(self, residual: Tensor, support: Tensor | None, best: Best) -> None:
        everyone = torch.arange(residual.shape[0], device=residual.device)
        for slab in self.atoms.slabs():
            self._scan_plainly(slab, residual, support, best, everyone)

    def _scan_plainly(self, slab: Slab, residual: Tensor, support: Tensor | None, best: Best, tokens: Tensor) -> None:
        step = PLAIN_BLOCK if residual.device.type == "cpu" else slab.rows.shape[0]
        places = None if support is None else Taken(support, residual.shape[0]).places(slab, step)
        for number, block in enumerate(slab.rows.split(step)):
            products = block @ residual.T
            if not self.signed:
                products.abs_()
            if places is not None:
                products.view(-1).index_fill_(0, places[number], -torch.inf)
            scores, within = products.max(0)
            best.offer(tokens, scores, within + number * step, slab)


class ScreenedScan(PlainScan):
    """The best atoms by a bfloat16 screen; see the module. Equivalent to `PlainScan`, to float32 rounding."""

    def __init__(self, atoms: Atoms, *, signed: bool = True) -> None:
        super().__init__(atoms, signed=signed)
        self._products = torch.empty(0)
        self.n_plain = 0
        """Tokens, over all slabs and calls, that had to go through the plain scan."""

    def _scan_all(self, residual: Tensor, support: Tensor | None, best: Best) -> None:
        n_tokens, d_model = residual.shape
        n_wide = -(-n_tokens // COLUMNS) * COLUMNS
        rounded = residual.to(torch.bfloat16)
        norms = torch.stack([residual.norm(dim=1), (residual - rounded.float()).norm(dim=1)])
        padded = rounded.new_zeros(-(-d_model // DEPTHS) * DEPTHS, n_wide)
        padded[:d_model, :n_tokens] = rounded.T
        taken = None if support is None else Taken(support, n_wide)
        with float32_products(residual.device):
            for slab in self.atoms.slabs():
                self._scan(slab, residual, padded, norms, support, taken, best)

    def _scan(
        self,
        slab: Slab,
        residual: Tensor,
        padded: Tensor,
        norms: Tensor,
        support: Tensor | None,
        taken: Taken | None,
        best: Best,
    ) -> None:
        n_tokens = residual.shape[0]
        groups = self._maxima(slab, padded, taken)
        # A negative maximum may belong to any atom of its group: it says only that none is clearly above 0.
        tops = groups.amax(1)[:, :n_tokens].clamp_min(0).view(torch.bfloat16).to(residual.dtype)
        margins = SLACK * (norms[0] * slab.screen.rounding[:, None] + norms[1] * slab.screen.longest[:, None])
        least = torch.maximum((tops * (1 - ROUNDED) - margins).amax(0), best.scores)
        unclear = (least <= 0) | (norms[0] < TINY)
        reach = (least - margins) / (1 + ROUNDED)
        edges = groups.new_full((len(groups), 1, groups.shape[2]), NOTHING)
        below = reach.to(torch.bfloat16).view(torch.int16) - 1
        edges[:, 0, :n_tokens] = torch.where(reach > 0, below, LEAST).masked_fill_(unclear, NOTHING)
        flat = where_true((groups >= edges).view(-1))
        row = torch.div(flat, groups.shape[2], rounding_mode="floor")
        tokens = flat - row * groups.shape[2]
        unclear |= torch.bincount(tokens, minlength=n_tokens) > MOST_GROUPS
        left = unclear.nonzero().squeeze(1)
        if left.numel():
            clear = ~unclear[tokens]
            tokens, row = tokens[clear], row[clear]
        block = torch.div(row, groups.shape[1], rounding_mode="floor")
        lowest = block * SCREEN_BLOCK + (row - block * groups.shape[1])
        within = lowest[:, None] + slab.screen.strides[block][:, None] * torch.arange(GROUP, device=row.device)
        self._decide(slab, residual, taken, best, tokens.repeat_interleave(GROUP), within.view(-1))
        if left.numel():
            self.n_plain += left.numel()
            self._scan_plainly(slab, residual[left], None if support is None else support[left], best, left)

    def _maxima(self, slab: Slab, padded: Tensor, taken: Taken | None) -> Tensor:
        """(n_blocks, n_groups, n_wide) bfloat16 as int16 (which orders those above 0): the maximum of each group."""
        blocks, n_wide = slab.screen.blocks, padded.shape[1]
        if self._products.numel() < SCREEN_BLOCK * n_wide or self._products.device != padded.device:
            self._products = padded.new_empty(SCREEN_BLOCK * n_wide)
        places = None if taken is None else taken.places(slab, SCREEN_BLOCK)
        height = len(blocks[0]) // GROUP
        groups = torch.empty(len(blocks), height, n_wide, dtype=torch.int16, device=padded.device)
        groups[-1].fill_(LEAST)
        for number, block in enumerate(blocks):
            products = self._products[: block.shape[0] * n_wide].view(-1, n_wide)
            torch.mm(block, padded, out=products)
            bits = products.view(torch.int16)
            if not self.signed:
                bits &= 2**15 - 1
            if places is not None:
                bits.view(-1).index_fill_(0, places[number], LEAST)
            torch.amax(bits.view(GROUP, -1, n_wide), 0, out=groups[number, : len(block) // GROUP])
        return groups

    def _decide(
        self, slab: Slab, residual: Tensor, taken: Taken | None, best: Best, tokens: Tensor, within: Tensor
    ) -> None:
        allowed = within < slab.rows.shape[0]
        if taken is not None:
            allowed &= ~taken.hold(tokens, within + slab.first)
        pairs = (tokens[allowed] * slab.rows.shape[0] + within[allowed]).sort().values
        tokens = torch.div(pairs, slab.rows.shape[0], rounding_mode="floor")
        within = pairs - tokens * slab.rows.shape[0]
        offsets = torch.zeros(residual.shape[0] + 1, dtype=torch.int32, device=pairs.device)
        torch.cumsum(torch.bincount(tokens, minlength=residual.shape[0]), 0, out=offsets[1:])
        scores = sampled_product(residual, slab.rows, offsets, within.to(torch.int32))
        if not self.signed:
            scores = scores.abs()
        n_tokens = residual.shape[0]
        top = scores.new_full((n_tokens,), -torch.inf).scatter_reduce(0, tokens, scores, "amax")
        where = torch.arange(scores.numel(), device=scores.device)
        where = torch.where(scores == top[tokens], where, scores.numel())
        place = torch.full((n_tokens,), scores.numel(), device=where.device).scatter_reduce(0, tokens, where, "amin")
        some = (place < scores.numel()).nonzero().squeeze(1)
        best.offer(some, top[some], within[place[some]], slab)


def best_atom_scan(atoms: Atoms, like: Tensor, *, signed: bool = True) -> PlainScan:
    """The faster of the two on this device, for this dtype."""
    pays = like.dtype == torch.float32 and atoms.d_sae >= SCREEN_BLOCK
    pays = pays and (screening_pays(like.device) or halves_pay(like.device))
    return (ScreenedScan if pays else PlainScan)(atoms, signed=signed)
