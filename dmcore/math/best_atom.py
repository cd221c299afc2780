"""For each token the atom with the largest inner product with its residual: exact, without a tokens x latents array.

`PlainScan` multiplies block by block and keeps a running maximum. `ScreenedScan` gives the same answer several times faster
where the processor has matrix units for bfloat16:

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

from dmcore.math.atoms import Atoms, Slab
from dmcore.math.screen import GROUP, SCREEN_BLOCK, Screen
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
    """Atoms that each token has and may not choose again, ordered by atom."""

    def __init__(self, support: Int64[Tensor, "n_tokens n_slots"]) -> None:
        self.n_tokens = support.shape[0]
        tokens, slots = (support >= 0).nonzero(as_tuple=True)
        self._keys = (support[tokens, slots] * self.n_tokens + tokens).sort().values
        self._atoms = torch.div(self._keys, self.n_tokens, rounding_mode="floor")
        self._tokens = self._keys - self._atoms * self.n_tokens

    def places(self, slab: Slab, heights: list[int], n_wide: int) -> list[Int64[Tensor, " n_taken"]]:
        """Where they are in (height, n_wide) arrays, flat, of consecutive blocks of a slab's atoms by tokens."""
        firsts = [slab.first]
        for height in heights:
            firsts.append(min(firsts[-1] + height, slab.first + slab.rows.shape[0]))
        edges = torch.searchsorted(self._atoms, torch.tensor(firsts, device=self._atoms.device)).tolist()
        flat = self._atoms * n_wide + self._tokens
        return [flat[a:b] - first * n_wide for a, b, first in zip(edges, edges[1:], firsts, strict=False)]

    def hold(self, tokens: Tensor, atoms: Tensor) -> Tensor:
        """Whether each pair is one of them."""
        if self._keys.numel() == 0:
            return torch.zeros_like(tokens, dtype=torch.bool)
        asked = atoms * self.n_tokens + tokens
        place = torch.searchsorted(self._keys, asked).clamp_max(self._keys.numel() - 1)
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
        taken = None if support is None else Taken(support)
        for slab in self.atoms.slabs():
            self._scan(slab, residual, support, taken, best)
        return best

    def _scan(
        self,
        slab: Slab,
        residual: Tensor,
        support: Tensor | None,  # noqa: ARG002
        taken: Taken | None,
        best: Best,
    ) -> None:
        everyone = torch.arange(residual.shape[0], device=residual.device)
        self._scan_plainly(slab, residual, taken, best, everyone)

    def _scan_plainly(self, slab: Slab, residual: Tensor, taken: Taken | None, best: Best, tokens: Tensor) -> None:
        step = PLAIN_BLOCK if residual.device.type == "cpu" else slab.rows.shape[0]
        blocks = slab.rows.split(step)
        places = None if taken is None else taken.places(slab, [len(block) for block in blocks], residual.shape[0])
        for number, block in enumerate(blocks):
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

    def _scan(self, slab: Slab, residual: Tensor, support: Tensor | None, taken: Taken | None, best: Best) -> None:
        n_tokens = residual.shape[0]
        screen = slab.screen
        groups, tops, margins = self._screened(screen, slab, residual, taken)
        least = torch.maximum((tops * (1 - ROUNDED) - margins).amax(0), best.scores)
        unclear = (least <= 0) | (residual.norm(dim=1) < TINY)
        reach = ((least - margins) / (1 + ROUNDED)).to(torch.bfloat16).view(torch.int16) - 1
        edges = groups[0].new_full((len(groups), groups[0].shape[1]), NOTHING)
        edges[:, :n_tokens] = torch.where(least - margins > 0, reach, LEAST).masked_fill_(unclear, NOTHING)
        tokens, within = self._passed(groups, edges)
        unclear |= torch.bincount(tokens, minlength=n_tokens) > MOST_GROUPS * GROUP
        clear = ~unclear[tokens]
        self._decide(slab, residual, taken, best, tokens[clear], within[clear])
        left = unclear.nonzero().squeeze(1)
        if left.numel():
            self.n_plain += left.numel()
            own = None if support is None else Taken(support[left])
            self._scan_plainly(slab, residual[left], own, best, left)

    def _passed(self, groups: list[Tensor], edges: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and atoms (counted within the slab, some beyond its end) of the groups that reach their edges."""
        tokens, atoms, n_wide = [], [], edges.shape[1]
        for number, (group, edge) in enumerate(zip(groups, edges, strict=True)):
            flat = where_true((group >= edge).view(-1))
            row = torch.div(flat, n_wide, rounding_mode="floor")
            tokens.append(flat - row * n_wide)
            members = torch.arange(GROUP, device=row.device) * group.shape[0] + number * SCREEN_BLOCK
            atoms.append((row[:, None] + members).view(-1))
        return torch.cat(tokens).repeat_interleave(GROUP), torch.cat(atoms)

    def _screened(
        self, screen: Screen, slab: Slab, residual: Tensor, taken: Taken | None
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Maxima of groups (bfloat16 as int16, which orders those above 0), those of blocks, and margins.

        The groups' have columns of zeros added, to a multiple of `COLUMNS`.
        """
        n_tokens, d_model = residual.shape
        rounded = residual.to(torch.bfloat16)
        lost = (residual - rounded.float()).norm(dim=1)
        margins = SLACK * (residual.norm(dim=1) * screen.rounding[:, None] + lost * screen.longest[:, None])
        n_wide = -(-n_tokens // COLUMNS) * COLUMNS
        padded = rounded.new_zeros(screen.blocks[0].shape[1], n_wide)
        padded[:d_model, :n_tokens] = rounded.T
        places = None if taken is None else taken.places(slab, [len(b) for b in screen.blocks], n_wide)
        if self._products.numel() < SCREEN_BLOCK * n_wide or self._products.device != residual.device:
            self._products = rounded.new_empty(SCREEN_BLOCK * n_wide)
        groups, tops = [], []
        for number, block in enumerate(screen.blocks):
            products = self._products[: block.shape[0] * n_wide].view(-1, n_wide)
            torch.mm(block, padded, out=products)
            bits = products.view(torch.int16)
            if not self.signed:
                bits &= 2**15 - 1
            if places is not None:
                bits.view(-1).index_fill_(0, places[number], LEAST)
            groups.append(bits.view(GROUP, -1, n_wide).amax(0))
            tops.append(groups[-1].amax(0)[:n_tokens])
        # A negative maximum may belong to any atom of its group: it says only that none is clearly above 0.
        return groups, torch.stack(tops).clamp_min(0).view(torch.bfloat16).to(residual.dtype), margins

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
    pays = like.dtype == torch.float32 and atoms.d_sae >= SCREEN_BLOCK and screening_pays(like.device)
    return (ScreenedScan if pays else PlainScan)(atoms, signed=signed)
