"""Captured activations on disk, read a few contexts at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dmcore.store.disk import reserve

ACTS, META = "acts.npy", "meta.json"
TOKENS_PER_CHUNK = 4096
"""Tokens worked on at once; whole contexts, at least one."""


@dataclass(frozen=True)
class Chunk:
    """Some consecutive contexts."""

    first_context: int
    n_contexts: int
    length: int
    """Tokens in each context."""

    @property
    def rows(self) -> slice:
        """Where its tokens are among all tokens."""
        return slice(self.first_context * self.length, (self.first_context + self.n_contexts) * self.length)

    def contexts(self, device: torch.device) -> Tensor:
        """(n_tokens,) context of each token."""
        ids = torch.arange(self.first_context, self.first_context + self.n_contexts, device=device)
        return ids.repeat_interleave(self.length)

    def positions(self, device: torch.device) -> Tensor:
        """(n_tokens,) position of each token in its context."""
        return torch.arange(self.length, device=device).repeat(self.n_contexts)


def chunks_of(n_contexts: int, length: int, tokens: int = TOKENS_PER_CHUNK) -> Iterator[Chunk]:
    """Chunks of about `tokens` tokens that cover the contexts in order."""
    step = max(1, tokens // length)
    for first in range(0, n_contexts, step):
        yield Chunk(first, min(step, n_contexts - first), length)


class Activations:
    """Activations of one site, mapped from disk: (n_contexts * length, d_model)."""

    def __init__(self, folder: Path) -> None:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        self.n_contexts, self.length, self.d_model = (int(meta[k]) for k in ("n_contexts", "length", "d_model"))
        self.dtype: torch.dtype = getattr(torch, meta["dtype"])
        self._mapped = np.load(folder / ACTS, mmap_mode="r", allow_pickle=False)

    @property
    def n_tokens(self) -> int:
        """Tokens, those at skipped positions too."""
        return self.n_contexts * self.length

    def read(self, chunk: Chunk, device: torch.device) -> Float[Tensor, "n_tokens d_model"]:
        """The activations of a chunk, as float32 (float64 stays)."""
        copied = torch.from_numpy(np.array(self._mapped[chunk.rows]))
        if self.dtype == torch.bfloat16:
            copied = copied.view(torch.bfloat16)
        moved = copied.to(device)
        return moved if moved.dtype == torch.float64 else moved.float()

    def read_all(self, chunks: Sequence[Chunk], device: torch.device) -> Float[Tensor, "n_tokens d_model"]:
        """The activations of some chunks, one after the other."""
        if len(chunks) == 1:
            return self.read(chunks[0], device)
        first = self.read(chunks[0], device)
        x = first.new_empty(sum(chunk.n_contexts * chunk.length for chunk in chunks), self.d_model)
        done = 0
        for chunk in chunks:
            size = chunk.n_contexts * chunk.length
            x[done : done + size] = first if done == 0 else self.read(chunk, device)
            done += size
        return x

    def copy_into(self, chunk: Chunk, held: Tensor) -> None:
        """Copy the activations of a chunk, in the dtype in which they are stored, into (n_tokens, d_model) on the CPU."""
        target = held.view(torch.int16).numpy().view(np.uint16) if self.dtype == torch.bfloat16 else held.numpy()
        np.copyto(target, self._mapped[chunk.rows])

    def chunks(self) -> Iterator[Chunk]:
        """Chunks that cover all tokens in order."""
        return chunks_of(self.n_contexts, self.length)


class ActivationWriter:
    """Writes the activations of one site into a draft folder, contexts in order; goes on where a killed writer stopped."""

    PROGRESS = "progress.json"

    def __init__(self, folder: Path, n_contexts: int, length: int) -> None:
        self._folder, self._shape = folder, (n_contexts, length)
        self._mapped: np.memmap | None = None

    @staticmethod
    def contexts_done(folder: Path) -> int:
        """Contexts that are safely in a draft folder."""
        try:
            return int(json.loads((folder / ActivationWriter.PROGRESS).read_text(encoding="utf-8"))["contexts_done"])
        except (OSError, ValueError, KeyError):
            return 0

    def write(self, first_context: int, acts: Float[Tensor, "n_contexts length d_model"]) -> None:
        """Write the next contexts, then note that they are there."""
        if self._mapped is None:
            self._mapped = self._open(acts.shape[2], acts.dtype, resume=first_context > 0)
        host = acts.cpu()
        raw = host.view(torch.int16).numpy().view(np.uint16) if acts.dtype == torch.bfloat16 else host.numpy()
        length = self._shape[1]
        start = first_context * length
        self._mapped[start : start + acts.shape[0] * length] = raw.reshape(-1, acts.shape[2])
        self._mapped.flush()
        _write_atomically(self._folder / self.PROGRESS, {"contexts_done": first_context + acts.shape[0]})

    def _open(self, d_model: int, dtype: torch.dtype, *, resume: bool) -> np.memmap:
        n_contexts, length = self._shape
        stored = np.uint16 if dtype == torch.bfloat16 else np.dtype(str(dtype).removeprefix("torch."))
        path = self._folder / ACTS
        meta = {"n_contexts": n_contexts, "length": length, "d_model": d_model}
        _write_atomically(self._folder / META, {**meta, "dtype": str(dtype).removeprefix("torch.")})
        if resume:
            return np.lib.format.open_memmap(path, mode="r+")
        mapped = np.lib.format.open_memmap(path, mode="w+", dtype=stored, shape=(n_contexts * length, d_model))
        reserve(path)
        return mapped

    def finish(self) -> None:
        """Drop the note of progress: the manifest takes its place."""
        self._mapped = None
        (self._folder / self.PROGRESS).unlink(missing_ok=True)


def _write_atomically(path: Path, content: dict[str, object]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(path)
