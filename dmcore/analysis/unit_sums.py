"""Sums over the tokens of each bootstrap unit, from which intervals are made."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dmcore.math.bootstrap import bootstrap_units


class UnitSums:
    """Sums over the tokens of each bootstrap unit: a context, or a bundle of contexts."""

    def __init__(self, n_contexts: int, n_columns: int) -> None:
        self._unit_of = torch.from_numpy(bootstrap_units(n_contexts))
        self.sums = np.zeros((int(self._unit_of.max()) + 1, n_columns))

    def add(self, contexts: Tensor, values: Tensor) -> None:
        """Add tokens: `values` (n_tokens, n_columns). In the same order on every run, as a product with indicators is."""
        units, local = torch.unique(self._unit_of.to(contexts.device)[contexts], return_inverse=True)
        indicator = torch.zeros(units.numel(), contexts.numel(), dtype=torch.float64, device=contexts.device)
        indicator[local, torch.arange(contexts.numel(), device=contexts.device)] = 1.0
        self.sums[units.cpu().numpy()] += (indicator @ values.double()).cpu().numpy()
