"""SAELens's own training SAEs, stepped by its own `SAETrainer`, many of them beside each other on one stream.

1. Activations come centred and scaled; the first weights are unit decoder rows and their transposes, and a bias or
   threshold that starts L0 at its target.
2. A step is `SAETrainer.step`: SAELens's losses, its clipping of gradients, Adam. The learning rate is the schedule's, and
   the coefficient of a sparsity penalty is the controller's (`sparsity`), which aims at the wanted L0.
3. Centre and scale are folded into the biases, decoder norms into the encoder, and SAELens saves the inference model:
   BatchTopK and Matryoshka become JumpReLU.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dmcore.training.sae_trainer import (
    ActivationStats,
    SaeTrainer,
    adam_tensors,
    restore_adam,
    saelens_metadata,
    saelens_reshaping,
)
from dmcore.training.sparsity import BANDWIDTH, FIRST_ENCODER_NORM, FIRST_L0, FIRST_L1, SparsityController, first_cut
from dmcore.training.target import SaeTarget

_PENALTIES = {"standard": ("l1", FIRST_L1), "gated": ("l1", FIRST_L1), "jumprelu": ("l0", FIRST_L0)}
"""Name and first value of the coefficient that the controller moves."""
_RATES = {"standard": 2e-3, "gated": 2e-3, "jumprelu": 2e-3}
_TOPK_RATE = 4e-3
_LEVELS = 5
_DEAD_SHARE_OF_TRAINING = 0.05
_DEAD_AFTER = 4_000_000


class SaeLensTrainer(SaeTrainer):
    """One of SAELens's training SAEs.

    Args:
        target: what to train.
        stats: moments of the activations.
        peak_rate: peak learning rate of Adam.
        seed: of the first weights.
        device: where it is trained.
        batch_tokens: tokens in a step.
        tokens: tokens of the whole training; sets after how many a latent counts as dead.
    """

    def __init__(
        self,
        target: SaeTarget,
        stats: ActivationStats,
        peak_rate: float,
        seed: int,
        device: str,
        batch_tokens: int,
        tokens: int,
    ) -> None:
        super().__init__(target, stats, peak_rate, device)
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        sae = _training_sae(target, len(stats.mean), device, tokens // batch_tokens)
        _initialise(sae, target, seed)
        dead_after = min(_DEAD_AFTER, int(_DEAD_SHARE_OF_TRAINING * tokens))
        config = SAETrainerConfig(
            total_training_samples=max(tokens, batch_tokens),
            train_batch_size_samples=batch_tokens,
            lr=peak_rate,
            lr_end=peak_rate,
            device=device,
            dead_feature_window=max(1, dead_after // batch_tokens),
            logger=LoggingConfig(log_to_wandb=False),
        )
        self.sae, self._trainer = sae, SAETrainer(config, sae, iter(()))
        self.since_fired = torch.zeros(target.width, dtype=torch.int64, device=device)
        name, first = _PENALTIES.get(target.architecture, ("", 0.0))
        self._coefficient = name
        # Thresholds move by no more than the learning rate a step, so that L0 answers slowly to an L0 penalty.
        eagerness = 2.0 if name == "l0" else 1.0
        self.control = SparsityController(target.l0, first, eagerness) if name else None
        self._next_coefficient = first

    def step(self, acts: Float[Tensor, "n_tokens d_in"], rate: float) -> Tensor:
        """One step of SAELens's trainer; returns the loss."""
        trainer = self._trainer
        for group in trainer.optimizer.param_groups:
            group["lr"] = self.peak_rate * rate
        if self.control is not None:
            scheduler = trainer.coefficient_schedulers[self._coefficient]
            scheduler.final_value = scheduler.current_value = self._next_coefficient
        output = trainer.step(self.normalise(acts))
        trainer.n_training_steps += 1
        fired = output.feature_acts.detach() > 0
        self.since_fired += len(acts)
        self.since_fired[fired.any(0)] = 0
        if self.control is not None:
            self._next_coefficient = self.control.follow(float(fired.sum()) / len(acts), rate)
        return output.loss.detach()

    @torch.no_grad()
    def reconstruct(self, x: Float[Tensor, "n_tokens d_in"]) -> tuple[Tensor, float]:
        """By threshold for what is stored as a JumpReLU, though it was trained by choosing from a batch."""
        active, pre = self.sae.encode_with_hidden_pre(x)
        if hasattr(self.sae, "topk_threshold"):
            active = pre.relu() * (pre > self.sae.topk_threshold)
        return self.sae.decode(active), float((active > 0).sum()) / len(x)

    def dead_share(self, window: int) -> float:
        """Share of latents that fired on none of the last `window` training tokens."""
        return float((self.since_fired >= window).float().mean())

    def tensors(self) -> dict[str, Tensor]:
        """Parameters with Adam's state, SAELens's running statistics, the threshold of BatchTopK."""
        trainer = self._trainer
        kept = {
            "since_fired": self.since_fired,
            "passes_since_fired": trainer.n_forward_passes_since_fired,
            **{f"b.{name}": value for name, value in self.sae.named_buffers()},
        }
        return kept | adam_tensors(dict(self.sae.named_parameters()), trainer.optimizer)

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Undo `tensors`."""
        self.since_fired = tensors["since_fired"].to(self.device)
        self._trainer.n_forward_passes_since_fired = tensors["passes_since_fired"].to(self.device)
        for name, value in self.sae.named_buffers():
            value.copy_(tensors[f"b.{name}"])
        restore_adam(dict(self.sae.named_parameters()), self._trainer.optimizer, tensors)

    def control_state(self) -> dict[str, float]:
        """Steps, the controller, and what it asks for next."""
        state = {"steps": float(self._trainer.n_training_steps), "next": self._next_coefficient}
        return state | (self.control.state() if self.control is not None else {})

    def restore_control(self, state: dict[str, float]) -> None:
        """Undo `control_state`."""
        self._trainer.n_training_steps = int(state["steps"])
        self._next_coefficient = state["next"]
        if self.control is not None:
            self.control.restore(state)

    def save(self, folder: Path, metadata: dict[str, Any]) -> None:
        """Fold the normalisation into a copy and let SAELens write its inference model."""
        from sae_lens.saes.sae import SAEMetadata

        sae = copy.deepcopy(self.sae).to("cpu")
        fold(sae, self.centre.cpu(), self.scale)
        sae.cfg.metadata = SAEMetadata(**saelens_metadata(self.target, metadata))
        sae.cfg.reshape_activations = saelens_reshaping(self.target.hook)
        sae.save_inference_model(folder)


def saelens_peak_rate(target: SaeTarget, d_in: int) -> float:
    """Peak learning rate: tried at d_in 128 and width 1024; lower for wider dictionaries (Gao et al. 2024, appendix A.3)
    and for more dimensions, whose unit rows have smaller entries."""
    rate = _RATES.get(target.architecture, _TOPK_RATE)
    return rate * min(1.0, (1024 / target.width) ** 0.25) * min(1.0, (128 / d_in) ** 0.5)


@torch.no_grad()
def fold(sae: Any, centre: Float[Tensor, " d_in"], scale: float) -> None:
    """Make a training SAE of `(acts - centre) * scale` one of `acts`, its decoder rows of unit norm.

    Every architecture here is homogeneous: with biases and thresholds divided by `scale`, latents are too, and the
    matrices stay. The decoder's bias, which SAELens subtracts from the input, takes the centre.
    """
    assert sae.cfg.apply_b_dec_to_input, "the centre is subtracted with b_dec"
    sae.fold_W_dec_norm()
    if hasattr(sae.cfg, "rescale_acts_by_decoder_norm"):
        # The norms are all 1 now; dividing by what rounding leaves of that would only add error.
        sae.cfg.rescale_acts_by_decoder_norm = False
    for name in ("b_enc", "b_gate", "b_mag", "threshold"):
        value = getattr(sae, name, None)
        if isinstance(value, torch.nn.Parameter):
            value.data.div_(scale)
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.div_(scale)
    sae.b_dec.data.div_(scale).add_(centre)


def _training_sae(target: SaeTarget, d_in: int, device: str, n_steps: int) -> Any:
    from sae_lens import (
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
        GatedTrainingSAE,
        GatedTrainingSAEConfig,
        JumpReLUTrainingSAE,
        JumpReLUTrainingSAEConfig,
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )

    width, l0 = target.width, target.l0
    # SAELens's running mean of the threshold starts at zero: a short training must forget that sooner.
    batchwise = {"k": float(l0), "topk_threshold_lr": min(0.1, max(0.01, 20 / max(1, n_steps)))}
    kind, config, options = {
        "topk": (TopKTrainingSAE, TopKTrainingSAEConfig, {"k": l0}),
        "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, batchwise),
        "matryoshka": (
            MatryoshkaBatchTopKTrainingSAE,
            MatryoshkaBatchTopKTrainingSAEConfig,
            {**batchwise, "matryoshka_widths": matryoshka_widths(width)},
        ),
        "standard": (StandardTrainingSAE, StandardTrainingSAEConfig, {}),
        "gated": (GatedTrainingSAE, GatedTrainingSAEConfig, {}),
        "jumprelu": (
            JumpReLUTrainingSAE,
            JumpReLUTrainingSAEConfig,
            # With the straight-through gradient to the encoder as well (Anthropic's variant), L0 comes to its target in
            # hundreds of steps instead of thousands.
            {
                "jumprelu_bandwidth": BANDWIDTH,
                "jumprelu_init_threshold": first_cut(l0, width),
                "jumprelu_ste_to_input": True,
            },
        ),
    }[target.architecture]
    common = {"d_in": d_in, "d_sae": width, "device": device, "dtype": "float32", "decoder_init_norm": 1.0}
    return kind(config(**common, **options))


def matryoshka_widths(width: int) -> list[int]:
    """The nested widths: a half, a quarter, ... of the whole, narrowest first, at most five."""
    return sorted({max(1, width >> level) for level in range(_LEVELS)})


@torch.no_grad()
def _initialise(sae: Any, target: SaeTarget, seed: int) -> None:
    """First weights from a generator of their own, since SAELens takes them from torch's global one."""
    generator = torch.Generator().manual_seed(target.seed(seed))
    dec = torch.randn(sae.W_dec.shape, generator=generator)
    dec /= dec.norm(dim=1, keepdim=True)
    sae.W_dec.copy_(dec)
    sae.W_enc.copy_(FIRST_ENCODER_NORM * dec.T)
    if target.architecture in {"standard", "gated"}:
        for name in ("b_enc", "b_gate", "b_mag"):
            if hasattr(sae, name):
                getattr(sae, name).sub_(first_cut(target.l0, target.width))
