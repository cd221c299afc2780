"""Which blocked encoder equals an SAELens SAE's own, on a device and in a precision."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dmcore.math.arithmetic import Arithmetic
from dmcore.math.halved_encoders import HalvedGated, HalvedThreshold, HalvedTopK, halves_pay
from dmcore.math.screened import threshold_encoder
from dmcore.math.sparse_codes import Encoder, GatedEncoder, ThresholdEncoder, TopKEncoder

BLOCKED = ("StandardSAE", "JumpReLUSAE", "GatedSAE", "TopKSAE")
"""SAELens's classes whose latents are encoded each by itself, or compete only at the end."""


def is_blocked(sae: Any) -> bool:
    """Whether an object is an SAE of those classes."""
    return type(sae).__name__ in BLOCKED


def block_encoder(
    sae: Any, W_enc: Float[Tensor, "d_in d_sae"], arithmetic: Arithmetic, device: torch.device
) -> Encoder:
    """The blocked encoder of an SAE.

    Args:
        sae: one that `is_blocked`, on the device.
        W_enc: its encoder, on any device; one that is kept in another form is moved a part at a time.
        arithmetic: of the product. Float32 is screened in bfloat16 where that pays, with the answer of float32.
        device: where it works.
    """
    kind = type(sae).__name__
    if kind == "GatedSAE":
        return gated_encoder(W_enc, sae.b_gate.data, sae.r_mag.data, sae.b_mag.data, arithmetic, device)
    if kind == "TopKSAE":
        scale = sae.W_dec.data.norm(dim=-1) if sae.cfg.rescale_acts_by_decoder_norm else None
        return topk_encoder(W_enc, sae.b_enc.data, int(sae.cfg.k), scale, arithmetic, device)
    threshold = sae.threshold.data if kind == "JumpReLUSAE" else torch.zeros_like(sae.b_enc.data)
    return thresholded(W_enc, sae.b_enc.data, threshold, arithmetic, device)


def thresholded(
    W_enc: Tensor, b_enc: Tensor, threshold: Tensor, arithmetic: Arithmetic, device: torch.device
) -> Encoder:
    """ReLU and JumpReLU."""
    if arithmetic.precision != "float32":
        return ThresholdEncoder(arithmetic.weights(W_enc).to(device), b_enc, threshold, arithmetic)
    if _halved(W_enc, device):
        return HalvedThreshold(W_enc.T, b_enc, threshold, device)
    return threshold_encoder(W_enc.to(device), b_enc, threshold)


def gated_encoder(
    W_enc: Tensor, b_gate: Tensor, r_mag: Tensor, b_mag: Tensor, arithmetic: Arithmetic, device: torch.device
) -> Encoder:
    """Gated."""
    if arithmetic.precision == "float32" and _halved(W_enc, device):
        return HalvedGated(W_enc.T, b_gate, r_mag, b_mag, device)
    return GatedEncoder(arithmetic.weights(W_enc).to(device), b_gate, r_mag, b_mag, arithmetic)


def topk_encoder(
    W_enc: Tensor, b_enc: Tensor, k: int, scale: Tensor | None, arithmetic: Arithmetic, device: torch.device
) -> Encoder:
    """TopK; `scale` multiplies the pre-activations before they are compared."""
    if arithmetic.precision == "float32" and _halved(W_enc, device):
        return HalvedTopK(W_enc.T, b_enc, k, device, scale)
    return TopKEncoder(arithmetic.weights(W_enc).to(device), b_enc, k, scale, arithmetic)


def _halved(W_enc: Tensor, device: torch.device) -> bool:
    return W_enc.dtype == torch.float32 and halves_pay(device)
