"""Stores a trained SAE as an ordinary SAELens folder, with matrices in float16, and measures what was stored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dmcore.demo.sae_plan import SaeSpec
from dmcore.demo.scale import CONTEXT_LENGTH

if TYPE_CHECKING:
    import torch

MODEL_NAME = "dark-matter-demo"
"""The model's name in the SAEs' metadata."""


def save_sae(spec: SaeSpec, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Write `cfg.json` through SAELens and `sae_weights.safetensors` with the matrices rounded to float16.

    `cfg.json` says float32, to which SAELens converts on loading; that conversion is exact. Vectors stay float32: they
    are small, and a bias that cancels a large mean needs its digits.
    """
    import torch
    from safetensors.torch import save_file

    d_in = tensors["W_enc"].shape[0]
    sae = _empty_sae(spec, d_in)
    sae.load_state_dict(tensors)
    sae.save_model(folder)
    # Read back from SAELens's own state, so that a tensor it renames keeps its stored name.
    stored = {name: value.detach().cpu() for name, value in sae.state_dict().items()}
    sae.process_state_dict_for_saving(stored)
    rounded = {n: (v.to(torch.float16) if v.ndim > 1 else v).contiguous() for n, v in stored.items()}
    save_file(rounded, folder / "sae_weights.safetensors")


def measure_sae(folder: Path, acts: torch.Tensor) -> tuple[float, float]:
    """FVU (pooled, about the mean) and mean L0 of the stored SAE on (n_tokens, d_in) activations, in float32."""
    import torch
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder, device=str(acts.device))
    mean = acts.double().mean(0).float()
    error, total, active = 0.0, 0.0, 0.0
    with torch.inference_mode():
        for part in acts.split(2048):
            codes = sae.encode(part)
            error += float((part - sae.decode(codes)).double().square().sum())
            total += float((part - mean).double().square().sum())
            active += float((codes > 0).sum())
    return error / total, active / len(acts)


def _empty_sae(spec: SaeSpec, d_in: int):
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

    metadata = SAEMetadata(model_name=MODEL_NAME, hook_name=spec.hook, context_size=CONTEXT_LENGTH, prepend_bos=True)
    common = {
        "d_in": d_in,
        "d_sae": spec.width,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "metadata": metadata,
    }
    if spec.architecture == "topk":
        return TopKSAE(TopKSAEConfig(k=spec.l0, **common))
    if spec.architecture == "standard":
        return StandardSAE(StandardSAEConfig(**common))
    if spec.architecture == "gated":
        return GatedSAE(GatedSAEConfig(**common))
    return JumpReLUSAE(JumpReLUSAEConfig(**common))
