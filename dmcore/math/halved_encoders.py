"""Encoders held on a GPU in four bytes a weight: the answer of float32, with most of the work in bfloat16.

As in `dmcore.math.screened`, a bfloat16 product with a margin that no rounding exceeds rejects all but a few latents in a
thousand, and those get their float32 product; here for whole blocks of latents at once, and for TopK too. The weights are kept as
`HalvedRows`: the screen multiplies the upper halves, and a block's float32 rows are put together when something passed it.

1. *Threshold, gate*: the margin, bias and threshold are columns beside the weights, so that the sign of the product is the
   test. The host waits twice a block: for how many passed, and for how many are active.
2. *TopK*: the columns make the product an upper bound `u` of each pre-activation, and `u - 2 m` is a lower bound, `m` being
   the token's largest margin. k groups of latents each hold one of at least the k-th largest group maximum, less 2 m: so
   does the answer, and a latent whose `u` is below that is not in it.

Equivalent to `ThresholdEncoder`, `GatedEncoder` and `TopKEncoder`, to float32 rounding. A block of which more than
`MAX_CANDIDATES` pass is made in float32 as a whole. The code runs on a CPU too, where its tests are; there
`dmcore.math.screened` is faster.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dmcore.math.arithmetic import float32_products
from dmcore.math.halves import HalvedRows
from dmcore.math.screened import BIAS_SLACK, EXTRA, MARGIN_SLACK, MAX_CANDIDATES, sampled_product
from dmcore.math.sparse_codes import Encoder, SparseCodes, codes_from_best, codes_from_triplets, where_true

TOKENS_PER_BLOCK, LATENTS_PER_BLOCK = 8192, 8192
"""Tokens and latents of one product: 128 MiB in bfloat16."""
UPPER_ELEMENTS = 2**29
"""Upper bounds of all latents that TopK holds at once: 1 GiB in bfloat16."""
GROUP = 32
"""Latents of which TopK looks only at the largest, where there are enough of them."""
ROUNDED = 2.0**-8
"""Share of a product that rounding it to bfloat16 can change, twice over."""
DEPTHS = 32
"""The matrix units take dimensions in multiples of this."""

Triplets = tuple[Tensor, Tensor, Tensor]
"""Tokens, latents and products of the latents that a screen lets through."""


def halves_pay(device: torch.device) -> bool:
    """Whether this device has matrix units for bfloat16 that are best used so: NVIDIA's from compute capability 8.0."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


class HalvedEncoder(Encoder):
    """What the encoders have in common: the screen.

    Args:
        rows: (d_sae, d_in) encoder weights, a row a latent; any layout and device.
        bias: (d_sae,) added to a product; what makes the sum positive passes the screen.
        device: where it works.
    """

    def __init__(self, rows: Float[Tensor, "d_sae d_in"], bias: Tensor, device: torch.device) -> None:
        self.d_sae, self.d_in = rows.shape
        depth = -(-(self.d_in + EXTRA) // DEPTHS) * DEPTHS
        self._rows = HalvedRows.of(rows, depth, device)
        self._bias = bias.to(device).double()
        self._centre: Tensor | None = None
        self._largest = torch.zeros(2, device=device)
        self._buffer = torch.empty(0, dtype=torch.bfloat16, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return self._rows.nbytes

    def _latent_blocks(self) -> list[tuple[int, int]]:
        step = LATENTS_PER_BLOCK
        return [(first, min(first + step, self.d_sae)) for first in range(0, self.d_sae, step)]

    def _prepare(self, x: Tensor) -> None:
        """Fill the columns beside the weights, about the mean of the first tokens."""
        centre, d, high = x.mean(0), self.d_in, self._rows.high
        largest = torch.zeros_like(self._largest)
        for first, last in self._latent_blocks():
            rows, rounded = self._rows.block(first, last), high[first:last, :d].float()
            # What float32 accumulation can add is counted with the rounding of w.
            lost = MARGIN_SLACK * ((rows - rounded).norm(dim=1) + high.shape[1] * 2.0**-23 * rows.norm(dim=1))
            size = MARGIN_SLACK * rounded.norm(dim=1)
            high[first:last, d], high[first:last, d + 1] = lost, size
            largest = torch.maximum(largest, torch.stack([lost.max(), size.max()]))
            left = self._bias[first:last] + (rows.double() @ centre.double())
            left = left + left.abs() * BIAS_SLACK
            for piece in range(EXTRA - 2):
                high[first:last, d + 2 + piece] = left
                left = left - high[first:last, d + 2 + piece].double()
        self._centre, self._largest = centre, largest  # at the end: memory may run out on the way

    def _screened_input(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n_tokens, depth) bfloat16 `[x', |x|, |x - x'|, 1, 1, 1, 0...]` about the centre, and each token's largest margin."""
        d, centred = self.d_in, x - self._centre
        padded = torch.zeros(x.shape[0], self._rows.high.shape[1], dtype=torch.bfloat16, device=x.device)
        padded[:, :d] = centred
        norms = torch.stack([centred.norm(dim=1), (centred - padded[:, :d].float()).norm(dim=1)], 1) * MARGIN_SLACK
        padded[:, d : d + 2] = norms
        padded[:, d + 2 : d + EXTRA] = 1.0
        return padded, (norms @ self._largest) * MARGIN_SLACK

    def _held(self, elements: int) -> Tensor:
        if self._buffer.numel() < elements:
            self._buffer = self._buffer.new_empty(elements)
        return self._buffer[:elements]

    def _exact(self, x: Tensor, passed: Tensor, first: int, last: int) -> Triplets:
        """Float32 products of what passed in a block, in the order of tokens; of everything where too much did."""
        rows, width = self._rows.block(first, last), last - first
        flat = where_true(passed.view(-1))
        if flat.numel() > MAX_CANDIDATES * passed.numel():
            products = (x @ rows.T).view(-1)
            flat = torch.arange(products.numel(), device=x.device)
            tokens = torch.div(flat, width, rounding_mode="floor")
            return tokens, (flat - tokens * width + first).to(torch.int32), products
        tokens = torch.div(flat, width, rounding_mode="floor")
        columns = (flat - tokens * width).to(torch.int32)
        if not flat.numel():
            return tokens, columns, x.new_empty(0)
        edges = torch.arange(x.shape[0] + 1, device=x.device)
        offsets = torch.searchsorted(tokens, edges, out_int32=True)
        return tokens, columns + first, sampled_product(x, rows, offsets, columns)


class HalvedThreshold(HalvedEncoder):
    """As `ThresholdEncoder`."""

    def __init__(self, rows: Tensor, b_enc: Tensor, threshold: Tensor, device: torch.device) -> None:
        threshold = threshold.clamp_min(0.0)
        super().__init__(rows, b_enc.double() - threshold.double(), device)
        self.b_enc, self.threshold = b_enc.to(device), threshold.to(device)

    def encode(self, x: Tensor) -> SparseCodes:
        """The sparse code of each token."""
        if self._centre is None and x.shape[0]:
            self._prepare(x)
        found = [_no_triplets(x)]
        with float32_products(x.device):
            for begin in range(0, x.shape[0], TOKENS_PER_BLOCK):
                some = x[begin : begin + TOKENS_PER_BLOCK].contiguous()
                screened, _ = self._screened_input(some)
                for block in self._latent_blocks():
                    tokens, latents, values = self._active(some, screened, *block)
                    found.append((tokens + begin, latents, values))
        tokens, latents, values = (torch.cat(parts) for parts in zip(*found, strict=True))
        return codes_from_triplets(tokens, latents, values, x.shape[0])

    def _active(self, x: Tensor, screened: Tensor, first: int, last: int) -> Triplets:
        product = self._held(x.shape[0] * (last - first)).view(x.shape[0], -1)
        torch.mm(screened, self._rows.high[first:last].T, out=product)
        tokens, latents, products = self._exact(x, product.view(torch.int16) > 0, first, last)  # the sign bit is enough
        values, active = self._fire(products, latents)
        kept = where_true(active)
        return tokens[kept], latents[kept], values[kept]

    def _fire(self, products: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Activations of some latents by their products, and which of them are active."""
        values = products + self.b_enc[latents]
        return values, values > self.threshold[latents]


class HalvedGated(HalvedThreshold):
    """As `GatedEncoder`."""

    def __init__(self, rows: Tensor, b_gate: Tensor, r_mag: Tensor, b_mag: Tensor, device: torch.device) -> None:
        super().__init__(rows, b_gate, torch.zeros_like(b_gate), device)
        self.scale, self.b_mag = r_mag.to(device).exp(), b_mag.to(device)

    def _fire(self, products: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        values = products * self.scale[latents] + self.b_mag[latents]
        return values, (products > -self.b_enc[latents]) & (values > 0)


class HalvedTopK(HalvedEncoder):
    """As `TopKEncoder`."""

    def __init__(
        self, rows: Tensor, b_enc: Tensor, k: int, device: torch.device, latent_scale: Tensor | None = None
    ) -> None:
        if latent_scale is not None:  # a scaled row has the scaled product
            rows, b_enc = rows * latent_scale[:, None].to(rows), b_enc * latent_scale.to(b_enc)
        super().__init__(rows, b_enc, device)
        self.b_enc, self.k = b_enc.to(device), min(k, self.d_sae)

    def encode(self, x: Tensor) -> SparseCodes:
        """The sparse code of each token."""
        if self._centre is None and x.shape[0]:
            self._prepare(x)
        step = max(1, min(TOKENS_PER_BLOCK, UPPER_ELEMENTS // self.d_sae))
        values = x.new_full((x.shape[0], self.k), -torch.inf)
        latents = torch.zeros(values.shape, dtype=torch.int32, device=x.device)
        with float32_products(x.device):
            for begin in range(0, x.shape[0], step):
                some = slice(begin, begin + step)
                tokens, found, products = self._candidates(x[some].contiguous(), *self._screened_input(x[some]))
                values[some], latents[some] = self._best(tokens, found, products + self.b_enc[found], len(x[some]))
        return codes_from_best(values, latents)

    def _candidates(self, x: Tensor, screened: Tensor, margin: Tensor) -> Triplets:
        upper = self._held(x.shape[0] * self.d_sae).view(x.shape[0], self.d_sae)
        for first, last in self._latent_blocks():
            torch.mm(screened, self._rows.high[first:last].T, out=upper[:, first:last])
        edge = self._least(upper, margin)[:, None]
        found = [self._exact(x, upper[:, a:b] >= edge, a, b) for a, b in self._latent_blocks()]
        tokens, latents, products = (torch.cat(parts) for parts in zip(*found, strict=True))
        order = torch.argsort(tokens, stable=True)
        return tokens[order], latents[order], products[order]

    def _least(self, upper: Tensor, margin: Tensor) -> Tensor:
        """(n_tokens,) what a latent's upper bound must reach, above 0."""
        size = next((g for g in (GROUP, GROUP // 4) if self.d_sae // g >= 2 * self.k), 1)
        grouped = self.d_sae // size * size
        best = torch.cat([upper[:, :grouped].unflatten(1, (-1, size)).amax(2), upper[:, grouped:]], 1)
        kth = best.topk(self.k, dim=1, sorted=True).values[:, -1].float()
        least = kth - ROUNDED * kth.abs() - 2 * margin
        return (least - ROUNDED * least.abs()).clamp_min(torch.finfo(torch.float32).tiny)

    def _best(self, tokens: Tensor, latents: Tensor, values: Tensor, n_tokens: int) -> tuple[Tensor, Tensor]:
        """(n_tokens, k) the largest values of each token and their latents; -inf where it has fewer."""
        starts = torch.searchsorted(tokens, torch.arange(n_tokens + 1, device=tokens.device))
        place = torch.arange(tokens.numel(), device=tokens.device) - starts[tokens]
        width = max(self.k, int(starts.diff().max()))
        table = values.new_full((n_tokens, width), -torch.inf)
        numbers = torch.zeros(table.shape, dtype=torch.int32, device=tokens.device)
        table[tokens, place], numbers[tokens, place] = values, latents
        best, where = table.topk(self.k, dim=1, sorted=False)
        return best, numbers.gather(1, where)


def _no_triplets(x: Tensor) -> Triplets:
    return tuple(torch.zeros(0, dtype=kind, device=x.device) for kind in (torch.int64, torch.int32, x.dtype))
