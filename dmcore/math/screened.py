"""Thresholded encoding with a bfloat16 screen: the answer of float32, at the speed of the matrix units.

An SAE's threshold rejects all but a few latents in a thousand, so most of the float32 product is made to be thrown away.

1. *Screen*: multiply in bfloat16 (four to ten times faster where the processor is made for it), with a margin that no
   rounding can exceed, so that no active latent is missed. With `x'` and
   `w'` the rounded ones, `|x w - x' w'| <= |x| |w - w'| + |x - x'| |w'|` (Cauchy-Schwarz), which is about 3/1000 of
   `|x| |w|`. The margin, bias and threshold are extra rows of the weights: the sign of the product is the test. Centring
   x makes |x|, and with it the margin, small.
2. *Decide*: the few candidates get their exact float32 product by a sampled matrix product; those above the
   threshold are the code.

Equivalent to `ThresholdEncoder`, to float32 rounding. Where the screen lets more than `MAX_CANDIDATES` through, it is
given up and the plain encoder takes over.
"""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from dmcore.math.sparse_codes import SparseCodes, ThresholdEncoder, join_codes, where_true

FAST_BFLOAT16 = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
"""What torch says of processors that multiply bfloat16 much faster than float32: matrix units, or products of pairs."""
LATENTS_PER_BLOCK = 1024
TOKENS_PER_BLOCK = 2048
MAX_CANDIDATES = 0.04
"""Largest share of latents that may pass the screen before it stops paying."""
MARGIN_SLACK = 1.02
"""Factor on the margin for its own rounding to bfloat16 (at most 0.8 %)."""
BIAS_SLACK = 2.0**-13
"""Share of a bias added to it, far above the float32 rounding that it can bring to a sum."""
EXTRA = 5
"""Rows added to the weights: two for the margin, three for the bias in pieces of 8 bits."""


def screening_pays(device: torch.device) -> bool:
    """Whether this processor multiplies bfloat16 much faster than float32, and torch can sample a product here."""
    if device.type != "cpu" or not any(getattr(torch.cpu, name, lambda: False)() for name in FAST_BFLOAT16):
        return False
    try:
        sampled_product(torch.ones(1, 2), torch.ones(1, 2), torch.tensor([0, 1]), torch.tensor([0]))
    except RuntimeError:  # torch was built without MKL
        return False
    return True


def sampled_product(x: Tensor, rows: Tensor, offsets: Tensor, columns: Tensor) -> Tensor:
    """`x[t] . rows[c]` for each pair (t, c) of a compressed sparse pattern, as a flat tensor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its compressed rows "beta"
        pattern = torch.sparse_csr_tensor(
            offsets, columns, x.new_zeros(columns.numel()), (x.shape[0], rows.shape[0]), check_invariants=False
        )
        return torch.sparse.sampled_addmm(pattern, x, rows.T, beta=0.0).values()


class ScreenedEncoder(ThresholdEncoder):
    """A `ThresholdEncoder` that screens in bfloat16; see the module."""

    def __init__(
        self,
        W_enc: Float[Tensor, "d_in d_sae"],
        b_enc: Float[Tensor, " d_sae"],
        threshold: Float[Tensor, " d_sae"],
    ) -> None:
        super().__init__(W_enc, b_enc, threshold)
        self._rows = W_enc.T.contiguous()
        self._centre: Tensor | None = None
        self._blocks: list[Tensor] = []
        self.screening = True

    def encode(self, x: Tensor) -> SparseCodes:
        if not self.screening or x.shape[0] == 0:
            return super().encode(x)
        if self._centre is None:
            self._prepare(x)
        screened = self._screened_input(x)
        parts = []
        for first in range(0, x.shape[0], TOKENS_PER_BLOCK):
            rows = slice(first, first + TOKENS_PER_BLOCK)
            tokens, latents = self._candidates(screened[rows])
            if latents.numel() > MAX_CANDIDATES * screened[rows].shape[0] * self.d_sae:
                self.screening = False
                self._blocks.clear()
                return super().encode(x)
            parts.append(self._decide(x[rows], tokens, latents))
        return join_codes(parts)

    def _prepare(self, x: Tensor) -> None:
        """Pack the weights for the screen, about the mean of the first tokens."""
        d_in = x.shape[1]
        depth = -(-(d_in + EXTRA) // 32) * 32
        centre, blocks = x.mean(0), list[Tensor]()
        bias = self.b_enc.double() - self.threshold.double()
        for first in range(0, self.d_sae, LATENTS_PER_BLOCK):
            rows = self._rows[first : first + LATENTS_PER_BLOCK]
            packed = torch.zeros(depth, rows.shape[0], dtype=torch.bfloat16, device=x.device)
            packed[:d_in] = rows.T
            # What float32 accumulation can add is counted with the rounding of w.
            accumulation = depth * 2.0**-23 * rows.norm(dim=1)
            packed[d_in] = MARGIN_SLACK * ((rows.T - packed[:d_in].float()).norm(dim=0) + accumulation)
            packed[d_in + 1] = MARGIN_SLACK * packed[:d_in].float().norm(dim=0)
            left = bias[first : first + LATENTS_PER_BLOCK] + rows.double() @ centre.double()
            left = left + left.abs() * BIAS_SLACK
            for piece in range(EXTRA - 2):
                packed[d_in + 2 + piece] = left
                left = left - packed[d_in + 2 + piece].double()
            blocks.append(packed)
        self._centre, self._blocks = centre, blocks  # at the end: memory may run out on the way

    def _screened_input(self, x: Tensor) -> Tensor:
        """(n_tokens, depth) bfloat16 `[x', |x|, |x - x'|, 1, 1, 1, 0...]`, with x about the centre."""
        d_in = x.shape[1]
        centred = x - self._centre
        padded = torch.zeros(x.shape[0], self._blocks[0].shape[0], dtype=torch.bfloat16, device=x.device)
        padded[:, :d_in] = centred
        padded[:, d_in] = centred.norm(dim=1) * MARGIN_SLACK
        padded[:, d_in + 1] = (centred - padded[:, :d_in].float()).norm(dim=1) * MARGIN_SLACK
        padded[:, d_in + 2 : d_in + EXTRA] = 1.0
        return padded

    def _candidates(self, screened: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and latents that may be above their threshold; ordered by block, then token, then latent."""
        found = []
        for number, packed in enumerate(self._blocks):
            width = packed.shape[1]
            pre = self._screen_buffer("screen", screened.shape[0], width, torch.bfloat16)
            above = self._screen_buffer("passed", screened.shape[0], width, torch.bool)
            torch.mm(screened, packed, out=pre)
            torch.gt(pre.view(torch.int16), 0, out=above)  # the sign bit tells the same, twice as fast
            flat = where_true(above.view(-1))
            tokens = torch.div(flat, width, rounding_mode="floor")
            found.append((tokens, (flat - tokens * width + number * LATENTS_PER_BLOCK).to(torch.int32)))
        tokens, latents = (torch.cat(part) for part in zip(*found, strict=True))
        return tokens, latents

    def _decide(self, x: Tensor, tokens: Tensor, latents: Tensor) -> SparseCodes:
        order = torch.argsort(tokens.to(torch.int16), stable=True)
        tokens, latents = tokens[order], latents[order]
        offsets = torch.zeros(x.shape[0] + 1, dtype=torch.int32)
        torch.cumsum(torch.bincount(tokens, minlength=x.shape[0]), 0, out=offsets[1:])
        values = sampled_product(x, self._rows, offsets, latents) + self.b_enc[latents]
        active = values > self.threshold[latents]
        kept = torch.zeros(x.shape[0] + 1, dtype=torch.int64)
        torch.cumsum(torch.bincount(tokens[active], minlength=x.shape[0]), 0, out=kept[1:])
        return SparseCodes(kept, latents[active], values[active])

    def _screen_buffer(self, name: str, n_tokens: int, width: int, dtype: torch.dtype) -> Tensor:
        held = self._buffers.get(name)
        if held is None:
            held = torch.empty(TOKENS_PER_BLOCK * LATENTS_PER_BLOCK, dtype=dtype)
            self._buffers[name] = held
        return held[: n_tokens * width].view(n_tokens, width)


def threshold_encoder(W_enc: Tensor, b_enc: Tensor, threshold: Tensor) -> ThresholdEncoder:
    """The faster of the two encoders on this device, for these weights."""
    if W_enc.dtype == torch.float32 and W_enc.shape[1] >= 4 * LATENTS_PER_BLOCK and screening_pays(W_enc.device):
        return ScreenedEncoder(W_enc, b_enc, threshold)
    return ThresholdEncoder(W_enc, b_enc, threshold)
