"""Keeps an SAE whose sparsity is set by a penalty at a wanted L0, by adapting the penalty's coefficient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

FIRST_L1, FIRST_L0 = 2.0, 0.02
"""First coefficients of an L1 and of an L0 penalty, each a sum over latents beside the squared error's sum over
dimensions, for activations of unit variance a dimension."""
FIRST_ENCODER_NORM = 0.6
"""Norm of the encoder rows at first: below 1, since the k random rows that fire together overlap and would overshoot."""
BANDWIDTH = 0.3
"""Width of JumpReLU's straight-through estimator, in the same units."""
_FREEZE_BELOW = 0.5
_SMOOTHING, _GAIN, _LARGEST_STEP = 0.05, 0.01, 0.01


@dataclass
class SparsityController:
    """A proportional-integral controller in the logarithm of coefficient and L0.

    The integral part finds the coefficient; the proportional part damps the swings that its lag would cause.
    """

    target: float
    """Wanted active latents a token."""
    base: float
    """Integral part of the coefficient."""
    eagerness: float = 1.0
    """Factor of both gains: above 1 where L0 answers slowly."""
    smoothed: float = 0.0
    """Running mean of L0; 0 before the first batch."""
    frozen: float = 0.0
    """The coefficient once it is frozen; 0 before."""
    warm: bool = False
    """Whether the learning rate has been at its peak."""

    def follow(self, l0: float, rate: float) -> float:
        """The coefficient for a batch with this L0, at `rate` times the peak learning rate.

        It is frozen halfway down the final decay, where the parameters no longer answer to it.
        """
        coefficient = self.update(l0)
        if rate < _FREEZE_BELOW and self.warm and not self.frozen:
            self.freeze(coefficient)
        self.warm = self.warm or rate >= 1.0
        return coefficient

    def update(self, l0: float) -> float:
        """The coefficient for a batch with this L0."""
        if self.frozen:
            return self.frozen
        self.smoothed = l0 if not self.smoothed else self.smoothed + _SMOOTHING * (l0 - self.smoothed)
        distance = math.log(max(self.smoothed, 1e-3) / self.target)
        self.base *= math.exp(self.eagerness * max(-_LARGEST_STEP, min(_LARGEST_STEP, _GAIN * distance)))
        return self.base * math.exp(max(-2.0, min(2.0, self.eagerness * distance)))

    def freeze(self, coefficient: float) -> None:
        """Keep this coefficient from now on."""
        self.frozen = coefficient

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {
            "base": self.base,
            "smoothed": self.smoothed,
            "frozen": self.frozen,
            "warm": float(self.warm),
        }

    def restore(self, state: dict[str, float]) -> None:
        """Undo `state`."""
        self.base, self.smoothed, self.frozen = state["base"], state["smoothed"], state["frozen"]
        self.warm = bool(state["warm"])


def first_cut(l0: float, width: int, norm: float = FIRST_ENCODER_NORM) -> float:
    """The pre-activation that a share l0 / width of random encoder rows exceeds, for activations of unit variance.

    A bias or threshold there starts L0 at its target, so that the controller need not travel far.
    """
    # A threshold of zero has no logarithm, and cuts nothing.
    return max(1e-3, norm * NormalDist().inv_cdf(1 - min(0.5, l0 / width)))
