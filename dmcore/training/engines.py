"""A trainer by the name of its engine."""

from __future__ import annotations

from dmcore.specs import TrainSpec
from dmcore.training.lean import lean_trainer
from dmcore.training.sae_trainer import ActivationStats, SaeTrainer
from dmcore.training.saelens_trainer import SaeLensTrainer, saelens_peak_rate
from dmcore.training.target import SaeTarget


def new_trainer(engine: str, target: SaeTarget, stats: ActivationStats, train: TrainSpec, device: str) -> SaeTrainer:
    """A freshly initialised SAE.

    Raises:
        SpecError: the engine has no such architecture.
    """
    if engine == "lean":
        return lean_trainer(target, stats, train.seed, device, train.learning_rate)
    rate = train.learning_rate or saelens_peak_rate(target, len(stats.mean))
    return SaeLensTrainer(target, stats, rate, train.seed, device, train.batch_tokens, train.tokens)


def memory_of(target: SaeTarget, d_in: int, batch_tokens: int = 4096) -> int:
    """Bytes that an SAE in training takes, about: parameters, gradients, two moments, a copy to be stored, and the
    activations of a step."""
    return 4 * (5 * 2 * target.width * d_in + 4 * batch_tokens * target.width)
