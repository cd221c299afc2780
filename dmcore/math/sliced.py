"""SAEs wider than memory: latents are taken a slice at a time, for a group of tokens that is held in memory.

1. *Encode*: for each slice of latents, the encoder of that slice alone runs over all tokens of the group. Thresholded latents
   do not know of each other, so their codes are put together; TopK keeps the best k so far.
2. *Decode*: active latents are sorted by slice; each slice's decoder rows are added into the reconstruction.

Memory is that of a group of tokens, of two slices (one is read while the other is worked on) and of the codes: it does not
depend on the width. Every weight is read once a group. The results equal those of the whole dictionary, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dmcore.math.sparse_codes import BestLatents, Encoder, SparseCodes, TopKEncoder, codes_from_triplets

TOKENS_PER_ADDITION = 4096
"""Tokens whose reconstruction is added to at once."""

Read = TypeVar("Read")


@runtime_checkable
class LatentSlices(Protocol):
    """An SAE's latents, in ranges."""

    d_sae: int
    latents_per_slice: int

    def encoder(self, first: int, last: int) -> Encoder:
        """The encoder of latents first to last - 1, which it numbers from 0."""
        ...

    def decoder(self, first: int, last: int) -> Tensor:
        """(last - first, d_in) their decoder rows."""
        ...


@dataclass(frozen=True)
class Slice:
    """A range of latents."""

    number: int
    first: int
    last: int


def slices_of(source: LatentSlices) -> list[Slice]:
    """The ranges that cover all latents."""
    step = source.latents_per_slice
    return [Slice(i, first, min(first + step, source.d_sae)) for i, first in enumerate(range(0, source.d_sae, step))]


def read_ahead(slices: list[Slice], read: Callable[[int, int], Read]) -> Iterator[tuple[Slice, Read]]:
    """Each slice with what `read` gives for it; the next one is read while the caller works."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        coming = [reader.submit(read, part.first, part.last) for part in slices[:1]]
        for part in slices:
            content = coming.pop().result()
            if part.number + 1 < len(slices):
                after = slices[part.number + 1]
                coming.append(reader.submit(read, after.first, after.last))
            yield part, content
            del content


def encode_sliced(
    source: LatentSlices, x: Float[Tensor, "n_tokens d_in"], pulse: Callable[[int, int], None]
) -> SparseCodes:
    """The codes of a group of tokens; `pulse(done, total)` is called before each slice and may raise to stop."""
    slices = slices_of(source)
    best: BestLatents | None = None
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for part, encoder in read_ahead(slices, source.encoder):
        pulse(part.number, len(slices))
        if isinstance(encoder, TopKEncoder):
            best = best or BestLatents(x.shape[0], encoder.k)
            encoder.add_to(best, x, part.first)
            del encoder
            continue
        codes = encoder.encode(x)
        tokens = torch.repeat_interleave(torch.arange(x.shape[0], device=x.device, dtype=torch.int32), codes.l0)
        found.append((tokens, codes.latents + part.first, codes.values))
        del encoder  # before the slice after the next is read, so that there are never three
    if best is not None:
        return best.codes()
    tokens, latents, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    found.clear()
    return codes_from_triplets(tokens, latents, values, x.shape[0])


def decode_sliced(
    codes: SparseCodes,
    source: LatentSlices,
    b_dec: Float[Tensor, " d_in"],
    pulse: Callable[[int, int], None],
) -> Float[Tensor, "n_tokens d_in"]:
    """`sum_i values_i W_dec[latents_i] + b_dec` for a group of tokens; only slices with an active latent are read."""
    n_tokens = codes.offsets.numel() - 1
    recon = b_dec.expand(n_tokens, -1).clone()
    owner = torch.div(codes.latents, source.latents_per_slice, rounding_mode="floor").to(torch.int32)
    order = torch.argsort(owner, stable=True)  # tokens still ascend within a slice
    counts = torch.bincount(owner, minlength=-(-source.d_sae // source.latents_per_slice))
    ends = counts.cumsum(0).tolist()
    tokens = torch.repeat_interleave(torch.arange(n_tokens, device=order.device, dtype=torch.int32), codes.l0)
    used = [part for part in slices_of(source) if int(counts[part.number])]
    renumbered = [Slice(i, part.first, part.last) for i, part in enumerate(used)]
    for part, rows in read_ahead(renumbered, source.decoder):
        pulse(part.number, len(used))
        number = part.first // source.latents_per_slice
        chosen = order[ends[number] - int(counts[number]) : ends[number]]
        own = (tokens[chosen], codes.latents[chosen] - part.first, codes.values[chosen])
        _add_rows(recon, rows, *own)
        del rows
    return recon


def _add_rows(recon: Tensor, rows: Tensor, tokens: Tensor, latents: Tensor, values: Tensor) -> None:
    """Add a slice's share to the reconstruction, some tokens at a time."""
    n_tokens = recon.shape[0]
    starts = torch.arange(0, n_tokens, TOKENS_PER_ADDITION, device=tokens.device, dtype=tokens.dtype)
    edges = [*torch.searchsorted(tokens, starts).tolist(), tokens.numel()]
    for i, first in enumerate(range(0, n_tokens, TOKENS_PER_ADDITION)):
        some = slice(edges[i], edges[i + 1])
        if some.start == some.stop:
            continue
        size = min(TOKENS_PER_ADDITION, n_tokens - first)
        offsets = torch.zeros(size + 1, dtype=latents.dtype, device=latents.device)
        torch.cumsum(torch.bincount(tokens[some] - first, minlength=size), 0, out=offsets[1:])
        recon[first : first + size] += F.embedding_bag(
            latents[some],
            rows,
            offsets,
            mode="sum",
            per_sample_weights=values[some].to(rows.dtype),
            include_last_offset=True,
        )
