"""Tokens that are being coded by a pursuit, and the loop that all pursuits share.

1. Tokens are taken in order of their targets, some hundred at a time, so that those of a batch end together; on a processor
   several batches at once, each on a thread of its own (`dmcore.math.token_shares`).
2. A step: the best atom of each token joins its support; a `Refit` sets the values; the residual is made anew.
3. Atoms whose value is 0 leave. Tokens that have ended are written out; the others close ranks.

A support is kept as atoms' indices, their rows and their Gram matrix: after the scan for the best atom a step costs one pass
over the support's rows for the Gram matrix and one for the residual, and nothing has d_sae elements per token.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dmcore.math.atoms import Atoms, codes_of
from dmcore.math.best_atom import Best, PlainScan
from dmcore.math.sparse_codes import SparseCodes
from dmcore.math.token_shares import n_shares, work_shares

TOKENS_PER_BATCH = 512
SUPPORT_BYTES = 2**28
"""Most bytes that the rows of a batch's supports may take; fewer tokens are coded at once where they would take more."""
CLOSE_RANKS = 0.75
"""Share of a batch's tokens, still at work, below which those that have ended are moved out."""
NOTHING_LEFT = 8
"""A residual below this many roundings of `x` is rounding itself: the token ends."""
SPARE_STEPS = 4
"""Steps per atom asked for, after which refilling ends all the same: it could exchange the same atoms for ever."""


@dataclass
class Batch:
    """Some tokens; a free slot of a support is an atom of -1, a value of 0."""

    token: Tensor
    """(n,) which of the caller's tokens."""
    target: Tensor
    """(n,) atoms that it may have."""
    x: Tensor
    """(n, d_model) what is to be coded."""
    norm: Tensor
    """(n,) norm of `x`."""
    residual: Tensor
    """(n, d_model) what is left of it."""
    steps: Tensor
    """(n,) steps taken."""
    ended: Tensor
    """(n,) whether no step is to follow."""
    atoms: Tensor
    """(n, n_slots) the support."""
    values: Tensor
    """(n, n_slots)"""
    rows: Tensor
    """(n, n_slots, d_model) the support's rows; of a free slot, what was there before."""
    gram: Tensor
    """(n, n_slots, n_slots) their inner products."""
    along: Tensor
    """(n, n_slots) their inner products with `x`."""
    factor: Tensor
    """(n, n_slots, n_slots) what a refit keeps from step to step."""
    n_used: int = 0
    """Slots that have ever been used."""

    @staticmethod
    def start(x: Tensor, token: Tensor, target: Tensor) -> Batch:
        """Empty supports."""
        n, slots = x.shape[0], int(target.max())
        return Batch(
            token=token,
            target=target,
            x=x,
            norm=x.norm(dim=1),
            residual=x.clone(),
            steps=torch.zeros_like(target),
            ended=target == 0,
            atoms=torch.full((n, slots), -1, dtype=torch.int64, device=x.device),
            values=x.new_zeros(n, slots),
            rows=x.new_zeros(n, slots, x.shape[1]),
            gram=x.new_zeros(n, slots, slots),
            along=x.new_zeros(n, slots),
            factor=x.new_zeros(0),
        )

    @property
    def support(self) -> Tensor:
        """(n, n_used) the slots in use."""
        return self.atoms[:, : self.n_used]

    def move_out(self, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take tokens away: their (token, atom, value) triplets."""
        tokens, slots = (self.atoms[which] >= 0).nonzero(as_tuple=True)
        triplets = (self.token[which][tokens], self.atoms[which][tokens, slots], self.values[which][tokens, slots])
        stay = (~which).nonzero().squeeze(1)
        for one in fields(self):
            held = getattr(self, one.name)
            if isinstance(held, Tensor) and held.numel():
                setattr(self, one.name, held[stay])
        return triplets

    def join(self, best: Best, who: Tensor, needs_gram: bool) -> Tensor:
        """Put the best atom of some tokens into a free slot of each; its slots."""
        slots = (self.atoms[who] < 0).to(torch.int8).argmax(1)
        if who.numel():
            self.n_used = max(self.n_used, int(slots.max()) + 1)
        rows = best.rows[who]
        self.atoms[who, slots] = best.atoms[who]
        self.values[who, slots] = 0.0
        self.rows[who, slots] = rows
        if not needs_gram:
            return slots
        self.along[who, slots] = (rows * self.x[who]).sum(1)
        # For all tokens, though some may need none: to pick out supports costs more than the product.
        products = torch.bmm(best.rows[:, None], self.rows[:, : self.n_used].transpose(1, 2)).squeeze(1)[who]
        self.gram[who, slots, : self.n_used] = products
        self.gram[who, : self.n_used, slots] = products
        return slots

    def leave(self) -> None:
        """Free the slots whose value is 0."""
        self.atoms.masked_fill_(self.values == 0, -1)

    def make_residual(self) -> None:
        """`x` less the code's reconstruction, from the start, so that rounding does not add up."""
        values = self.values[:, None, : self.n_used]
        self.residual = torch.baddbmm(self.x[:, None], values, self.rows[:, : self.n_used], alpha=-1).squeeze(1)


@runtime_checkable
class Refit(Protocol):
    """What a pursuit does with a support that an atom has joined."""

    again: bool
    """Whether an atom of the support may be chosen again; the step is then taken without a new one."""
    keeps_zeros: bool
    """Whether an atom of value 0 stays in the support."""
    needs_gram: bool
    """Whether it looks at `batch.gram` and `batch.along`."""

    def __call__(self, batch: Batch, best: Best, who: Tensor, slots: Tensor) -> None:
        """Set `batch.values`; `who` are the tokens at work, `slots` where their best atom is."""
        ...


@dataclass(frozen=True)
class Rule:
    """When a token ends."""

    refill: bool
    """Go on until the support has as many atoms as the target, else take as many steps."""
    need_positive: bool = True
    """End where no atom is left whose inner product is above 0."""


def tokens_per_batch(n_slots: int, d_model: int, dtype: torch.dtype, n_at_once: int = 1) -> int:
    """Tokens whose supports fit into `SUPPORT_BYTES`, with so many batches at work at once."""
    a_token = max(1, n_slots) * (d_model + n_slots) * dtype.itemsize * n_at_once
    return max(1, min(TOKENS_PER_BATCH, SUPPORT_BYTES // a_token))


def batches_of(counts: Tensor, atoms: Atoms, dtype: torch.dtype) -> tuple[list[Tensor], int]:
    """Tokens in batches, those that may have most atoms first, and how many batches are to be worked on at once.

    Args:
        counts: atoms that each token may have; those of 0 are in no batch.
        atoms: one batch at once reads those that are not in memory.
        dtype: of the work.
    """
    order = torch.argsort(counts, descending=True, stable=True)[: int((counts > 0).sum())]
    n_at_once = n_shares(len(order), counts.device) if atoms.in_memory else 1
    share, batches = -(-len(order) // n_at_once), list[Tensor]()
    while len(order):
        size = tokens_per_batch(int(counts[order[0]]), atoms.d_model, dtype, n_at_once)
        batches.append(order[: min(size, share)])
        order = order[len(batches[-1]) :]
    return batches, n_at_once


def pursue(x: Tensor, atoms: Atoms, targets: Tensor, scan: PlainScan, refit: Refit, rule: Rule) -> SparseCodes:
    """The codes of all tokens; atoms that were normalised get values in the units of their rows."""

    def work(token: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        return _pursue_batch(Batch.start(x[token], token, targets[token]), copy(scan), refit, rule)

    batches, n_at_once = batches_of(targets, atoms, x.dtype)
    found = [part for parts in work_shares(work, batches, n_at_once) for part in parts]
    if not found:
        empty = targets[:0]
        return codes_of(empty, empty, x.new_zeros(0), x.shape[0], atoms.d_sae)
    tokens, latents, values = (torch.cat(part) for part in zip(*found, strict=True))
    if atoms.normalise:
        values = values / torch.cat([slab.norms for slab in atoms.slabs()])[latents]
    return codes_of(tokens, latents, values, x.shape[0], atoms.d_sae)


def _pursue_batch(batch: Batch, scan: PlainScan, refit: Refit, rule: Rule) -> list[tuple[Tensor, Tensor, Tensor]]:
    found = []
    while True:
        n_ended = int(batch.ended.sum())
        if n_ended == len(batch.token) or n_ended > (1 - CLOSE_RANKS) * len(batch.token):
            found.append(batch.move_out(batch.ended))
        if len(batch.token) == 0:
            return found
        best = scan.best(batch.residual, None if refit.again or not batch.n_used else batch.support)
        _step(batch, best, refit, rule)


def _step(batch: Batch, best: Best, refit: Refit, rule: Rule) -> None:
    nothing_left = best.scores <= 0 if rule.need_positive else torch.isneginf(best.scores)
    left = NOTHING_LEFT * torch.finfo(batch.x.dtype).eps
    nothing_left |= batch.residual.norm(dim=1) <= left * batch.norm
    batch.ended |= nothing_left
    who = (~batch.ended).nonzero().squeeze(1)
    held = batch.atoms == best.atoms[:, None]
    new = ~held.any(1) & ~batch.ended
    slots = held.to(torch.int8).argmax(1)
    slots[new] = batch.join(best, new.nonzero().squeeze(1), refit.needs_gram)
    refit(batch, best, who, slots)
    if not refit.keeps_zeros:
        batch.leave()
    batch.make_residual()
    batch.steps += 1
    if rule.refill:
        batch.ended |= ((batch.atoms >= 0).sum(1) >= batch.target) | (batch.steps >= SPARE_STEPS * batch.target)
    else:
        batch.ended |= batch.steps >= batch.target
