"""The partition of a study's tokens into cells: folds of whole contexts, and ranges of positions.

Moments are kept per cell, so that every choice of held-out fold and of skipped positions is a sum of cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmcore.analysis.activations import Chunk
from dmcore.math.folds import assign_folds
from dmcore.specs import Settings


@dataclass(frozen=True)
class Partition:
    """Which cell each token is in."""

    folds: np.ndarray
    """(n_contexts,) fold of each context."""
    n_folds: int
    edges: tuple[int, ...]
    """First position of each range, ascending; the first is 0."""

    @classmethod
    def of(cls, settings: Settings, n_contexts: int, length: int, seed: int) -> Partition:
        """The partition that a study's settings ask for."""
        folds = assign_folds(np.full(n_contexts, length), settings.n_folds, seed)
        skips = {0, settings.skip_positions, *(s for s in settings.compare_skips if s < length)}
        return cls(folds, settings.n_folds, tuple(sorted(skips)))

    @property
    def n_cells(self) -> int:
        """Folds times ranges of positions."""
        return self.n_folds * len(self.edges)

    def spec(self) -> dict[str, object]:
        """What determines the moments: goes into their keys."""
        return {"folds": self.folds.tolist(), "n_folds": self.n_folds, "edges": list(self.edges)}

    def cells(self, chunk: Chunk, device: torch.device) -> Tensor:
        """(n_tokens,) cell of each token of a chunk."""
        edges = torch.tensor(self.edges[1:], device=device, dtype=torch.int64)
        ranges = torch.bucketize(chunk.positions(device), edges, right=True)
        return self.token_folds(chunk, device) * len(self.edges) + ranges

    def token_folds(self, chunk: Chunk, device: torch.device) -> Tensor:
        """(n_tokens,) fold of each token of a chunk."""
        return torch.from_numpy(self.folds).to(device)[chunk.contexts(device)]

    def cells_of_fold(self, skip_positions: int) -> list[list[int]]:
        """For each fold, the cells that hold its tokens from position `skip_positions` on."""
        kept = [i for i, edge in enumerate(self.edges) if edge >= skip_positions]
        return [[fold * len(self.edges) + i for i in kept] for fold in range(self.n_folds)]
