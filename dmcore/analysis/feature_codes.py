"""The stored codes of an SAE, latent by latent: an external transposition in bounded memory.

1. Count the active tokens of each latent; refuse what is no number, and codes that do not fit the texts.
2. Cut the latents into slabs that fit in memory (`ranges_of`), each with a place of known size in one temporary file.
3. Read the codes again, a few contexts at a time, and append each slab's entries to its place: (latent, token, value).
4. Read one slab after the other; a stable sort by latent leaves the tokens of each ascending.

Activations that are not above 0 (some SAEs have such) are left out, and counted.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from dmcore.analysis.activations import Chunk
from dmcore.analysis.codes import Codes
from dmcore.errors import DataError
from dmcore.math.sparse_codes import SparseCodes
from dmcore.math.transpose import by_group, ranges_of
from dmcore.progress import Reporter

ENTRIES_AT_ONCE = 2**21
"""Active latents that are read, or are in a slab, at once; at least one context, and one latent."""
LATENTS_AT_ONCE = 2048
"""Most latents of a slab: what is made for each of them is bounded too."""
ENTRY = np.dtype([("latent", "<u2"), ("token", "<u4"), ("value", "<f4")])
"""Of the temporary file; the latent is counted from the first of its slab."""
MOST_TOKENS = 2**32


@dataclass(frozen=True)
class Slab:
    """The active tokens of some consecutive latents, by latent, then by token."""

    first: int
    """Number of the first latent."""
    offsets: np.ndarray
    """(n_latents + 1,) where each latent's entries begin."""
    tokens: np.ndarray
    """(n,) uint32 numbers among all tokens, those at skipped positions too."""
    values: np.ndarray
    """(n,) float32 activations above 0."""

    @property
    def n_latents(self) -> int:
        """Latents."""
        return len(self.offsets) - 1

    @cached_property
    def local(self) -> np.ndarray:
        """(n,) uint16 latent of each entry, counted from `first`."""
        return np.repeat(np.arange(self.n_latents, dtype=np.uint16), np.diff(self.offsets))

    def kept(self, length: int, skip_positions: int) -> Slab:
        """The entries at kept positions alone."""
        if not skip_positions:
            return self
        mask = self.tokens % np.uint32(length) >= skip_positions
        offsets = np.zeros(self.n_latents + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.local[mask], minlength=self.n_latents), out=offsets[1:])
        return Slab(self.first, offsets, self.tokens[mask], self.values[mask])


class LatentMajor:
    """The codes of an SAE by latent, in a temporary file without a name. `close` it, or use it as a context manager.

    Args:
        codes: folder, as `dmcore.analysis.codes.CodesWriter` leaves it.
        d_sae: latents.
        n_contexts, length: of the texts.
        folder: where the temporary file is; it takes 10 bytes an active latent.
        reporter: told of progress, and asked whether to stop.

    Raises:
        DataError: the codes cannot be read, do not fit, or hold what is no number.
    """

    def __init__(self, codes: Path, d_sae: int, n_contexts: int, length: int, folder: Path, reporter: Reporter) -> None:
        if n_contexts * length > MOST_TOKENS:
            raise DataError(
                f"The texts have {n_contexts * length:,} tokens: browse features over at most 2^32 of them."
            )
        self._length, self.d_sae = length, d_sae
        self._codes = codes
        self._chunks, self._n_stored = _chunks(codes, n_contexts, length)
        self.left_out = 0
        """Stored activations that are not above 0."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - see close
        try:
            counts = self._count(reporter)
            self._bounds = ranges_of(counts, ENTRIES_AT_ONCE, LATENTS_AT_ONCE)
            ends = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
            self._places = ends[self._bounds]
            self._fill(reporter)
        except BaseException:
            self.close()
            raise

    @property
    def n_slabs(self) -> int:
        """Slabs of latents."""
        return len(self._bounds) - 1

    def slabs(self) -> Iterator[Slab]:
        """Every latent, in order, a slab at a time."""
        for number in range(self.n_slabs):
            first, last = (int(b) for b in self._bounds[number : number + 2])
            start, stop = (int(p) for p in self._places[number : number + 2])
            entries = np.empty(stop - start, dtype=ENTRY)
            view = memoryview(entries).cast("B") if len(entries) else memoryview(b"")
            done = 0
            while done < len(view):
                got = os.preadv(self._file.fileno(), [view[done:]], start * ENTRY.itemsize + done)
                if not got:
                    raise DataError("The temporary file of the features ends too early: see that the disk is not full.")
                done += got
            order, offsets = by_group(np.ascontiguousarray(entries["latent"]), last - first)
            tokens, values = (np.ascontiguousarray(entries[name]) for name in ("token", "value"))
            yield Slab(first, offsets, tokens[order], values[order])

    def close(self) -> None:
        """Give the room on the disk back."""
        self._file.close()

    def __enter__(self) -> LatentMajor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _entries(self, reporter: Reporter, name: str) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Latents, tokens and values above 0 of some contexts at a time, by token."""
        total = sum(chunk.n_contexts for chunk in self._chunks)
        with reporter.stage(name, total, "contexts") as stage:
            for chunk in self._chunks:
                found = _read(self._codes, chunk)
                latents, values = found.latents.numpy(), found.values.numpy()
                tokens = np.repeat(np.arange(chunk.rows.start, chunk.rows.stop, dtype=np.uint32), found.l0.numpy())
                if not np.isfinite(values).all():
                    raise DataError(
                        "The codes hold an activation that is NaN or infinite: check the SAE's weights, delete the codes and "
                        "encode again."
                    )
                above = values > 0
                if not above.all():
                    latents, tokens, values = latents[above], tokens[above], values[above]
                yield latents, tokens, values
                stage.advance(chunk.n_contexts)

    def _count(self, reporter: Reporter) -> np.ndarray:
        counts, stored = np.zeros(self.d_sae, dtype=np.int64), 0
        for latents, _, _ in self._entries(reporter, "active tokens of each latent"):
            if len(latents) and int(latents.max()) >= self.d_sae:
                raise DataError(
                    f"The codes have latent {int(latents.max()):,}, but the SAE has {self.d_sae:,}: they are of another SAE."
                )
            counts += np.bincount(latents, minlength=self.d_sae)
            stored += len(latents)
        self.left_out = self._n_stored - stored
        return counts

    def _fill(self, reporter: Reporter) -> None:
        slab_of = np.repeat(np.arange(self.n_slabs, dtype=np.uint16), np.diff(self._bounds))
        written = self._places[:-1].copy()
        for latents, tokens, values in self._entries(reporter, "codes by latent"):
            slabs = slab_of[latents]
            order, offsets = by_group(slabs, self.n_slabs)
            entries = np.empty(len(latents), dtype=ENTRY)
            entries["latent"] = (latents - self._bounds[slabs]).astype(np.uint16)[order]
            entries["token"], entries["value"] = tokens[order], values[order]
            for number in np.flatnonzero(np.diff(offsets)):
                some = entries[offsets[number] : offsets[number + 1]]
                _write(self._file.fileno(), memoryview(some).cast("B"), int(written[number]) * ENTRY.itemsize)
                written[number] += len(some)


def _read(codes: Path, chunk: Chunk) -> SparseCodes:
    # Opened anew each time: what stays mapped counts as memory of the process.
    try:
        return Codes(codes).read(chunk, torch.device("cpu"))
    except (OSError, ValueError) as error:
        raise _unreadable(codes) from error


def _write(file: int, data: memoryview, offset: int) -> None:
    # Written, not mapped: a full disk is then an error that can be caught.
    while data:
        done = os.pwrite(file, data, offset)
        data, offset = data[done:], offset + done


def _chunks(codes: Path, n_contexts: int, length: int) -> tuple[list[Chunk], int]:
    """Consecutive contexts, together until they have `ENTRIES_AT_ONCE` active latents; and how many there are in all."""
    try:
        ends = np.load(codes / "contexts.npy", allow_pickle=False)
        n_tokens = len(np.load(codes / "counts.npy", mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise _unreadable(codes) from error
    if len(ends) != n_contexts + 1 or n_tokens != n_contexts * length:
        raise DataError(
            f"The codes have {len(ends) - 1:,} contexts of {n_tokens:,} tokens, but the texts have {n_contexts:,} of "
            f"{n_contexts * length:,}: they are of other texts."
        )
    bounds = ranges_of(np.diff(ends), ENTRIES_AT_ONCE, max(1, ENTRIES_AT_ONCE // length))
    return [Chunk(int(a), int(b - a), length) for a, b in itertools.pairwise(bounds)], int(ends[-1])


def _unreadable(codes: Path) -> DataError:
    return DataError(f"The codes in {codes} cannot be read: delete that entry and encode the SAE again.")
