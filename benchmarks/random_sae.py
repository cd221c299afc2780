"""A JumpReLU SAE with random weights on any device, and random activations on disk."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from dmcore.analysis.activations import Activations, ActivationWriter
from dmcore.math.arithmetic import Arithmetic
from dmcore.math.sparse_codes import SparseCodes, decode
from dmcore.sources.block_encoders import thresholded
from dmcore.sources.dictionary import GPU_TOKENS

CONTEXTS_AT_ONCE = 32


def random_rows(d_sae: int, d_model: int, device: torch.device) -> Tensor:
    """(d_sae, d_model) rows of norm about 1: the decoder, and transposed the encoder."""
    g = torch.Generator(device).manual_seed(d_sae)
    rows = torch.empty(d_sae, d_model, device=device)
    for part in rows.split(2**16):
        part.normal_(0, 1 / math.sqrt(d_model), generator=g)
    return rows


class RandomSae:
    """An SAE of such rows, at a threshold that leaves about L0 latents active on unit normal activations."""

    def __init__(self, rows: Tensor, l0: float, precision: str = "float32") -> None:
        self.d_sae, self.rows, device = len(rows), rows, rows.device
        self.tokens_at_once = GPU_TOKENS if device.type == "cuda" else 1
        self.b_enc, self.b_dec = torch.zeros(self.d_sae, device=device), torch.zeros(rows.shape[1], device=device)
        quantile = math.sqrt(2) * float(torch.erfinv(torch.tensor(1 - 2 * l0 / self.d_sae, dtype=torch.float64)))
        self.threshold = torch.full((self.d_sae,), quantile, device=device)
        self.encoder = thresholded(rows.T, self.b_enc, self.threshold, Arithmetic(precision), device)

    @torch.inference_mode()
    def encode(self, x: Tensor) -> SparseCodes:
        """Sparse codes."""
        return self.encoder.encode(x)

    @torch.inference_mode()
    def decode(self, codes: SparseCodes, x: Tensor) -> Tensor:  # noqa: ARG002 - as of an SAE
        """Reconstruction."""
        return decode(codes, self.rows, self.b_dec)

    def measured_l0(self, acts: Activations, device: torch.device) -> float:
        """Mean active latents of the first chunk's tokens."""
        return float(self.encode(acts.read(next(iter(acts.chunks())), device)).l0.double().mean())


def write_activations(folder: Path, n_tokens: int, d_model: int, length: int) -> Activations:
    """Unit normal activations in float32, whole contexts, some at a time."""
    g, n_contexts = torch.Generator().manual_seed(1), max(10, n_tokens // length)
    pool = torch.randn(2**22 + CONTEXTS_AT_ONCE * length * d_model, generator=g)  # drawn once, used from random places
    writer = ActivationWriter(folder, n_contexts, length)
    for first in range(0, n_contexts, CONTEXTS_AT_ONCE):
        n = min(CONTEXTS_AT_ONCE, n_contexts - first)
        start = int(torch.randint(2**22, (1,), generator=g))
        writer.write(first, pool[start : start + n * length * d_model].view(n, length, d_model))
    writer.finish()
    return Activations(folder)
