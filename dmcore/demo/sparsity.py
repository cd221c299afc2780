"""Keeps an SAE whose sparsity is set by a penalty at a wanted L0, by adapting the penalty's coefficient."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    smoothed: float = 0.0
    """Running mean of L0; 0 before the first batch."""
    frozen: float = 0.0
    """The coefficient once it is frozen; 0 before."""

    def update(self, l0: float) -> float:
        """The coefficient for a batch with this L0."""
        if self.frozen:
            return self.frozen
        self.smoothed = l0 if not self.smoothed else self.smoothed + _SMOOTHING * (l0 - self.smoothed)
        distance = math.log(max(self.smoothed, 1e-3) / self.target)
        self.base *= math.exp(max(-_LARGEST_STEP, min(_LARGEST_STEP, _GAIN * distance)))
        return self.base * math.exp(max(-2.0, min(2.0, distance)))

    def freeze(self, coefficient: float) -> None:
        """Keep this coefficient from now on."""
        self.frozen = coefficient

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"base": self.base, "smoothed": self.smoothed, "frozen": self.frozen}

    def restore(self, state: dict[str, float]) -> None:
        """Undo `state`."""
        self.base, self.smoothed, self.frozen = state["base"], state["smoothed"], state["frozen"]
