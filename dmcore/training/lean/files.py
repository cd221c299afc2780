"""Stores the tensors of a leanly trained SAE as an ordinary SAELens folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dmcore.training.sae_trainer import saelens_metadata, saelens_reshaping
from dmcore.training.target import SaeTarget


def save_lean(target: SaeTarget, tensors: dict[str, torch.Tensor], folder: Path, metadata: dict[str, Any]) -> None:
    """Write `cfg.json` and `sae_weights.safetensors` through SAELens, in float32."""
    sae = _empty_sae(target, tensors["W_enc"].shape[0], metadata)
    sae.load_state_dict(tensors)
    sae.save_model(folder)


def _empty_sae(target: SaeTarget, d_in: int, metadata: dict[str, Any]) -> Any:
    """The SAELens inference object of this architecture, weights not set."""
    from sae_lens import (
        GatedSAE,
        GatedSAEConfig,
        JumpReLUSAE,
        JumpReLUSAEConfig,
        StandardSAE,
        StandardSAEConfig,
        TopKSAE,
        TopKSAEConfig,
    )
    from sae_lens.saes.sae import SAEMetadata

    common: dict[str, Any] = {
        "d_in": d_in,
        "d_sae": target.width,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "reshape_activations": saelens_reshaping(target.hook),
        "metadata": SAEMetadata(**saelens_metadata(target, metadata)),
    }
    if target.architecture == "topk":
        return TopKSAE(TopKSAEConfig(k=target.l0, **common))
    if target.architecture == "standard":
        return StandardSAE(StandardSAEConfig(**common))
    if target.architecture == "gated":
        return GatedSAE(GatedSAEConfig(**common))
    return JumpReLUSAE(JumpReLUSAEConfig(**common))
