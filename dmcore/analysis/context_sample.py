"""Some contexts of a study, at equal steps, as a small study of their own: what is too slow on all of them runs on these.

1. `sample_of`: as many contexts as are asked for; more where a fold's training set would leave a linear map badly determined.
2. `ContextSample`: the activations, codes and folds of the sample, its contexts numbered from 0. Bootstrap units stay those of
   the study, so that a number of the sample has the replicates of every other number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dmcore.analysis.activations import Activations, Chunk
from dmcore.analysis.codes import Codes
from dmcore.analysis.partition import Partition
from dmcore.math.bootstrap import bootstrap_units
from dmcore.math.sparse_codes import SparseCodes, join_codes

TOKENS_PER_WEIGHT = 20
"""Training tokens of a fold for each weight of a dimension of the map from x, at least."""


def at_steps(of: Sequence[int], n: int) -> list[int]:
    """`n` of some numbers, at equal steps; all where there are no more."""
    where = np.unique(np.linspace(0, len(of) - 1, min(n, len(of))).round().astype(int)) if n else []
    return [int(of[i]) for i in where]


@dataclass(frozen=True)
class ContextSample:
    """Some contexts of a study."""

    contexts: tuple[int, ...]
    """Their numbers, ascending."""
    n_contexts: int
    """Of the study."""

    @property
    def is_whole(self) -> bool:
        """Whether these are all contexts."""
        return len(self.contexts) == self.n_contexts

    @property
    def units(self) -> np.ndarray:
        """(n_sampled,) bootstrap unit of each."""
        return bootstrap_units(self.n_contexts)[list(self.contexts)]

    @property
    def n_units(self) -> int:
        """Bootstrap units of the study."""
        return int(bootstrap_units(self.n_contexts).max()) + 1

    def acts(self, acts: Activations) -> Activations:
        """The activations of the sample."""
        return acts if self.is_whole else SampledActivations(acts, self)

    def partition(self, partition: Partition) -> Partition:
        """The folds of the sample."""
        return replace(partition, folds=partition.folds[list(self.contexts)])

    def codes(self, codes: Codes, chunk: Chunk, device: torch.device) -> SparseCodes:
        """The codes, stored for the study, of a chunk of the sample."""
        return join_codes([codes.read(one, device) for one in self.places(chunk)])

    def places(self, chunk: Chunk) -> list[Chunk]:
        """Where in the study the contexts of a chunk of the sample are."""
        if self.is_whole:
            return [chunk]
        numbers = self.contexts[chunk.first_context : chunk.first_context + chunk.n_contexts]
        return [Chunk(number, 1, chunk.length) for number in numbers]


class SampledActivations(Activations):
    """The activations of a sample, read from those of the study."""

    def __init__(self, acts: Activations, sample: ContextSample) -> None:
        self._acts, self._sample = acts, sample
        self.n_contexts, self.length, self.d_model = len(sample.contexts), acts.length, acts.d_model
        self.dtype = acts.dtype

    def read(self, chunk: Chunk, device: torch.device) -> Tensor:
        """The activations of a chunk of the sample."""
        return torch.cat([self._acts.read(one, device) for one in self._sample.places(chunk)])

    def copy_into(self, chunk: Chunk, held: Tensor) -> None:
        """As of the study's: a context of the sample after the other."""
        for number, one in enumerate(self._sample.places(chunk)):
            self._acts.copy_into(one, held[number * chunk.length : (number + 1) * chunk.length])


def sample_of(partition: Partition, kept: int, n: int, n_weights: int) -> ContextSample:
    """`n` contexts at equal steps, 0 for all; more, up to all, until every training set has `TOKENS_PER_WEIGHT` a weight.

    Args:
        partition: folds of all contexts.
        kept: tokens of a context that count.
        n_weights: of a dimension of the map from x.
    """
    n_contexts = len(partition.folds)
    n = n or n_contexts
    while True:
        chosen = at_steps(range(n_contexts), n)
        per_fold = np.bincount(partition.folds[chosen], minlength=partition.n_folds)
        if len(chosen) == n_contexts or (len(chosen) - per_fold.max()) * kept >= TOKENS_PER_WEIGHT * n_weights:
            return ContextSample(tuple(chosen), n_contexts)
        n = min(n_contexts, max(n + 1, n * 9 // 8))
