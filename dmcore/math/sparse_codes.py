"""Sparse codes: which latents of an SAE are active on each token, and how much; made block by block, decoded sparsely.

1. Encoders with a threshold per latent (ReLU, JumpReLU, gated) go through blocks of latents: the product of a block lands
   in one reused buffer and is thresholded while it is still in cache, so that nothing of size d_sae is ever written.
2. TopK keeps the best k of each slab of latents and merges them: exact, whatever the width.
3. Anything else (matching pursuit, ...) is encoded as its own code does, a few tokens at a time, and made sparse.
4. `decode` gathers the decoder rows of the active latents: about L0 / d_sae of the cost of encoding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn import functional as F

from dmcore.math.arithmetic import FLOAT32, Arithmetic

LATENTS_PER_BLOCK = 512
"""Latents whose pre-activations are made at once; a block of tokens x latents fits in a core's cache."""

TOKENS_PER_BLOCK = 1024
"""Tokens whose pre-activations are made at once."""

GPU_TOKENS_PER_BLOCK, GPU_LATENTS_PER_BLOCK = 8192, 8192
"""The same on a GPU: 256 MiB in float32, enough to fill it, and few enough blocks that it seldom waits for the host."""

LATENTS_PER_SLAB = 65_536
"""Latents whose dense pre-activations TopK holds at once."""

DENSE_ELEMENTS = 2**24
"""Most elements of a dense tokens x latents array that an encoder without blocks may make at once."""
GPU_DENSE_ELEMENTS = 2**28
"""The same on a GPU: 1 GiB in float32."""


def block_shape(device: torch.device) -> tuple[int, int]:
    """Tokens and latents whose pre-activations are best made at once on a device."""
    if device.type == "cuda":
        return GPU_TOKENS_PER_BLOCK, GPU_LATENTS_PER_BLOCK
    return TOKENS_PER_BLOCK, LATENTS_PER_BLOCK


def rows_of_dense(width: int, device: torch.device) -> int:
    """Tokens whose dense pre-activations of `width` latents may be held at once."""
    return max(1, (GPU_DENSE_ELEMENTS if device.type == "cuda" else DENSE_ELEMENTS) // width)


@dataclass(frozen=True)
class SparseCodes:
    """The active latents of some tokens, in compressed rows; latents ascend within a token."""

    offsets: Int[Tensor, " n_offsets"]
    """Where each token's latents begin in `latents` and `values`."""
    latents: Int[Tensor, " n_active"]
    """Index of each active latent, below d_sae."""
    values: Float[Tensor, " n_active"]
    """Its activation, above 0 for ReLU-like encoders, in the SAE's own units."""

    @property
    def l0(self) -> Int[Tensor, " n_tokens"]:
        """Active latents per token."""
        return self.offsets.diff()

    def tokens(self, first: int, last: int) -> SparseCodes:
        """The codes of tokens first to last - 1."""
        start, stop = int(self.offsets[first]), int(self.offsets[last])
        return SparseCodes(self.offsets[first : last + 1] - start, self.latents[start:stop], self.values[start:stop])

    def chosen(self, tokens: Int64[Tensor, " n_chosen"]) -> SparseCodes:
        """The codes of some tokens, in the order given."""
        counts = self.l0[tokens]
        offsets = _offsets_of(counts)
        where = torch.repeat_interleave(self.offsets[:-1][tokens] - offsets[:-1], counts)
        where += torch.arange(where.numel(), device=where.device)
        return SparseCodes(offsets, self.latents[where], self.values[where])

    def placed(self, tokens: Int64[Tensor, " n_tokens"], n_tokens: int) -> SparseCodes:
        """These codes as those of some tokens, ascending, of `n_tokens`; of the others no latent is active."""
        counts = self.offsets.new_zeros(n_tokens)
        counts[tokens] = self.l0
        return SparseCodes(_offsets_of(counts), self.latents, self.values)


def _offsets_of(counts: Tensor) -> Tensor:
    offsets = torch.zeros(len(counts) + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=offsets[1:])
    return offsets


def codes_from_triplets(tokens: Tensor, latents: Tensor, values: Tensor, n_tokens: int) -> SparseCodes:
    """Codes from unordered (token, latent, value) triplets; latents must already ascend among equal tokens."""
    order = torch.argsort(tokens, stable=True)
    return SparseCodes(_offsets_of(torch.bincount(tokens, minlength=n_tokens)), latents[order], values[order])


def codes_from_dense(acts: Float[Tensor, "n_tokens d_sae"]) -> SparseCodes:
    """Codes of a dense array of latent activations: its nonzero elements."""
    tokens, latents = acts.nonzero(as_tuple=True)
    return codes_from_triplets(tokens, latents, acts[tokens, latents], acts.shape[0])


def join_codes(parts: Sequence[SparseCodes]) -> SparseCodes:
    """The codes of consecutive tokens as one."""
    if len(parts) == 1:
        return parts[0]
    counts = torch.cat([part.l0 for part in parts])
    offsets = torch.zeros(counts.numel() + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=offsets[1:])
    return SparseCodes(offsets, torch.cat([p.latents for p in parts]), torch.cat([p.values for p in parts]))


class Encoder(ABC):
    """Makes sparse codes of activations that have already been prepared (normalised, b_dec removed if the SAE asks)."""

    d_sae: int

    @abstractmethod
    def encode(self, x: Float[Tensor, "n_tokens d_in"]) -> SparseCodes:
        """The sparse code of each token."""


def where_true(mask: Bool[Tensor, " n"]) -> Int64[Tensor, " n_true"]:
    """Indices of the true elements, ascending: `mask.nonzero()`, several times faster where few are true.

    Eight at a time are looked at as one integer; only those that are not all false are taken apart.
    """
    if mask.numel() % 8 or mask.storage_offset() % 8 or not mask.is_contiguous():
        return mask.nonzero().squeeze(1)
    words = mask.view(torch.int64).nonzero().squeeze(1)
    rows, columns = mask.view(-1, 8)[words].nonzero(as_tuple=True)
    return words[rows] * 8 + columns


@dataclass
class ThresholdEncoder(Encoder):
    """`relu(x @ W_enc + b_enc)` where the pre-activation is above `threshold`, else 0: ReLU and JumpReLU SAEs."""

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    threshold: Float[Tensor, " d_sae"]
    """Smallest pre-activation that is *not* kept, at least 0; 0 for a ReLU SAE."""
    arithmetic: Arithmetic = FLOAT32
    """Of the product; anything but float32 gives other codes."""
    _buffers: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.d_sae = self.W_enc.shape[1]
        self.W_enc = self.arithmetic.weights(self.W_enc)
        self.threshold = self.threshold.clamp_min(0.0)

    def encode(self, x: Tensor) -> SparseCodes:
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        n_tokens, n_latents = block_shape(x.device)
        for first_token in range(0, x.shape[0], n_tokens):
            tokens = self.arithmetic.inputs(x[first_token : first_token + n_tokens])
            for first in range(0, self.d_sae, n_latents):
                block = slice(first, min(first + n_latents, self.d_sae))
                found.append(self._encode_block(tokens, first_token, block))
        tokens, latents, values = (torch.cat(parts) for parts in zip(*found, strict=True))
        return codes_from_triplets(tokens, latents, values, x.shape[0])

    def _encode_block(self, x: Tensor, first_token: int, block: slice) -> tuple[Tensor, Tensor, Tensor]:
        width = block.stop - block.start
        pre = self._buffer("pre", x, width, self.b_enc.dtype)
        above = self._buffer("above", x, width, torch.bool)
        self.arithmetic.addmm(self.b_enc[block], x, self.W_enc[:, block], out=pre)
        values = self._fire(pre, above, block)
        active = where_true(above.view(-1))
        tokens = torch.div(active, width, rounding_mode="floor")
        latents = active - tokens * width + block.start
        return tokens + first_token, latents.to(torch.int32), values.view(-1)[active]

    def _fire(self, pre: Tensor, above: Tensor, block: slice) -> Tensor:
        torch.gt(pre, self.threshold[block], out=above)
        return pre

    def _buffer(self, name: str, x: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        needed = x.shape[0] * width
        held = self._buffers.get(name)
        if held is None or held.numel() < needed or held.device != x.device:
            n_tokens, n_latents = block_shape(x.device)
            held = torch.empty(min(n_tokens, x.shape[0]) * min(n_latents, self.d_sae), dtype=dtype, device=x.device)
            self._buffers[name] = held
        return held[:needed].view(x.shape[0], width)


@dataclass(init=False)
class GatedEncoder(ThresholdEncoder):
    """A gate `x @ W_enc + b_gate > 0` and a magnitude `relu(exp(r_mag) (x @ W_enc) + b_mag)` (Rajamanoharan et al. 2024).

    `b_enc` is zero here: the gate and the magnitude share the product and have a bias each.
    """

    b_gate: Float[Tensor, " d_sae"]
    r_mag: Float[Tensor, " d_sae"]
    b_mag: Float[Tensor, " d_sae"]

    def __init__(
        self, W_enc: Tensor, b_gate: Tensor, r_mag: Tensor, b_mag: Tensor, arithmetic: Arithmetic = FLOAT32
    ) -> None:
        super().__init__(W_enc, torch.zeros_like(b_gate), torch.zeros_like(b_gate), arithmetic)
        self.b_gate, self.r_mag, self.b_mag = b_gate, r_mag, b_mag

    def _fire(self, pre: Tensor, above: Tensor, block: slice) -> Tensor:
        torch.gt(pre, -self.b_gate[block], out=above)
        magnitude = torch.addcmul(self.b_mag[block], pre, self.r_mag[block].exp())
        above &= magnitude > 0
        return magnitude


@dataclass
class TopKEncoder(Encoder):
    """The k largest pre-activations of each token, those above 0 kept: TopK SAEs (Gao et al. 2024)."""

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    k: int
    latent_scale: Float[Tensor, " d_sae"] | None = None
    """Multiplies the pre-activations before they are compared (SAELens's `rescale_acts_by_decoder_norm`)."""
    arithmetic: Arithmetic = FLOAT32
    """Of the product; anything but float32 gives other codes."""

    def __post_init__(self) -> None:
        self.d_sae = self.W_enc.shape[1]
        self.W_enc = self.arithmetic.weights(self.W_enc)

    def encode(self, x: Tensor) -> SparseCodes:
        best = BestLatents(x.shape[0], self.k)
        self.add_to(best, x, 0)
        return best.codes()

    def add_to(self, best: BestLatents, x: Tensor, first_latent: int) -> None:
        """Let these latents, whose numbers begin at `first_latent`, compete with the best so far."""
        rows = rows_of_dense(min(self.d_sae, LATENTS_PER_SLAB), x.device)
        for first_token in range(0, x.shape[0], rows):
            some = slice(first_token, min(first_token + rows, x.shape[0]))
            tokens = self.arithmetic.inputs(x[some])
            for first in range(0, self.d_sae, LATENTS_PER_SLAB):
                block = slice(first, min(first + LATENTS_PER_SLAB, self.d_sae))
                pre = self.arithmetic.addmm(self.b_enc[block], tokens, self.W_enc[:, block])
                if self.latent_scale is not None:
                    pre *= self.latent_scale[block]
                values, latents = pre.topk(min(self.k, pre.shape[1]), dim=1, sorted=False)
                best.offer(some, values, latents + (first + first_latent))


class BestLatents:
    """The k largest pre-activations that each token has been offered, and their latents."""

    def __init__(self, n_tokens: int, k: int) -> None:
        self._n_tokens, self._k = n_tokens, k
        self._values: Tensor | None = None
        self._latents: Tensor | None = None

    def offer(self, tokens: slice, values: Float[Tensor, "n m"], latents: Int[Tensor, "n m"]) -> None:
        """Keep the best of what some tokens have and of these; an earlier one wins a tie."""
        if self._values is None or self._latents is None:
            self._values = values.new_full((self._n_tokens, self._k), -torch.inf)
            self._latents = torch.zeros(self._n_tokens, self._k, dtype=torch.int32, device=values.device)
        both = torch.cat([self._values[tokens], values], 1)
        numbers = torch.cat([self._latents[tokens], latents.to(torch.int32)], 1)
        self._values[tokens], picked = both.topk(self._k, dim=1, sorted=False)
        self._latents[tokens] = numbers.gather(1, picked)

    def codes(self) -> SparseCodes:
        """Those above 0."""
        if self._values is None or self._latents is None:
            raise ValueError("no latent has been offered")
        return codes_from_best(self._values, self._latents)


def codes_from_best(values: Tensor, latents: Tensor) -> SparseCodes:
    """Codes from (n_tokens, k) candidates, of which those above 0 are active."""
    latents, order = latents.sort(dim=1)
    values = values.gather(1, order)
    active = values > 0
    offsets = torch.zeros(values.shape[0] + 1, dtype=torch.int64, device=values.device)
    torch.cumsum(active.sum(1), 0, out=offsets[1:])
    return SparseCodes(offsets, latents[active].to(torch.int32), values[active])


@dataclass
class DenseEncoder(Encoder):
    """Any encoder that maps (n_tokens, d_in) to dense latent activations: called as it is, a few tokens at a time."""

    encode_dense: Callable[[Tensor], Tensor]
    d_sae: int

    def encode(self, x: Tensor) -> SparseCodes:
        rows = rows_of_dense(self.d_sae, x.device)
        found = []
        for first in range(0, x.shape[0], rows):
            acts = self.encode_dense(x[first : first + rows])
            tokens, latents = acts.nonzero(as_tuple=True)
            found.append((tokens + first, latents.to(torch.int32), acts[tokens, latents]))
        tokens, latents, values = (torch.cat(parts) for parts in zip(*found, strict=True))
        return codes_from_triplets(tokens, latents, values, x.shape[0])


def decode(codes: SparseCodes, W_dec: Float[Tensor, "d_sae d_in"], b_dec: Float[Tensor, " d_in"]) -> Tensor:
    """`sum_i values_i W_dec[latents_i] + b_dec` for each token, (n_tokens, d_in).

    Equivalent to the dense `acts @ W_dec + b_dec`, to rounding.
    """
    if codes.latents.numel() == 0:
        return b_dec.expand(codes.offsets.numel() - 1, -1).clone()
    summed = F.embedding_bag(
        codes.latents,
        W_dec,
        codes.offsets.to(codes.latents.dtype),
        mode="sum",
        per_sample_weights=codes.values.to(W_dec.dtype),
        include_last_offset=True,
    )
    return summed.add_(b_dec)
