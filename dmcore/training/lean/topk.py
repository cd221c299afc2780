"""Training of TopK (Gao et al. 2024) and BatchTopK (Bussmann et al. 2024) SAEs with the lean step of `sparse_step`."""

from __future__ import annotations

import torch

from dmcore.training.lean.base import LeanTrainer
from dmcore.training.lean.sparse_step import (
    SparseCodes,
    batch_top_k_codes,
    decode,
    gradients,
    pre_activations,
    top_k_codes,
)

_THRESHOLD_RATE = 0.01


class TopKTrainer(LeanTrainer):
    """Mean squared error alone; sparsity is exact."""

    def codes(self, x: torch.Tensor) -> SparseCodes:
        """The active latents of normalised `x` during training."""
        return top_k_codes(self.pre(x), self.target.l0)

    def pre(self, x: torch.Tensor) -> torch.Tensor:
        """Pre-activations of normalised `x`."""
        p = self.parameters
        return pre_activations(x, p["enc"].detach(), p["b_enc"].detach(), torch.bfloat16)

    def backward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of the mean squared error, by hand."""
        p = self.parameters
        codes = self.codes(x)
        recon = decode(codes, codes.values, p["dec"].detach()) + p["b_dec"].detach()
        grad = (recon - x) * (2 / x.numel())
        found = gradients(codes, x, grad, p["dec"])
        p["enc"].grad, p["dec"].grad, p["b_enc"].grad = found.enc, found.dec, found.b_enc
        p["b_dec"].grad = grad.sum(0)
        return recon, codes.columns[codes.values > 0]

    def reconstruct(self, x: torch.Tensor) -> tuple[torch.Tensor, float]:
        """As in training."""
        codes = self.codes(x)
        recon = decode(codes, codes.values, self.parameters["dec"]) + self.parameters["b_dec"]
        return recon, float((codes.values > 0).sum()) / len(x)


class BatchTopKTrainer(TopKTrainer):
    """TopK over the batch; stored as a JumpReLU with one threshold, a running mean of the smallest active value."""

    threshold = 0.0
    """Running mean, for normalised activations."""

    def codes(self, x: torch.Tensor) -> SparseCodes:
        """The active latents of a batch; moves the threshold."""
        codes, smallest = batch_top_k_codes(self.pre(x), self.target.l0)
        share = _THRESHOLD_RATE if self.threshold else 1.0
        self.threshold += share * (smallest - self.threshold)
        return codes

    def reconstruct(self, x: torch.Tensor) -> tuple[torch.Tensor, float]:
        """As the stored JumpReLU."""
        pre = self.pre(x).float()
        active = (pre * (pre > self.threshold)).relu()
        p = self.parameters
        return active @ p["dec"] + p["b_dec"], float((active > 0).sum()) / len(x)

    def export(self) -> dict[str, torch.Tensor]:
        """JumpReLU tensors."""
        tensors = super().export()
        return tensors | {"threshold": torch.full_like(tensors["b_enc"], self.threshold / self.scale)}

    def control_state(self) -> dict[str, float]:
        """The threshold."""
        return {"threshold": self.threshold}

    def restore_control(self, state: dict[str, float]) -> None:
        """The threshold."""
        self.threshold = state["threshold"]
