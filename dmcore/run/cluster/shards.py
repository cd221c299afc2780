"""Shards: ranges of contexts that are worked on by themselves, on whichever node is free.

They depend on the study alone, never on the number of nodes or on which of them were lost: so neither does any result. Where a
shard begins and ends, so does a batch of the local engine: activations and codes are the same bytes, and moments differ by the
order of addition alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmcore.analysis.activations import TOKENS_PER_CHUNK, Activations, Chunk
from dmcore.analysis.capture import CONTEXTS_PER_RUN_CUDA

LEAST_TOKENS = 2**14
SHARD = "shard"
"""Stage of the entries that hold the codes and the moments of a shard."""
VERSION = 1


@dataclass(frozen=True)
class Shard:
    """Contexts `first` to `last - 1`."""

    first: int
    last: int

    @property
    def n_contexts(self) -> int:
        """How many."""
        return self.last - self.first


class SomeContexts(Activations):
    """Activations of a site, of which the chunks of one shard are read."""

    def __init__(self, folder: Path, shard: Shard) -> None:
        super().__init__(folder)
        self.shard = shard

    @property
    def n_tokens(self) -> int:
        """Tokens of the shard."""
        return self.shard.n_contexts * self.length

    def chunks(self) -> Iterator[Chunk]:
        """Chunks that cover the shard in order, as those of all contexts do."""
        step = contexts_per_chunk(self.length)
        for first in range(self.shard.first, self.shard.last, step):
            yield Chunk(first, min(step, self.shard.last - first), self.length)


def contexts_per_chunk(length: int) -> int:
    """Contexts in a chunk of the local engine."""
    return max(1, TOKENS_PER_CHUNK // length)


@dataclass(frozen=True)
class Cut:
    """How contexts are cut. Only tests have use for other numbers than these: results of another cut differ in rounding."""

    least_tokens: int = LEAST_TOKENS
    """Of a shard: fewer are not worth the weights that are read for them."""
    contexts_per_run: int = CONTEXTS_PER_RUN_CUDA
    """A shard for the model has a multiple of this many contexts: whole batches of any device."""
    per_moment: float = 1.0
    """Bytes of activations in a shard of an SAE, at least, for each byte of its moments."""

    def for_model(self, n_contexts: int, length: int) -> list[Shard]:
        """Shards for the model."""
        return _cut(n_contexts, self.contexts_per_run, self.least_tokens // length)

    def for_sae(self, n_contexts: int, length: int, d_model: int, n_cells: int) -> list[Shard]:
        """Shards for an SAE, of whole chunks, not small beside their moments."""
        # float32 activations: 4 d_model bytes a token; float64 moments: 8 n_cells d_model^2 bytes.
        least = max(self.least_tokens, round(self.per_moment * 2 * n_cells * d_model))
        unit = min(contexts_per_chunk(length), self.contexts_per_run)
        return _cut(n_contexts, unit, least // length)


def _cut(n_contexts: int, unit: int, least: int) -> list[Shard]:
    """Shards of about equal size, at least `least` contexts, each but the last a multiple of `unit`."""
    units = math.ceil(n_contexts / unit)
    n_shards = max(1, min(units, n_contexts // max(1, least)))
    edges = [round(i * units / n_shards) * unit for i in range(n_shards)]
    return [Shard(first, last) for first, last in zip(edges, [*edges[1:], n_contexts], strict=True)]


def shard_spec(of: str, shard: Shard) -> dict[str, Any]:
    """The spec of what a shard gives to an entry, by the key of that entry."""
    return {"stage": SHARD, "version": VERSION, "of": of, "first": shard.first, "last": shard.last}
