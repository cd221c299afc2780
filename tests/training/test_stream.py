"""The stream: every context once an epoch, the same block whoever asks, and from disk what the model gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from dmcore.errors import DataError
from dmcore.training.stream import BLOCK_FLOATS, BLOCK_TOKENS, EpochOrder, Stream, batches, contexts_per_block


class Counting:
    """Activations that say which context and token they are."""

    def __init__(self, length: int = 5) -> None:
        self.length = length

    def read(self, rows: np.ndarray, hooks: Sequence[str]) -> dict[str, torch.Tensor]:
        context = torch.from_numpy(rows).repeat_interleave(self.length)
        token = torch.arange(self.length).repeat(len(rows))
        return {hook: torch.stack([context, token], 1).float() for hook in hooks}


def test_every_context_comes_once_an_epoch_in_another_order() -> None:
    contexts = np.arange(100, 117)
    order = EpochOrder(contexts, 5, seed=0)
    rows = np.concatenate([order.rows(i) for i in range(17)])  # 85 = 5 epochs of 17
    for context in contexts:
        assert (rows == context).sum() == 5
    first, second = np.sort(np.concatenate([order.rows(i) for i in range(3)])), order.rows(3)
    assert len(set(first)) == 15
    assert len(second) == 5
    assert not np.array_equal(EpochOrder(contexts, 5, seed=1).rows(0), order.rows(0))


def test_a_block_depends_on_its_number_and_seed_alone_and_is_shuffled_alike_at_every_hook() -> None:
    stream = Stream(Counting(), EpochOrder(np.arange(12), 4, seed=3), seed=3)
    stream.block(0, ["a"])
    late = stream.block(2, ["a", "b"])
    again = Stream(Counting(), EpochOrder(np.arange(12), 4, seed=3), seed=3).block(2, ["b"])
    assert torch.equal(late["a"], late["b"])
    assert torch.equal(late["b"], again["b"])
    in_order = Counting().read(EpochOrder(np.arange(12), 4, seed=3).rows(2), ["a"])["a"]
    assert not torch.equal(late["a"], in_order)
    assert sorted(map(tuple, late["a"].tolist())) == sorted(map(tuple, in_order.tolist()))


def test_activations_that_are_not_finite_stop_the_stream() -> None:
    class Broken(Counting):
        def read(self, rows: np.ndarray, hooks: Sequence[str]) -> dict[str, torch.Tensor]:
            found = super().read(rows, hooks)
            found["b"][3, 1] = float("nan")
            return found

    with pytest.raises(DataError, match="at b: use dtype"):
        Stream(Broken(), EpochOrder(np.arange(12), 4, seed=0), seed=0).block(0, ["a", "b"])


def test_batches_of_a_block_are_of_nearly_one_size() -> None:
    sizes = [len(batch) for batch in batches(torch.zeros(1000, 2), 256)]
    assert sizes == [250] * 4
    assert [len(batch) for batch in batches(torch.zeros(100, 2), 256)] == [100]
    assert sum(len(batch) for batch in batches(torch.zeros(1003, 2), 256)) == 1003


def test_blocks_are_as_large_as_memory_and_the_training_allow() -> None:
    assert contexts_per_block(10**8, 4096, 1000, 10**6, 4096) == pytest.approx(BLOCK_TOKENS / 1000, abs=1)
    wide = contexts_per_block(10**8, 4096, 1000, 10**6, 10 * 8192)
    assert wide * 1000 * 10 * 8192 <= 1.1 * BLOCK_FLOATS
    assert contexts_per_block(10**8, 4096, 1000, 7, 4096) == 7
    assert contexts_per_block(100, 10, 1000, 7, 64) == 1
