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
from dmcore.math.screened import sampled_product, screening_pays
from dmcore.math.sparse_codes import where_true

PLAIN_BLOCK = 1024
"""Atoms whose inner products are made at once in the full dtype."""
SCREEN_BLOCK = 2048
"""Atoms whose inner products are made at once in bfloat16."""
GROUP = 8
"""Atoms of which the screen keeps only the best."""
MOST_GROUPS = 64
"""Groups of a token that may pass the screen before it goes through the plain scan."""
ROUNDED = 2.0**-8
"""Share of an inner product that rounding it to bfloat16 can change, twice over."""
SLACK = 1.01
"""Factor on the margin, for the float32 rounding of the margin itself."""
TINY = 1e-15
"""Norm of a residual below which squares may vanish from it, and with them the margin."""
LEAST = -(2**15)


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

    def __init__(self, atoms: Int64[Tensor, "n_tokens n_slots"]) -> None:
        self.n_tokens = atoms.shape[0]
        tokens, slots = (atoms >= 0).nonzero(as_tuple=True)
        self.keys = (atoms[tokens, slots] * self.n_tokens + tokens).sort().values

    def between(self, first: int, last: int) -> Int64[Tensor, " n_taken"]:
        """Places in a (last - first, n_tokens) array, flat."""
        edges = torch.tensor([first * self.n_tokens, last * self.n_tokens], device=self.keys.device)
        start, stop = torch.searchsorted(self.keys, edges).tolist()
        return self.keys[start:stop] - first * self.n_tokens

    def hold(self, tokens: Tensor, atoms: Tensor) -> Tensor:
        """Whether each pair is one of them."""
        if self.keys.numel() == 0:
            return torch.zeros_like(tokens, dtype=torch.bool)
        asked = atoms * self.n_tokens + tokens
        place = torch.searchsorted(self.keys, asked).clamp_max(self.keys.numel() - 1)
        return self.keys[place] == asked


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
        self, slab: Slab, residual: Tensor, support: Tensor | None, taken: Taken | None, best: Best  # noqa: ARG002
    ) -> None:
        everyone = torch.arange(residual.shape[0], device=residual.device)
        self._scan_plainly(slab, residual, taken, best, everyone)

    def _scan_plainly(
        self, slab: Slab, residual: Tensor, taken: Taken | None, best: Best, tokens: Tensor
    ) -> None:
        step = PLAIN_BLOCK if residual.device.type == "cpu" else slab.rows.shape[0]
        for first in range(0, slab.rows.shape[0], step):
            block = slab.rows[first : first + step]
            products = block @ residual.T
            if not self.signed:
                products.abs_()
            if taken is not None:
                start = slab.first + first
                products.view(-1)[taken.between(start, start + block.shape[0])] = -torch.inf
            scores, within = products.max(0)
            best.offer(tokens, scores, within + first, slab)


@dataclass(frozen=True)
class Screen:
    """A slab in bfloat16."""

    blocks: list[Tensor]
    """(SCREEN_BLOCK, depth) each, rows and columns of zeros added; the last one may have fewer rows."""
    rounding: Float[Tensor, " n_blocks"]
    """Largest `|d - d'|` of a block, with what float32 accumulation adds."""
    longest: Float[Tensor, " n_blocks"]
    """Largest `|d'|` of a block."""


def screen_of(rows: Float[Tensor, "n_rows d_model"]) -> Screen:
    """A slab's rows, rounded, with their margins."""
    depth = -(-rows.shape[1] // 32) * 32
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
    return Screen(blocks, torch.stack(rounding), torch.stack(longest))


class ScreenedScan(PlainScan):
    """The best atoms by a bfloat16 screen; see the module. Equivalent to `PlainScan`, to float32 rounding."""

    def __init__(self, atoms: Atoms, *, signed: bool = True) -> None:
        super().__init__(atoms, signed=signed)
        self._screens: dict[int, Screen] = {}
        self.n_plain = 0
        """Tokens, over all slabs and calls, that had to go through the plain scan."""

    def _screen(self, slab: Slab) -> Screen:
        if not self.atoms.in_memory:
            return screen_of(slab.rows)
        if slab.first not in self._screens:
            self._screens[slab.first] = screen_of(slab.rows)
        return self._screens[slab.first]

    def _scan(
        self, slab: Slab, residual: Tensor, support: Tensor | None, taken: Taken | None, best: Best
    ) -> None:
        n_tokens = residual.shape[0]
        screen = self._screen(slab)
        groups, tops, margins = self._screened(screen, slab, residual, taken)
        least = torch.maximum((tops * (1 - ROUNDED) - margins).amax(0), best.scores)
        reach = ((least - margins) / (1 + ROUNDED)).to(torch.bfloat16).view(torch.int16) - 1
        reach = torch.where(least - margins > 0, reach, LEAST)
        unclear = (least <= 0) | (residual.norm(dim=1) < TINY)
        reach[:, unclear] = 2**15 - 1  # nothing passes: these go through the plain scan
        found = []
        for number, (group, edge) in enumerate(zip(groups, reach, strict=True)):
            flat = where_true((group >= edge).view(-1))
            row = torch.div(flat, n_tokens, rounding_mode="floor")
            found.append((flat - row * n_tokens, row, torch.full_like(row, number)))
        tokens, row, number = (torch.cat(part) for part in zip(*found, strict=True))
        unclear |= torch.bincount(tokens, minlength=n_tokens) > MOST_GROUPS
        clear = ~unclear[tokens]
        heights = torch.tensor([len(group) for group in groups], device=row.device)
        tokens, row, number = tokens[clear], row[clear], number[clear]
        members = torch.arange(GROUP, device=row.device) * heights[number][:, None]
        within = (members + (row + number * SCREEN_BLOCK)[:, None]).view(-1)
        self._decide(slab, residual, taken, best, tokens.repeat_interleave(GROUP), within)
        left = unclear.nonzero().squeeze(1)
        if left.numel():
            self.n_plain += left.numel()
            own = None if support is None else Taken(support[left])
            self._scan_plainly(slab, residual[left], own, best, left)

    def _screened(
        self, screen: Screen, slab: Slab, residual: Tensor, taken: Taken | None
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Maxima of groups (bfloat16 as int16, which orders those above 0), those of blocks, and margins."""
        n_tokens, d_model = residual.shape
        rounded = torch.zeros(screen.blocks[0].shape[1], n_tokens, dtype=torch.bfloat16, device=residual.device)
        rounded[:d_model] = residual.T
        lost = (residual - rounded[:d_model].T.float()).norm(dim=1)
        margins = SLACK * (residual.norm(dim=1) * screen.rounding[:, None] + lost * screen.longest[:, None])
        groups, tops = [], []
        for number, block in enumerate(screen.blocks):
            products = (block @ rounded).view(torch.int16)
            if not self.signed:
                products &= 2**15 - 1
            if taken is not None:
                first = slab.first + number * SCREEN_BLOCK
                last = min(first + block.shape[0], slab.first + slab.rows.shape[0])
                products.view(-1)[taken.between(first, last)] = LEAST
            groups.append(products.view(GROUP, -1, n_tokens).amax(0))
            tops.append(groups[-1].amax(0))
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
