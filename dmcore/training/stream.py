"""The stream of activations that SAEs are trained on: blocks of contexts, each block's tokens in random order.

1. The contexts are read in the order of a permutation, another one every epoch (`EpochOrder`).
2. `block(i)` is the next so many contexts, at every hook asked for, without the skipped positions, tokens shuffled.

A block depends on its number and the seed alone, however many blocks came before it and whether its activations come from
the model or from disk: that is what a training resumes by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dmcore.errors import DataError

BLOCK_TOKENS = 2**18
"""Tokens in a block, where they fit."""
BLOCK_FLOATS = 2**30
"""Most numbers in a block, over all hooks."""
BLOCKS_PER_TRAINING = 20
"""Blocks of a short training, so that it has a curve."""
SAMPLE_CONTEXTS = 64
"""Contexts from which centre and scale are taken."""


class Reader(Protocol):
    """Where activations come from."""

    def read(self, rows: np.ndarray, hooks: Sequence[str]) -> dict[str, Float[Tensor, "n_tokens d_in"]]:
        """By hook: the activations of some contexts, context by context, without the skipped positions."""
        ...


class Order(Protocol):
    """Which contexts a block holds."""

    def rows(self, index: int) -> np.ndarray:
        """Numbers of the contexts of a block."""
        ...


@dataclass(frozen=True)
class EpochOrder:
    """Random blocks of some contexts, each once an epoch."""

    contexts: np.ndarray
    """(n_contexts,) numbers of those that may be used."""
    block_contexts: int
    """In a block."""
    seed: int

    def rows(self, index: int) -> np.ndarray:
        """Numbers of the contexts of a block, ascending: that is the order in which a disk gives them fastest."""
        n, found = len(self.contexts), []
        start, stop = index * self.block_contexts, (index + 1) * self.block_contexts
        while start < stop:
            epoch, first = divmod(start, n)
            taken = min(stop - start, n - first)
            order = np.random.default_rng((self.seed, epoch)).permutation(n)
            found.append(self.contexts[order[first : first + taken]])
            start += taken
        return np.sort(np.concatenate(found))


@dataclass(frozen=True)
class Stream:
    """Blocks of activations."""

    reader: Reader
    order: Order
    seed: int

    def block(self, index: int, hooks: Sequence[str]) -> dict[str, Float[Tensor, "n_tokens d_in"]]:
        """The activations of a block, tokens shuffled; the same order at every hook.

        Raises:
            DataError: an activation is NaN or infinite.
        """
        acts = self.reader.read(self.order.rows(index), hooks)
        found = {}
        for hook, tensor in acts.items():
            if not bool(torch.isfinite(tensor).all()):
                raise DataError(
                    f"The model gave NaN or infinity at {hook}: use dtype float32 or bfloat16, and check the weights."
                )
            shuffled = np.random.default_rng((self.seed, index)).permutation(len(tensor))
            found[hook] = tensor[torch.from_numpy(shuffled).to(tensor.device)]
        return found

    def sample(self, hooks: Sequence[str]) -> dict[str, Float[Tensor, "n_tokens d_in"]]:
        """Some contexts of the first block, evenly spread over it."""
        rows = self.order.rows(0)
        return self.reader.read(rows[:: max(1, len(rows) // SAMPLE_CONTEXTS)], hooks)


def contexts_per_block(tokens: int, batch_tokens: int, used_length: int, n_contexts: int, total_width: int) -> int:
    """How many contexts a block has.

    Args:
        tokens: of the whole training.
        batch_tokens: in a step.
        used_length: tokens that a context gives.
        n_contexts: that there are to train on.
        total_width: dimensions of all hooks together.
    """
    wanted = min(BLOCK_TOKENS, BLOCK_FLOATS // total_width, max(4 * batch_tokens, tokens // BLOCKS_PER_TRAINING))
    return max(1, min(n_contexts, round(max(wanted, batch_tokens) / used_length)))


def batches(acts: Float[Tensor, "n_tokens d_in"], batch_tokens: int) -> tuple[Tensor, ...]:
    """A block cut into batches of about this size, all of nearly the same: a short last one would be a noisy step."""
    return torch.tensor_split(acts, max(1, round(len(acts) / batch_tokens)))
