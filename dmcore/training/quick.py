"""A small TopK SAE trained in memory, in seconds, for controls that compare two kinds of activations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dmcore.training.lean.topk import TopKTrainer
from dmcore.training.sae_trainer import ActivationStats
from dmcore.training.schedule import Budget
from dmcore.training.target import SaeTarget

BATCH = 512
"""Tokens in a step: few, as there are few in all."""
PEAK_RATE = 4e-3


class QuickSae:
    """A TopK SAE trained on some activations; called on others, it gives their reconstruction.

    Args:
        acts: (n_tokens, d_model), gone through in a new order as often as the tokens ask for.
        width: latents.
        k: active latents a token.
        n_tokens: to train on in all.
        seed: of the weights and of the order.
    """

    def __init__(self, acts: Tensor, width: int, k: int, n_tokens: int, seed: int = 0) -> None:
        target = SaeTarget("control", "topk", width, k)
        self._trainer = TopKTrainer(target, ActivationStats.of(acts), PEAK_RATE, seed, str(acts.device))
        schedule, order, done = Budget(n_tokens), np.random.default_rng(seed), 0
        while done < n_tokens:
            for rows in torch.from_numpy(order.permutation(len(acts))).to(acts.device).split(BATCH):
                if done >= n_tokens:
                    break
                self._trainer.step(acts[rows], schedule.rate(done))
                done += len(rows)

    @torch.no_grad()
    def __call__(self, acts: Tensor) -> Tensor:
        """(n_tokens, d_model) reconstruction, in the units of `acts`."""
        trainer = self._trainer
        recon, _ = trainer.reconstruct(trainer.normalise(acts))
        return (recon / trainer.scale + trainer.centre).to(acts.dtype)
