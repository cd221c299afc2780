"""The floor of a pass, and the pass as one would write it first: dense codes, dense decode, products in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.random_sae import RandomSae
from dmcore.analysis.activations import Activations, chunks_of
from dmcore.math.arithmetic import float32_products

ELEMENTS = 2**28
"""Of a dense tokens x latents array, at most: 1 GiB in float32. Without this, neither would fit."""


def pieces(acts: Activations, d_sae: int) -> list:
    """Chunks whose dense codes are small enough; one context at least."""
    return list(chunks_of(acts.n_contexts, acts.length, min(8192, ELEMENTS // d_sae)))


def floor_weights(rows: Tensor, precision: str) -> Tensor:
    """The encoder as the bare product reads it."""
    return rows.to(torch.bfloat16) if precision == "bfloat16" and rows.device.type == "cuda" else rows


def bare_product(acts: Activations, weights: Tensor, device: torch.device, precision: str) -> None:
    """`x @ W_enc` as often as all tokens take, in the precision, into one buffer; nothing is read but the first activations."""
    chunks = pieces(acts, len(weights))
    x = acts.read(chunks[0], device).to(weights.dtype)
    out = torch.empty(len(x), len(weights), dtype=weights.dtype, device=device)
    with float32_products(device, fast=precision == "tf32"):
        for chunk in chunks:
            n = chunk.n_contexts * chunk.length
            torch.mm(x[:n], weights.T, out=out[:n])


def plain_pass(acts: Activations, sae: RandomSae, folder: Path, device: torch.device) -> Tensor:
    """Dense codes; the nonzero ones to disk; dense decode; `[x, 1]^T [e, |e|^2]` in float64. Returns that."""
    total, found = torch.zeros(1), []
    for chunk in pieces(acts, sae.d_sae):
        x = acts.read(chunk, device)
        pre = x @ sae.rows.T + sae.b_enc
        latents = pre.relu() * (pre > sae.threshold)
        where = latents.nonzero()
        found.append((where.cpu().numpy(), latents[where[:, 0], where[:, 1]].cpu().numpy()))
        error = x - (latents @ sae.rows + sae.b_dec)
        design = torch.cat([x, torch.ones(len(x), 1, device=device)], 1).double()
        targets = torch.cat([error, error.square().sum(1, keepdim=True)], 1).double()
        total = design.T @ targets if total.numel() == 1 else total + design.T @ targets
    np.savez(
        folder / "plain.npz", where=np.concatenate([w for w, _ in found]), values=np.concatenate([v for _, v in found])
    )
    return total
