"""A map fitted on one set of tokens, applied to another: what each token's squared error is then, from three products.

With `P = (x - m_B) W_A`, the error about its mean `E = e - mean_B e`, and the difference of the offsets
`o = (m_B - shift_A) W_A + offset_A - mean_B e`, all means being those of the training tokens of B:
    map      |E - P - o|^2 = |E - P|^2 - 2 (E - P) . o + |o|^2
    slope    |E - P|^2
    scaled   |E - s P|^2,  s = sum E . P / sum |P|^2 over the training tokens of B, from moments
Nothing is stacked: W_A comes from the moments of A, s and the means from those of B.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dmcore.math.linear_map import AffineMap, centred

KEPT = ("map", "slope", "scaled")
"""What is kept of a map, in the order of the columns."""


@dataclass(frozen=True)
class Home:
    """What is known of the training tokens of the place where maps are tested."""

    gram: Float[Tensor, "d_aug d_aug"]
    """`sum [x - shift, 1]^T [x - shift, 1]`."""
    cross: Float[Tensor, "d_aug d_target"]
    shift: Float[Tensor, " d_in"]

    @property
    def x_mean(self) -> Float[Tensor, " d_in"]:
        """Mean of x."""
        return self.shift + self.gram[-1, :-1] / self.gram[-1, -1]

    @property
    def error_mean(self) -> Float[Tensor, " d_target"]:
        """Mean of the error."""
        return self.cross[-1] / self.gram[-1, -1]


@dataclass(frozen=True)
class Guest:
    """A map as it is applied away from home."""

    scale: float
    """s; 0 where what the map predicts does not vary."""
    offset: Float[Tensor, " d_target"]
    """o."""


def visit(fitted: AffineMap, home: Home) -> Guest:
    """How a map meets the training tokens of a place."""
    weight = fitted.weight.double()
    scatter, slope_rhs = centred(home.gram, home.cross)
    predicted = float((weight * (scatter @ weight)).sum())
    scale = float((weight * slope_rhs).sum()) / predicted if predicted > 0 else 0.0
    offset = (home.x_mean - fitted.shift) @ weight + fitted.offset - home.error_mean
    return Guest(scale, offset)


def squared_errors(
    about: Float[Tensor, "n_tokens d_target"], predicted: Float[Tensor, "n_tokens d_target"], guest: Guest
) -> Float[Tensor, "n_tokens 3"]:
    """Of each token for each of `KEPT`.

    Args:
        about: E.
        predicted: P.
        guest: of the map that made P.
    """
    left = about - predicted
    slope = left.square().sum(1)
    offset = guest.offset.to(left.dtype)
    whole = slope - 2.0 * (left @ offset) + offset.square().sum()
    scaled = (about - guest.scale * predicted).square().sum(1)
    return torch.stack([whole, slope, scaled], dim=1).clamp_min(0.0)
