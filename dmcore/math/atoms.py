"""The rows of a decoder as atoms to choose from, slab by slab, so that a dictionary need not fit in memory.

Atoms are taken as they are. The inner product by which a pursuit chooses grows with an atom's norm, so that of two atoms in
one direction the longer wins; `normalise` takes that away, and gives values in the units of the rows all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dmcore.errors import DataError
from dmcore.math.screen import Screen, screen_of
from dmcore.math.sparse_codes import SparseCodes

ROWS_PER_SLAB = 16_384
"""Atoms that are asked for at once."""


@runtime_checkable
class DecoderRows(Protocol):
    """A decoder that is read in ranges of latents; an SAE of `dmcore.sources` is one."""

    d_sae: int

    def decoder_rows(self, first: int, last: int) -> Tensor | None:
        """(last - first, d_model) what a unit of each latent adds to the reconstruction; None where there is no such row."""
        ...


@dataclass
class Slab:
    """A range of atoms."""

    first: int
    """Index of the first."""
    rows: Float[Tensor, "n_rows d_model"]
    norms: Float[Tensor, " n_rows"]
    """Norm of each row before it was normalised, if it was."""

    @cached_property
    def screen(self) -> Screen:
        """The rows in bfloat16, half as much memory again; made when it is first asked for."""
        return screen_of(self.rows)


class Atoms:
    """A dictionary's atoms, checked, of one dtype and device; made once for many calls.

    Args:
        decoder: (d_sae, d_model) rows, or an object that gives them in ranges.
        like: the activations: dtype and device of the work, and d_model.
        normalise: scale every atom to norm 1; rows of zeros stay.
        rows_per_slab: atoms that are worked on at once.

    Raises:
        DataError: shapes do not agree, a row is NaN or infinite, or the decoder has no rows.
    """

    def __init__(
        self,
        decoder: Tensor | DecoderRows,
        like: Float[Tensor, "n_tokens d_model"],
        *,
        normalise: bool = False,
        rows_per_slab: int = ROWS_PER_SLAB,
    ) -> None:
        if rows_per_slab < 1:
            raise DataError(f"A slab of {rows_per_slab} atoms cannot be scanned: ask for 1 or more.")
        self._decoder, self._like, self._step = decoder, like[:0], rows_per_slab
        self.normalise = normalise
        self.in_memory = isinstance(decoder, Tensor)
        self.d_model = like.shape[1]
        self.d_sae = int(decoder.shape[0]) if isinstance(decoder, Tensor) else decoder.d_sae
        self._held: list[Slab] = []
        if self.in_memory:
            self._held = [self._read(first) for first in range(0, self.d_sae, self._step)]

    def suit(self, x: Float[Tensor, "n_tokens d_model"]) -> bool:
        """Whether they are of the dtype, device and width of some activations."""
        return (x.dtype, x.device, x.shape[1]) == (self._like.dtype, self._like.device, self._like.shape[1])

    def slabs(self) -> Iterator[Slab]:
        """Every atom, in order."""
        if self.in_memory:
            yield from self._held
            return
        for first in range(0, self.d_sae, self._step):
            yield self._read(first)

    def rows(self, latents: Int[Tensor, "n_tokens n_slots"]) -> Float[Tensor, "n_tokens n_slots d_model"]:
        """The rows of some atoms; zeros for -1."""
        rows = self._like.new_zeros(*latents.shape, self._like.shape[1])
        for slab in self.slabs():
            tokens, slots = ((latents >= slab.first) & (latents < slab.first + len(slab.rows))).nonzero(as_tuple=True)
            rows[tokens, slots] = slab.rows[latents[tokens, slots] - slab.first]
        return rows

    def _read(self, first: int) -> Slab:
        last = min(first + self._step, self.d_sae)
        if isinstance(self._decoder, Tensor):
            rows = self._decoder[first:last]
        else:
            found = self._decoder.decoder_rows(first, last)
            if found is None:
                raise DataError(
                    "This SAE's reconstruction is not a sum of decoder rows, so other codes cannot be looked for: "
                    "choose an SAE without a normalisation or decoder of its own."
                )
            rows = found
        rows = rows.detach().to(self._like.device, self._like.dtype)
        if rows.ndim != 2 or rows.shape[1] != self._like.shape[1]:
            raise DataError(
                f"Decoder rows of shape {tuple(rows.shape)} do not go with activations of {self._like.shape[1]} "
                "dimensions: give (d_sae, d_model) rows of the same site."
            )
        norms = rows.norm(dim=1)
        if not bool(torch.isfinite(norms).all()):
            raise DataError("The decoder holds NaN or infinity: check the SAE's weights.")
        if self.normalise:
            rows = rows / torch.where(norms > 0, norms, 1.0)[:, None]
        return Slab(first, rows.contiguous(), norms)


def atoms_of(decoder: Tensor | DecoderRows | Atoms, like: Tensor, *, normalise: bool, block: int) -> Atoms:
    """A decoder as atoms; those that are given as such stay as they were made.

    Raises:
        DataError: they were made for another dtype, device or width, or with the other `normalise`.
    """
    if not isinstance(decoder, Atoms):
        return Atoms(decoder, like, normalise=normalise, rows_per_slab=block)
    if decoder.normalise != normalise or not decoder.suit(like):
        raise DataError("These atoms were made for other activations or options: make them anew, Atoms(decoder, x).")
    return decoder


def checked_activations(
    x: Float[Tensor, "n_tokens d_model"], bias: Float[Tensor, " d_model"] | None
) -> Float[Tensor, "n_tokens d_model"]:
    """Activations less the decoder's bias, in float32 or, if that is what they are, float64.

    Raises:
        DataError: NaN or infinity, or shapes that do not agree.
    """
    if not isinstance(x, Tensor) or x.ndim != 2 or not x.is_floating_point():
        raise DataError("Activations are a (n_tokens, d_model) tensor of floating point numbers: give them as such.")
    if bias is not None and bias.shape not in {torch.Size([]), torch.Size([x.shape[1]])}:
        raise DataError(f"The bias has shape {tuple(bias.shape)}, but ({x.shape[1]},) is needed: give the decoder's.")
    x = x.detach()
    x = x if x.dtype == torch.float64 else x.float()
    x = x if bias is None else x - bias.detach().to(x)
    if not bool(torch.isfinite(x).all()):
        raise DataError("The activations hold NaN or infinity: capture them again in a wider dtype.")
    return x


def checked_targets(targets: Int[Tensor, " n_targets"] | int, n_tokens: int, d_sae: int) -> Int[Tensor, " n_tokens"]:
    """The number of atoms that each token may have.

    Raises:
        DataError: not one a token, below 0, or above the number of latents.
    """
    if isinstance(targets, int | np.integer):
        targets = torch.full((n_tokens,), int(targets))
    try:
        targets = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError("Targets are whole numbers: give one for all tokens, or one a token.") from error
    if targets.ndim != 1 or targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise DataError("Targets are whole numbers: give one for all tokens, or one a token.")
    if targets.shape[0] != n_tokens:
        raise DataError(f"There are {targets.shape[0]} targets for {n_tokens} tokens: give one a token.")
    if n_tokens and (int(targets.min()) < 0 or int(targets.max()) > d_sae):
        raise DataError(f"A target L0 must be between 0 and the {d_sae} latents of the dictionary: clamp the targets.")
    return targets.long()


def codes_of(tokens: Tensor, latents: Tensor, values: Tensor, n_tokens: int, d_sae: int) -> SparseCodes:
    """Codes from (token, latent, value) triplets in any order, without those of value 0."""
    there = values != 0
    tokens, latents, values = tokens[there], latents[there], values[there]
    order = torch.argsort(tokens * d_sae + latents)
    offsets = torch.zeros(n_tokens + 1, dtype=torch.int64, device=tokens.device)
    torch.cumsum(torch.bincount(tokens, minlength=n_tokens), 0, out=offsets[1:])
    return SparseCodes(offsets, latents[order].to(torch.int32), values[order])
