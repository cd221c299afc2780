"""Stores the matrices of a finished SAE in float16, so that the repository stays small."""

from __future__ import annotations

from pathlib import Path

_WEIGHTS = "sae_weights.safetensors"


def round_matrices(folder: Path) -> None:
    """Round the matrices of a SAELens folder to float16.

    `cfg.json` says float32, to which SAELens converts on loading; that conversion is exact. Vectors stay float32: they
    are small, and a bias that cancels a large mean needs its digits.
    """
    import torch
    from safetensors.torch import load_file, save_file

    stored = load_file(folder / _WEIGHTS)
    rounded = {n: (v.to(torch.float16) if v.ndim > 1 else v).contiguous() for n, v in stored.items()}
    save_file(rounded, folder / _WEIGHTS)
