"""What the training of every SAE architecture shares.

1. Activations are centred and scaled to unit variance a dimension; `export` undoes both in the weights.
2. Parameters are float32, encoder and decoder both (d_sae, d_in); decoder rows keep unit norm.
3. Latents that have not fired for `DEAD_AFTER` tokens learn to reconstruct the error (AuxK, Gao et al. 2024, 2.3),
   as many of them at a time as the SAE has active latents: with more, each learns values too small to be chosen again.
4. Adam, with the learning rate that the schedule asks for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dmcore.training.lean.files import save_lean
from dmcore.training.lean.sparse_step import decode, gradients, pre_activations, top_k_codes
from dmcore.training.sae_trainer import ActivationStats, SaeTrainer, adam_tensors, restore_adam
from dmcore.training.sparsity import FIRST_ENCODER_NORM
from dmcore.training.target import SaeTarget

DEAD_AFTER = 200_000
"""Tokens without firing after which a latent gets the auxiliary loss."""
_AUX_WEIGHT, _AUX_SHARE = 1 / 8, 0.25
_BETAS, _EPS = (0.9, 0.999), 1e-8


class LeanTrainer(SaeTrainer):
    """Parameters, optimizer and dead-latent care of one SAE; subclasses add the loss."""

    bias_name = "b_enc"
    """The encoder bias that decides whether a latent fires."""

    def __init__(self, target: SaeTarget, stats: ActivationStats, peak_rate: float, seed: int, device: str) -> None:
        super().__init__(target, stats, peak_rate, device)
        self.rate = 0.0
        generator = torch.Generator().manual_seed(seed)
        dec = torch.randn(target.width, len(stats.mean), generator=generator)
        dec = dec / dec.norm(dim=1, keepdim=True)
        b_enc, b_dec = torch.zeros(target.width), torch.zeros(len(stats.mean))
        parameters = {"enc": FIRST_ENCODER_NORM * dec, "dec": dec, self.bias_name: b_enc, "b_dec": b_dec}
        parameters |= self.extra_parameters(parameters)
        self.parameters = {name: torch.nn.Parameter(value.to(device)) for name, value in parameters.items()}
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=peak_rate, betas=_BETAS, eps=_EPS, fused=True)
        self.since_fired = torch.zeros(target.width, dtype=torch.int64, device=device)

    # What a subclass defines.

    def extra_parameters(self, parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """Parameters beyond encoder, decoder, the deciding bias and b_dec, given those."""
        return {}

    def backward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Set the gradient of every parameter for normalised `x`; returns the reconstruction and which latents fired."""
        raise NotImplementedError

    def export(self) -> dict[str, torch.Tensor]:
        """SAELens tensors for activations as the model makes them."""
        p = {name: value.detach() for name, value in self.parameters.items()}
        return {
            "W_enc": p["enc"].T.contiguous(),
            "W_dec": p["dec"].contiguous(),
            self.bias_name: p[self.bias_name] / self.scale - p["enc"] @ self.centre,
            "b_dec": p["b_dec"] / self.scale + self.centre,
        }

    # What all share.

    def step(self, acts: torch.Tensor, rate: float) -> torch.Tensor:
        """One optimizer step on (n_tokens, d_in) activations; returns a scalar that is finite if the step was."""
        self.rate = rate
        x = self.normalise(acts)
        recon, fired = self.backward(x)
        with torch.no_grad():
            dec = self.parameters["dec"]
            self.revive(x, recon)
            self.since_fired += len(x)
            self.since_fired[fired] = 0
            # The radial part of the gradient would only change norms, which are fixed.
            dec.grad -= (dec.grad * dec).sum(1, keepdim=True) * dec
            for group in self.optimizer.param_groups:
                group["lr"] = self.peak_rate * rate
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            dec /= dec.norm(dim=1, keepdim=True)
            return recon.sum()

    def dead_share(self, window: int) -> float:
        """Share of latents that fired on none of the last `window` training tokens."""
        return float((self.since_fired >= window).float().mean())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that a checkpoint must keep, as tensors."""
        return {"since_fired": self.since_fired, **adam_tensors(self.parameters, self.optimizer)}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Undo `tensors`."""
        self.since_fired = tensors["since_fired"].to(self.device)
        restore_adam(self.parameters, self.optimizer, tensors)

    def save(self, folder: Path, metadata: dict[str, Any]) -> None:
        """Write an ordinary SAELens folder, float32."""
        save_lean(self.target, {name: value.cpu() for name, value in self.export().items()}, folder, metadata)

    def revive(self, x: torch.Tensor, recon: torch.Tensor) -> None:
        """Add the gradients of the auxiliary loss of dead latents, taken on a quarter of the tokens."""
        dead = (self.since_fired > DEAD_AFTER).nonzero().squeeze(1)
        if len(dead) == 0:
            return
        n_rows = max(1, int(_AUX_SHARE * len(x)))
        some, error = x[:n_rows], (x - recon)[:n_rows]
        enc, dec = self.parameters["enc"].detach()[dead], self.parameters["dec"].detach()[dead]
        bias = self.parameters[self.bias_name]
        pre = pre_activations(some, enc, bias.detach()[dead], torch.bfloat16)
        codes = top_k_codes(pre, min(self.target.l0, len(dead)))
        grad = (decode(codes, codes.values, dec) - error) * (2 * _AUX_WEIGHT / error.numel())
        extra = gradients(codes, some, grad, dec)
        for parameter, gradient in zip(
            (self.parameters["enc"], self.parameters["dec"], bias), (extra.enc, extra.dec, extra.b_enc), strict=True
        ):
            assert parameter.grad is not None, "backward sets every gradient"
            parameter.grad.index_add_(0, dead, gradient)
