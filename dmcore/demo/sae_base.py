"""What the training of every SAE architecture shares.

1. Activations are centred and scaled to unit variance a dimension; `export` undoes both in the weights.
2. Parameters are float32, encoder and decoder both (d_sae, d_in); decoder rows keep unit norm.
3. Latents that have not fired for `DEAD_AFTER` tokens learn to reconstruct the error (AuxK, Gao et al. 2024, 2.3),
   as many of them at a time as the SAE has active latents: with more, each learns values too small to be chosen again.
4. Adam, with the learning rate that the schedule asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dmcore.demo.sparse_step import decode, gradients, pre_activations, top_k_codes

if TYPE_CHECKING:
    import torch

    from dmcore.demo.sae_plan import SaeSpec

DEAD_AFTER = 200_000
"""Tokens without firing after which a latent gets the auxiliary loss."""
_AUX_WEIGHT, _AUX_SHARE = 1 / 8, 0.25
_BETAS, _EPS = (0.9, 0.999), 1e-8
# Below 1, since the k random rows that fire together overlap and would overshoot.
_FIRST_ENCODER_NORM = 0.6


@dataclass(frozen=True)
class ActivationStats:
    """Moments of the activations at one hook, from the first block of the stream."""

    mean: torch.Tensor
    """(d_in,) mean."""
    variance: float
    """Mean squared distance from the mean, divided by d_in."""

    @classmethod
    def of(cls, acts: torch.Tensor) -> ActivationStats:
        """From (n_tokens, d_in) activations."""
        mean = acts.double().mean(0)
        return cls(mean.float(), float((acts.double() - mean).square().mean()))


class SaeTraining:
    """Parameters, optimizer and dead-latent care of one SAE; subclasses add the loss."""

    bias_name = "b_enc"
    """The encoder bias that decides whether a latent fires."""

    def __init__(self, spec: SaeSpec, stats: ActivationStats, peak_rate: float, seed: int, device: str) -> None:
        import torch

        self.spec, self.device = spec, device
        self.centre, self.scale = stats.mean.to(device), stats.variance**-0.5
        self.peak_rate, self.rate = peak_rate, 0.0
        generator = torch.Generator().manual_seed(seed)
        dec = torch.randn(spec.width, len(stats.mean), generator=generator)
        dec = dec / dec.norm(dim=1, keepdim=True)
        b_enc, b_dec = torch.zeros(spec.width), torch.zeros(len(stats.mean))
        parameters = {"enc": _FIRST_ENCODER_NORM * dec, "dec": dec, self.bias_name: b_enc, "b_dec": b_dec}
        parameters |= self.extra_parameters(parameters)
        self.parameters = {name: torch.nn.Parameter(value.to(device)) for name, value in parameters.items()}
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=peak_rate, betas=_BETAS, eps=_EPS, fused=True)
        self.since_fired = torch.zeros(spec.width, dtype=torch.int64, device=device)

    # What a subclass defines.

    def extra_parameters(self, parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """Parameters beyond encoder, decoder, the deciding bias and b_dec, given those."""
        return {}

    def backward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Set the gradient of every parameter for normalised `x`; returns the reconstruction and which latents fired."""
        raise NotImplementedError

    def reconstruct(self, x: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Reconstruction of normalised `x` as the stored SAE will make it, and the mean number of active latents."""
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

    def normalise(self, acts: torch.Tensor) -> torch.Tensor:
        """Activations as the parameters see them."""
        return (acts.to(self.device) - self.centre) * self.scale

    def control_state(self) -> dict[str, float]:
        """Numbers beyond the parameters that a checkpoint must keep."""
        return {}

    def restore_control(self, state: dict[str, float]) -> None:
        """Undo `control_state`."""

    # What all share.

    def step(self, acts: torch.Tensor, rate: float) -> None:
        """One optimizer step on (n_tokens, d_in) activations at `rate` times the peak learning rate."""
        import torch

        self.rate = rate
        x = self.normalise(acts)
        recon, fired = self.backward(x)
        with torch.no_grad():
            dec = self.parameters["dec"]
            self._revive(x, recon)
            self.since_fired += len(x)
            self.since_fired[fired] = 0
            # The radial part of the gradient would only change norms, which are fixed.
            dec.grad -= (dec.grad * dec).sum(1, keepdim=True) * dec
            for group in self.optimizer.param_groups:
                group["lr"] = self.peak_rate * rate
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            dec /= dec.norm(dim=1, keepdim=True)

    def fvu(self, acts: torch.Tensor) -> tuple[float, float]:
        """Quick FVU (pooled, about the mean) and L0 on some activations, in the precision of training."""
        import torch

        error, total, active = 0.0, 0.0, 0.0
        mean = acts.mean(0)
        with torch.no_grad():
            for part in acts.split(4096):
                x = self.normalise(part)
                recon, l0 = self.reconstruct(x)
                error += float((x - recon).square().sum()) / self.scale**2
                total += float((part - mean).square().sum())
                active += l0 * len(part)
        return error / total, active / len(acts)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that a checkpoint must keep, as tensors."""
        kept = {"since_fired": self.since_fired}
        for name, value in self.parameters.items():
            state = self.optimizer.state.get(value)
            kept[f"p.{name}"] = value.detach()
            if state:
                kept |= {f"m.{name}": state["exp_avg"], f"v.{name}": state["exp_avg_sq"], f"t.{name}": state["step"]}
        return kept

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Undo `tensors`."""
        import torch

        self.since_fired = tensors["since_fired"].to(self.device)
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(tensors[f"p.{name}"])
                if f"m.{name}" in tensors:
                    self.optimizer.state[value] = {
                        "step": tensors[f"t.{name}"].to(self.device).clone(),
                        "exp_avg": tensors[f"m.{name}"].to(self.device).clone(),
                        "exp_avg_sq": tensors[f"v.{name}"].to(self.device).clone(),
                    }

    def _revive(self, x: torch.Tensor, recon: torch.Tensor) -> None:
        """Add the gradients of the auxiliary loss of dead latents, taken on a quarter of the tokens."""
        import torch

        dead = (self.since_fired > DEAD_AFTER).nonzero().squeeze(1)
        if len(dead) == 0:
            return
        n_rows = max(1, int(_AUX_SHARE * len(x)))
        some, error = x[:n_rows], (x - recon)[:n_rows]
        enc, dec = self.parameters["enc"].detach()[dead], self.parameters["dec"].detach()[dead]
        bias = self.parameters[self.bias_name]
        pre = pre_activations(some, enc, bias.detach()[dead], torch.bfloat16)
        codes = top_k_codes(pre, min(self.spec.l0, len(dead)))
        grad = (decode(codes, codes.values, dec) - error) * (2 * _AUX_WEIGHT / error.numel())
        extra = gradients(codes, some, grad, dec)
        for parameter, gradient in zip(
            (self.parameters["enc"], self.parameters["dec"], bias), (extra.enc, extra.dec, extra.b_enc), strict=True
        ):
            assert parameter.grad is not None, "backward sets every gradient"
            parameter.grad.index_add_(0, dead, gradient)
