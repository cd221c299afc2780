"""Activations made from known sparse features, and the pieces of the error of a known SAE of them.

1. `n_features` unit directions in `d_model` dimensions, far more than fit at right angles. Feature i is active with frequency
   `p_i ~ i^-exponent`, none above `MOST_OFTEN`, `density` of them a token; its value is exponential with mean 1.
2. They come together: features of a group share a Gaussian at each token, and one at each context (its topic), by a Gaussian
   copula. So tokens of a context are not independent, as in text.
3. A dense part: a Gaussian in a few dimensions. Circles: planes in which a point at a uniform angle is active at times, at a
   right angle to nothing; no finite set of directions holds them.
4. The known SAE reads the truth. It lacks some features; of the others it misses values below `THRESHOLD` and loses a share of
   each; of a circle it has `ARCS` directions and takes the nearest; it adds spurious features that are not in x at all.

Pieces are returned apart, so that `dmcore.math.mixtures` can mix any amount of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

THRESHOLD = 0.5
"""Values of a feature below this are missed."""
ARCS = 8
"""Directions that the known SAE has for a circle."""
N_SPURIOUS = 2
"""Features, any of all, that the known SAE adds at each token though they are not there."""
MOST_OFTEN = 0.5
"""No sparse feature is active more often."""
BLOCKS = 4
"""Features fall into so many blocks of one size, the most frequent first."""
SHARED_BY_CONTEXT, SHARED_BY_TOKEN = 0.2, 0.3
"""Correlation, before thresholding, of features of a group over contexts, and beyond that over tokens."""
INPUTS = (*(f"block_{k}" for k in range(BLOCKS)), "dense", "circles")
"""Pieces that activations are made of."""
OTHERS = (*(f"missed_{k}" for k in range(BLOCKS)), "arcs", "spurious")
"""Pieces of errors alone: values of a block below the threshold, circles less their nearest direction, spurious features."""


def frequencies(n_features: int, density: float, exponent: float) -> Tensor:
    """(n_features,) float64, descending: a power law that adds up to `density`, none above `MOST_OFTEN`."""
    law = torch.arange(1, n_features + 1, dtype=torch.float64) ** -exponent
    low, high = 0.0, density / float(law[-1]) + 1.0
    for _ in range(200):  # a scale by bisection: the sum of what is capped grows with it
        middle = (low + high) / 2
        low, high = (middle, high) if float((law * middle).clamp_max(MOST_OFTEN).sum()) < density else (low, middle)
    return (law * high).clamp_max(MOST_OFTEN)


@dataclass(frozen=True)
class World:
    """Where activations come from: directions and frequencies, drawn once."""

    directions: Tensor
    """(n_features, d_model) unit rows, the most frequent first."""
    frequency: Tensor
    """(n_features,)"""
    group: Tensor
    """(n_features,) group of each."""
    loading: Tensor
    """(n_dense, d_model) orthonormal rows."""
    planes: Tensor
    """(n_circles, 2, d_model) orthonormal pairs."""

    @classmethod
    def build(cls, d_model: int, n_features: int, density: float, *, exponent: float = 0.8, n_dense: int = 6,
              n_circles: int = 4, n_groups: int = 32, seed: int = 0) -> World:  # fmt: skip
        """Draw one; what does not depend on `density` is the same for every density of a seed."""
        g = torch.Generator().manual_seed(seed)
        directions = torch.randn(n_features, d_model, generator=g)
        group = torch.randperm(n_features, generator=g) % n_groups
        loading = torch.linalg.qr(torch.randn(d_model, n_dense, generator=g))[0].T
        planes = torch.stack([torch.linalg.qr(torch.randn(d_model, 2, generator=g))[0].T for _ in range(n_circles)])
        directions = directions / directions.norm(dim=1, keepdim=True)
        return cls(directions, frequencies(n_features, density, exponent), group, loading, planes)

    @property
    def d_model(self) -> int:
        """Dimensions of an activation."""
        return self.directions.shape[1]

    def values(self, n_contexts: int, length: int, g: torch.Generator) -> Tensor:
        """(n_contexts * length, n_features) values of the sparse features, 0 where a feature is not active."""
        n_groups = int(self.group.max()) + 1
        topic = torch.randn(n_contexts, n_groups, generator=g).repeat_interleave(length, 0)
        shared = torch.randn(n_contexts * length, n_groups, generator=g).mul_(math.sqrt(SHARED_BY_TOKEN))
        shared.add_(topic, alpha=math.sqrt(SHARED_BY_CONTEXT))
        level = torch.randn(n_contexts * length, len(self.group), generator=g)
        level.mul_(math.sqrt(1 - SHARED_BY_CONTEXT - SHARED_BY_TOKEN)).add_(shared[:, self.group])
        active = level > torch.special.ndtri(1 - self.frequency).float()
        values = torch.zeros_like(level)
        values[active] = torch.empty(int(active.sum())).exponential_(1.0, generator=g)
        return values

    def pieces(self, n_contexts: int, length: int, seed: int) -> dict[str, Tensor]:
        """(n_contexts * length, d_model) float32 of each of `INPUTS` and `OTHERS`."""
        g = torch.Generator().manual_seed(seed)
        n_tokens, n_features = n_contexts * length, len(self.group)
        values = self.values(n_contexts, length, g)
        weak = torch.where(values < THRESHOLD, values, torch.zeros_like(values))
        found, step = {}, n_features // BLOCKS
        for k in range(BLOCKS):
            some = slice(k * step, (k + 1) * step if k < BLOCKS - 1 else n_features)
            found[f"block_{k}"] = values[:, some] @ self.directions[some]
            found[f"missed_{k}"] = weak[:, some] @ self.directions[some]
        found["dense"] = torch.randn(n_tokens, len(self.loading), generator=g) @ self.loading
        found["circles"], found["arcs"] = self._circles(n_tokens, g)
        which = torch.randint(n_features, (n_tokens, N_SPURIOUS), generator=g)
        sizes = torch.empty(n_tokens, N_SPURIOUS).exponential_(1.0, generator=g)
        found["spurious"] = (sizes[..., None] * self.directions[which]).sum(1)
        return found

    def _circles(self, n_tokens: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """The circles, and what is left of them by the nearest of `ARCS` directions, at its best length."""
        shape = (n_tokens, len(self.planes))
        angle = 2 * math.pi * torch.rand(shape, generator=g)
        active = (torch.rand(shape, generator=g) < 1 / len(self.planes)).float()
        arc = 2 * math.pi / ARCS
        nearest = (angle / arc).round() * arc
        point = active[..., None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = torch.stack([nearest.cos(), nearest.sin()], dim=-1)
        left = point - (point * direction).sum(-1, keepdim=True) * direction
        planes = self.planes.reshape(-1, self.d_model)
        return point.flatten(1) @ planes, left.flatten(1) @ planes
