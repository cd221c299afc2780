"""Training of SAEs whose sparsity comes from a penalty: Standard (L1), Gated and JumpReLU.

The losses follow Bricken et al. 2023 (Standard), Rajamanoharan et al. 2024a (Gated) and 2024b (JumpReLU); decoder rows
have unit norm, so that the L1 needs no weights. Autograd over dense activations, products in bfloat16.
"""

from __future__ import annotations

import math

import torch

from dmcore.training.lean.base import LeanTrainer
from dmcore.training.sae_trainer import ActivationStats
from dmcore.training.sparsity import BANDWIDTH, FIRST_L0, FIRST_L1, SparsityController, first_cut
from dmcore.training.target import SaeTarget


class PenalisedTrainer(LeanTrainer):
    """Mean squared error plus a coefficient times a sparsity penalty; subclasses define both."""

    first_coefficient = FIRST_L1
    """Where the controller starts."""

    def __init__(self, target: SaeTarget, stats: ActivationStats, peak_rate: float, seed: int, device: str) -> None:
        super().__init__(target, stats, peak_rate, seed, device)
        self.control = SparsityController(target.l0, self.first_coefficient)

    def extra_parameters(self, parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Start the deciding bias where L0 is at its target, so that the controller need not travel far."""
        parameters[self.bias_name] -= first_cut(self.target.l0, self.target.width)
        return {}

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reconstruction, activations, penalty (mean over tokens) and any further loss, of normalised `x`."""
        raise NotImplementedError

    def backward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients by autograd; moves the coefficient."""
        recon, active, penalty, further = self.forward(x)
        on = active.detach() > 0
        coefficient = self.control.follow(float(on.sum()) / len(x), self.rate)
        loss = (recon - x).square().mean() + coefficient * penalty + further
        loss.backward()
        return recon.detach(), on.any(0)

    def reconstruct(self, x: torch.Tensor) -> tuple[torch.Tensor, float]:
        """As in training."""
        recon, active, _, _ = self.forward(x)
        return recon, float((active > 0).sum()) / len(x)

    def control_state(self) -> dict[str, float]:
        """The controller."""
        return self.control.state()

    def restore_control(self, state: dict[str, float]) -> None:
        """The controller."""
        self.control.restore(state)

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """`x @ weight.T` in bfloat16, returned in float32."""
        import torch.nn.functional as F

        return F.linear(x.to(torch.bfloat16), weight.to(torch.bfloat16)).float()

    def decoded(self, active: torch.Tensor) -> torch.Tensor:
        """Reconstruction from dense activations."""
        return self.product(active, self.parameters["dec"].T) + self.parameters["b_dec"]


class StandardTrainer(PenalisedTrainer):
    """ReLU and L1."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """ReLU activations; the penalty is their sum, divided by d_in as the squared error is."""
        active = (self.product(x, self.parameters["enc"]) + self.parameters["b_enc"]).relu()
        return self.decoded(active), active, active.sum() / x.numel(), x.new_zeros(())


class GatedTrainer(PenalisedTrainer):
    """A gate that carries the L1, and a magnitude that does not."""

    bias_name = "b_gate"

    def extra_parameters(self, parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Magnitude path: log gain and bias."""
        super().extra_parameters(parameters)
        bias = parameters[self.bias_name]
        return {"r_mag": torch.zeros_like(bias), "b_mag": bias.clone()}

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The further loss reconstructs from the gate alone, decoder frozen, so that the gate learns."""
        p = self.parameters
        product = self.product(x, p["enc"])
        gate = (product + p["b_gate"]).relu()
        active = (gate > 0) * (product * p["r_mag"].exp() + p["b_mag"]).relu()
        from_gate = self.product(gate, p["dec"].T.detach()) + p["b_dec"].detach()
        further = (from_gate - x).square().mean()
        return self.decoded(active), active, gate.sum() / x.numel(), further

    def export(self) -> dict[str, torch.Tensor]:
        """Gated tensors."""
        p = {name: value.detach() for name, value in self.parameters.items()}
        b_mag = p["b_mag"] / self.scale - (p["enc"] @ self.centre) * p["r_mag"].exp()
        return super().export() | {"r_mag": p["r_mag"], "b_mag": b_mag}


class JumpReLUTrainer(PenalisedTrainer):
    """A threshold a latent, learned with a straight-through estimator, and an L0 penalty."""

    first_coefficient = FIRST_L0

    def extra_parameters(self, parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Logarithms of the thresholds."""
        return {
            "log_threshold": torch.full_like(
                parameters["b_enc"], math.log(first_cut(self.target.l0, self.target.width))
            )
        }

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The penalty is L0 divided by d_in."""
        p = self.parameters
        pre = self.product(x, p["enc"]) + p["b_enc"]
        active, on = jump_relu(pre, p["log_threshold"].exp(), BANDWIDTH)
        return self.decoded(active), active, on.sum() / x.numel(), x.new_zeros(())

    def export(self) -> dict[str, torch.Tensor]:
        """JumpReLU tensors."""
        return super().export() | {"threshold": self.parameters["log_threshold"].detach().exp() / self.scale}


def jump_relu(pre: torch.Tensor, threshold: torch.Tensor, bandwidth: float) -> tuple[torch.Tensor, torch.Tensor]:
    """`pre * (pre > threshold)` and `pre > threshold`, with the pseudo-derivatives of Rajamanoharan et al. 2024b, eq. 10.

    With K the rectangle of width `bandwidth` about the threshold, d active / d threshold is `-threshold / bandwidth * K`
    and d on / d threshold is `-1 / bandwidth * K`.
    """

    class _JumpReLU(torch.autograd.Function):
        @staticmethod
        def forward(ctx, pre, threshold):
            mask = pre > threshold
            ctx.save_for_backward(pre, threshold, mask)
            return pre * mask, mask.to(pre.dtype)

        @staticmethod
        def backward(ctx, grad_active, grad_on):
            pre, threshold, mask = ctx.saved_tensors
            near = (pre - threshold).abs() < bandwidth / 2
            pull = -(grad_active * threshold + grad_on) * near
            return grad_active * mask, pull.sum(0) / bandwidth

    return _JumpReLU.apply(pre, threshold)
