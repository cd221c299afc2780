"""The number format of an encoder's product: float32, the reference, or tf32 or bfloat16 where speed counts more.

Only the inputs of the product are rounded; it is accumulated and given back in float32, and everything after it (thresholds,
values, decode, moments) is as in float32. On a GPU the matrix units do it. On a CPU the same rounded inputs go through a float32
product, so that the numbers are those of a GPU up to the order of addition; the speed is not.

float32 itself may be made from a bfloat16 screen and exact products of what passes it (`dmcore.math.screened`,
`dmcore.math.halved_encoders`): the answer is float32's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

TF32_DROPPED = 13
"""Bits of a float32 that tf32 does not have."""


@dataclass(frozen=True)
class Arithmetic:
    """How the product of an encoder is made."""

    precision: str = "float32"
    """Of `dmcore.specs.PRECISIONS`."""

    def weights(self, W: Float[Tensor, "d_in n"]) -> Tensor:
        """Weights as they are kept: rounded once, in bfloat16 at half the memory."""
        if self.precision == "bfloat16":
            return W.to(torch.bfloat16)
        return round_to_tf32(W) if self.precision == "tf32" and W.device.type != "cuda" else W

    def inputs(self, x: Float[Tensor, "n_tokens d_in"]) -> Tensor:
        """Activations as they go into `addmm`: rounded once for all blocks of latents."""
        if self.precision == "bfloat16":
            rounded = x.to(torch.bfloat16)
            return rounded if x.device.type == "cuda" else rounded.to(x.dtype)
        return round_to_tf32(x) if self.precision == "tf32" and x.device.type != "cuda" else x

    def addmm(
        self, bias: Float[Tensor, " n"], x: Tensor, W: Tensor, out: Tensor | None = None
    ) -> Float[Tensor, "n_tokens n"]:
        """`x @ W + bias`, where both went through `inputs` and `weights`; into `out`, if there is one."""
        if self.precision == "bfloat16" and x.device.type == "cuda":
            made = torch.mm(x, W, out_dtype=torch.float32, out=out)
            return made.add_(bias)
        if self.precision == "bfloat16":
            W = W.to(x.dtype)
        with float32_products(x.device, fast=self.precision == "tf32"):
            return torch.addmm(bias, x, W, out=out)


FLOAT32 = Arithmetic()


def round_to_tf32(values: Tensor) -> Tensor:
    """The nearest numbers of 10 bits after the point, ties away from zero; float64 is left as it is."""
    if values.dtype != torch.float32:
        return values
    bits = values.contiguous().view(torch.int32)
    half, mask = 1 << (TF32_DROPPED - 1), -(1 << TF32_DROPPED)
    return ((bits + half) & mask).view(torch.float32)


@contextmanager
def float32_products(device: torch.device, *, fast: bool = False) -> Iterator[None]:
    """On a GPU: float32 products in full, or by tf32 if `fast`; bfloat16 products summed in float32. Elsewhere, nothing.

    torch's defaults may have been changed by whoever runs this, and it sums split bfloat16 products in bfloat16 unless told
    not to; a screen's margin does not allow for that.
    """
    if device.type != "cuda":
        yield
        return
    flags, before = torch.backends.cuda.matmul, torch.get_float32_matmul_precision()
    reduced = flags.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("high" if fast else "highest")
    flags.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        flags.allow_bf16_reduced_precision_reduction = reduced
