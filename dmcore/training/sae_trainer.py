"""What the loop asks of a trainer, whichever engine is under it.

Two engines make SAEs: `sae-lens`, SAELens's own training classes and losses for every architecture
(`dmcore.training.saelens_trainer`), and `lean`, the same architectures but Matryoshka, several times faster on a CPU
(`dmcore.training.lean`). Both see activations centred and scaled to unit variance a dimension, and store an SAE that reads
them as the model makes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dmcore.training.target import SaeTarget

_TOKENS_AT_ONCE = 4096


@dataclass(frozen=True)
class ActivationStats:
    """Moments of the activations at one hook."""

    mean: Float[Tensor, " d_in"]
    """Mean."""
    variance: float
    """Mean squared distance from the mean, divided by d_in."""

    @classmethod
    def of(cls, acts: Float[Tensor, "n_tokens d_in"]) -> ActivationStats:
        """From some activations; float64 sums."""
        n = len(acts)
        mean = sum((part.double().sum(0) for part in acts.split(_TOKENS_AT_ONCE)), torch.zeros(())) / n
        squares = sum(float((part.double() - mean).square().sum()) for part in acts.split(_TOKENS_AT_ONCE))
        return cls(mean.float(), squares / (n * acts.shape[1]))


class SaeTrainer:
    """One SAE in training; an engine's classes fill in what raises here."""

    def __init__(self, target: SaeTarget, stats: ActivationStats, peak_rate: float, device: str) -> None:
        self.target, self.device, self.peak_rate = target, device, peak_rate
        # A site that never varies trains nothing, but must not divide by zero: its FVU says what is wrong.
        self.centre, self.scale = stats.mean.to(device), max(stats.variance, 1e-30) ** -0.5

    def step(self, acts: Float[Tensor, "n_tokens d_in"], rate: float) -> Tensor:
        """One optimizer step at `rate` times the peak learning rate.

        Returns:
            A scalar on the device that is finite if the step was: reading it waits for the device, so the loop adds
            these up and reads the sum.
        """
        raise NotImplementedError

    def reconstruct(self, x: Float[Tensor, "n_tokens d_in"]) -> tuple[Tensor, float]:
        """Reconstruction of normalised `x` as the stored SAE will make it, and the mean number of active latents."""
        raise NotImplementedError

    def dead_share(self, window: int) -> float:
        """Share of latents that fired on none of the last `window` training tokens."""
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must keep, as tensors."""
        raise NotImplementedError

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Undo `tensors`."""
        raise NotImplementedError

    def control_state(self) -> dict[str, float]:
        """Numbers beyond the tensors that a checkpoint must keep."""
        return {}

    def restore_control(self, state: dict[str, float]) -> None:
        """Undo `control_state`."""

    def save(self, folder: Path, metadata: dict[str, Any]) -> None:
        """Write an ordinary SAELens folder that reads activations as the model makes them.

        `metadata` goes into `cfg.json` beside the hook's name.
        """
        raise NotImplementedError

    def normalise(self, acts: Float[Tensor, "n_tokens d_in"]) -> Tensor:
        """Activations as the parameters see them, float32."""
        return (acts.to(self.device).float() - self.centre) * self.scale

    @torch.no_grad()
    def fvu(self, acts: Float[Tensor, "n_tokens d_in"]) -> tuple[float, float]:
        """Quick FVU (pooled, about the mean) and L0 on some activations, in the precision of training."""
        error, total, active = 0.0, 0.0, 0.0
        mean = acts.float().mean(0).to(self.device)
        for part in acts.split(_TOKENS_AT_ONCE):
            x = self.normalise(part)
            recon, l0 = self.reconstruct(x)
            error += float((x - recon).square().sum()) / self.scale**2
            total += float((part.to(self.device).float() - mean).square().sum())
            active += l0 * len(part)
        return error / total if total else float("nan"), active / len(acts)


def saelens_metadata(target: SaeTarget, metadata: dict[str, Any]) -> dict[str, Any]:
    """What `cfg.json` says of where an SAE comes from: SAELens's own names, then ours."""
    return {"hook_name": target.hook, **metadata, "label": target.architecture}


def saelens_reshaping(hook: str) -> str:
    """Whether SAELens must flatten attention heads before this SAE: they were flat in training."""
    return "hook_z" if hook.endswith("hook_z") else "none"


def adam_tensors(named: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Parameters (`p.`) with Adam's moments (`m.`, `v.`) and step counts (`t.`)."""
    kept = {}
    for name, value in named.items():
        kept[f"p.{name}"] = value.detach()
        state = optimizer.state.get(value)
        if state:
            kept |= {f"m.{name}": state["exp_avg"], f"v.{name}": state["exp_avg_sq"], f"t.{name}": state["step"]}
    return kept


@torch.no_grad()
def restore_adam(
    named: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """Undo `adam_tensors`."""
    # A fused Adam keeps its count on the device, any other on the CPU.
    fused = bool(optimizer.param_groups[0].get("fused"))
    for name, value in named.items():
        value.copy_(tensors[f"p.{name}"])
        if f"m.{name}" in tensors:
            optimizer.state[value] = {
                "step": tensors[f"t.{name}"].to(value.device if fused else "cpu").clone(),
                "exp_avg": tensors[f"m.{name}"].to(value.device).clone(),
                "exp_avg_sq": tensors[f"v.{name}"].to(value.device).clone(),
            }
