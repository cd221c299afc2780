"""Activations on their way to a GPU while it works on those before: pinned memory, used in turn, and a stream of their own.

1. A thread copies the next group of chunks from the mapped file into one of `SLOTS` pinned buffers, as they are stored.
2. A side stream copies the buffer to the device; an event says when the buffer is free again, another when the copy is there.
3. The main stream waits for that event, not the host, and makes float32 of what arrived.

On a CPU there is nothing to move: groups are read when they are asked for. `Leaving` is the way back, of sparse codes: their
copy to the host is started when they are made, and waited for one group later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmcore.analysis.activations import Activations, Chunk
from dmcore.math.sparse_codes import SparseCodes

SLOTS = 2
"""Groups on their way at once."""

Group = Sequence[Chunk]


def n_tokens_of(chunks: Group) -> int:
    """Tokens of some chunks."""
    return sum(chunk.n_contexts * chunk.length for chunk in chunks)


class _Slot:
    """A pinned buffer, and when it may be written again."""

    def __init__(self, pinned: bool) -> None:
        self._pinned = pinned
        self._buffer = torch.empty(0)
        self.free: Any = None
        """The event after which the device has read it; None where it never did."""

    def filled(self, acts: Activations, chunks: Group) -> Tensor:
        """The stored activations of some chunks in it; waits until its former content has been read."""
        if self.free is not None:
            self.free.synchronize()
        rows, dtype = n_tokens_of(chunks), acts.dtype
        if self._buffer.dtype != dtype or self._buffer.numel() < rows * acts.d_model:
            self._buffer = torch.empty(rows * acts.d_model, dtype=dtype, pin_memory=self._pinned)
        held, done = self._buffer[: rows * acts.d_model].view(rows, acts.d_model), 0
        for chunk in chunks:
            size = chunk.n_contexts * chunk.length
            acts.copy_into(chunk, held[done : done + size])
            done += size
        return held


class _Stream:
    """Copies to a CUDA device beside its work."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def send(self, slot: _Slot, held: Tensor) -> Tensor:
        """Start a copy; what the caller does with it on the current stream comes after it."""
        with torch.cuda.stream(self._stream):
            sent = torch.empty(held.shape, dtype=held.dtype, device=self._device)
            sent.copy_(held, non_blocking=True)
            slot.free = self._stream.record_event()
        return sent

    def arrive(self, slot: _Slot, sent: Tensor) -> Tensor:
        """The copy, for the current stream."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(slot.free)
        sent.record_stream(current)  # or its memory could be given away while the work on it waits
        return sent


class _Here:
    """The same where buffer and work are on one device, for tests: a copy at once."""

    def send(self, slot: _Slot, held: Tensor) -> Tensor:  # noqa: ARG002 - as of `_Stream`
        return held.clone()

    def arrive(self, slot: _Slot, sent: Tensor) -> Tensor:  # noqa: ARG002
        return sent


def read_groups(
    acts: Activations, groups: Sequence[Group], device: torch.device, *, ahead: bool | None = None
) -> Iterator[tuple[Group, Tensor]]:
    """Groups of chunks with their activations (n_tokens, d_model) on a device, float32 (float64 stays), in order.

    Args:
        acts: where they are stored.
        groups: of chunks.
        device: where they go.
        ahead: whether to read and send the next ones meanwhile; None: on GPUs.
    """
    if not (device.type == "cuda" if ahead is None else ahead):
        for chunks in groups:
            yield chunks, acts.read_all(chunks, device)
        return
    on_gpu = device.type == "cuda"
    way, slots = _Stream(device) if on_gpu else _Here(), [_Slot(on_gpu) for _ in range(SLOTS)]

    def fetch(number: int) -> Tensor:
        slot = slots[number % SLOTS]
        return way.send(slot, slot.filled(acts, groups[number]))

    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        coming: list[Future[Tensor]] = [reader.submit(fetch, number) for number in range(min(SLOTS, len(groups)))]
        try:
            for number, chunks in enumerate(groups):
                x = way.arrive(slots[number % SLOTS], coming.pop(0).result())
                if number + SLOTS < len(groups):
                    coming.append(reader.submit(fetch, number + SLOTS))
                yield chunks, x if x.dtype == torch.float64 else x.float()
                del x
        finally:
            for future in coming:
                future.cancel()


@dataclass
class Leaving:
    """Codes on their way to the host."""

    codes: SparseCodes
    """On the host, once `wait` has returned."""
    chunk: Chunk
    _there: Any = None

    @classmethod
    def start(cls, codes: SparseCodes, chunk: Chunk) -> Leaving:
        """Begin the copy, behind the work that makes them."""
        if codes.values.device.type != "cuda":
            return cls(codes, chunk)
        parts = [
            torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in (codes.offsets, codes.latents, codes.values)
        ]
        for host, made in zip(parts, (codes.offsets, codes.latents, codes.values), strict=True):
            host.copy_(made, non_blocking=True)
        there = torch.cuda.current_stream(codes.values.device).record_event()
        return cls(SparseCodes(*parts), chunk, there)

    def wait(self) -> Leaving:
        """Until they are there."""
        if self._there is not None:
            self._there.synchronize()
        return self
