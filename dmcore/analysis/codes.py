"""Sparse codes on disk: six bytes per active latent and two per token (and per 65,536 latents of width).

`latents.npy` holds each latent's index within its slab of 65,536 (uint16), `values.npy` its activation (float32),
`counts.npy` how many latents each token has in each slab, `contexts.npy` where each context begins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmcore.analysis.activations import Chunk
from dmcore.errors import DataError
from dmcore.math.sparse_codes import SparseCodes

SLAB = 65_536
HEADER = 128
MOST_ACTIVE = 65_535
"""Latents of a slab that a count can say are active on a token."""


class NpyAppender:
    """A `.npy` file that grows: its header is written last, when the number of rows is known."""

    def __init__(self, path: Path, dtype: Any, row_shape: tuple[int, ...] = ()) -> None:
        self._file = path.open("wb")
        self._file.write(b" " * HEADER)
        self._dtype, self._row_shape, self._rows = np.dtype(dtype), row_shape, 0

    def append(self, rows: np.ndarray) -> None:
        """Add rows."""
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).tobytes())
        self._rows += len(rows)

    def close(self) -> None:
        """Write the header, and close."""
        shape = (self._rows, *self._row_shape)
        fields = repr({"descr": self._dtype.str, "fortran_order": False, "shape": shape}).encode()
        self._file.seek(0)
        self._file.write(b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + fields.ljust(HEADER - 11) + b"\n")
        self._file.close()


class CodesWriter:
    """Writes the codes of consecutive chunks."""

    def __init__(self, folder: Path, d_sae: int) -> None:
        self._n_slabs = -(-d_sae // SLAB)
        self._latents = NpyAppender(folder / "latents.npy", np.uint16)
        self._values = NpyAppender(folder / "values.npy", np.float32)
        self._counts = NpyAppender(folder / "counts.npy", np.uint16, (self._n_slabs,))
        self._contexts = NpyAppender(folder / "contexts.npy", np.int64)
        self._contexts.append(np.zeros(1))
        self._total = 0

    def append(self, codes: SparseCodes, chunk: Chunk) -> None:
        """Write the codes of the next chunk."""
        latents = codes.latents.cpu().numpy()
        counts = codes.l0.cpu().numpy()
        self._latents.append((latents & (SLAB - 1)).astype(np.uint16))
        self._values.append(codes.values.float().cpu().numpy())
        if self._n_slabs == 1:
            per_slab = counts[:, None]
        else:
            tokens = np.repeat(np.arange(len(counts)), counts)
            flat = np.bincount(tokens * self._n_slabs + (latents >> 16), minlength=len(counts) * self._n_slabs)
            per_slab = flat.reshape(-1, self._n_slabs)
        if per_slab.size and int(per_slab.max()) > MOST_ACTIVE:
            raise DataError(
                f"More than {MOST_ACTIVE:,} latents of the SAE are active on one token: it is not sparse; check its weights "
                "and threshold."
            )
        self._counts.append(per_slab)
        ends = codes.offsets[chunk.length :: chunk.length].cpu().numpy()
        self._contexts.append(self._total + ends)
        self._total += len(latents)

    def close(self) -> None:
        """Finish the files."""
        for appender in (self._latents, self._values, self._counts, self._contexts):
            appender.close()


class Codes:
    """Codes mapped from disk."""

    def __init__(self, folder: Path) -> None:
        self._latents, self._values, self._counts, self._contexts = (
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("latents", "values", "counts", "contexts")
        )

    def read(self, chunk: Chunk, device: torch.device) -> SparseCodes:
        """The codes of a chunk of whole contexts."""
        last = chunk.first_context + chunk.n_contexts
        start, stop = int(self._contexts[chunk.first_context]), int(self._contexts[last])
        latents = np.array(self._latents[start:stop]).astype(np.int32)
        counts = np.array(self._counts[chunk.rows]).astype(np.int64)
        if counts.shape[1] > 1:
            slabs = np.tile(np.arange(counts.shape[1], dtype=np.int32), len(counts))
            latents += np.repeat(slabs * SLAB, counts.reshape(-1))
        offsets = np.zeros(len(counts) + 1, dtype=np.int64)
        np.cumsum(counts.sum(1), out=offsets[1:])
        values = torch.from_numpy(np.array(self._values[start:stop]))
        return SparseCodes(
            torch.from_numpy(offsets).to(device), torch.from_numpy(latents).to(device), values.to(device)
        )
