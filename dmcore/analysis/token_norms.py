"""Norms of the errors of many SAEs at the kept tokens: read from each SAE's table of tokens, then a few contexts at a time.

1. `read_part` reads one column of one table, and refuses what is no squared norm.
2. `TokenNorms` takes the columns of one SAE after another and keeps them, with their ranks, in temporary files; these have no
   name, so that nothing is left behind, and the memory used does not grow with tokens times SAEs.
3. Read back, norms are about their mean and in units of their standard deviation, and ranks about theirs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import rankdata

from dmcore.errors import DataError

TOKENS_PER_CHUNK = 16_384
"""Tokens worked on at once; whole contexts, at least one."""


def read_part(path: Path, name: str, part: str, n_contexts: int, length: int) -> np.ndarray:
    """(n_contexts, length) float32 squared norms of one part of the error.

    Args:
        path: the table of tokens.
        name: of the SAE, for messages.
        part: one of `PARTS`.

    Raises:
        DataError: the table cannot be read, has another number of tokens, or holds what is no squared norm.
    """
    try:
        values = pq.ParquetFile(path).read(columns=[f"{part}_sq"]).column(0).to_numpy()
    except (OSError, pa.ArrowInvalid, KeyError, IndexError) as error:
        raise DataError(
            f"The table of tokens of {name} cannot be read ({error}): delete its split entry and run the study again."
        ) from error
    if len(values) != n_contexts * length:
        raise DataError(
            f"The table of tokens of {name} has {len(values):,} tokens, but the texts have {n_contexts * length:,}: "
            "delete its split entry and run the study again."
        )
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise DataError(
            f"The table of tokens of {name} has norms of the {part} part that are not finite numbers: delete its split "
            "entry and run the study again, or leave this SAE out."
        )
    return values.astype(np.float32, copy=False).reshape(n_contexts, length)


class TokenNorms:
    """|error| and |nonlinear error| of every SAE at every kept token, on disk."""

    def __init__(self, n_saes: int, n_contexts: int, n_kept: int, folder: Path) -> None:
        """Room for `n_kept` tokens of each context; 12 bytes a token and SAE, in temporary files in `folder`."""
        self._shape = (n_saes, n_contexts, n_kept)
        self._squares, self._ranks = (tempfile.TemporaryFile(dir=folder) for _ in range(2))  # noqa: SIM115 - see close
        self._centre, self._scale = np.zeros((2, n_saes)), np.ones((2, n_saes))
        self._n_put = 0
        self._maps: tuple[np.ndarray, np.ndarray] | None = None

    def put(self, error_sq: np.ndarray, nonlinear_sq: np.ndarray) -> None:
        """Keep the next SAE; both (n_contexts, n_kept) float32."""
        for row, squares in enumerate((error_sq, nonlinear_sq)):
            # Written, not mapped: a full disk is then an error that can be caught.
            self._squares.write(np.ascontiguousarray(squares).data)
            if squares.min() < squares.max():
                norms = np.sqrt(squares, dtype=np.float64)
                self._centre[row, self._n_put], self._scale[row, self._n_put] = norms.mean(), norms.std()
            else:
                # Exactly its value, so that the column is exactly zero.
                self._centre[row, self._n_put] = np.sqrt(np.float64(squares.flat[0]))
        # Ranks of ties are halves: twice the rank is a whole number.
        self._ranks.write(np.rint(2 * rankdata(error_sq, axis=None)).astype(np.int32).data)
        self._n_put += 1

    def _mapped(self) -> tuple[np.ndarray, np.ndarray]:
        if self._maps is None:
            n_saes, n_contexts, n_kept = self._shape
            self._squares.flush()
            self._ranks.flush()
            self._maps = (
                np.memmap(self._squares, np.float32, "r", shape=(n_saes, 2, n_contexts, n_kept)),
                np.memmap(self._ranks, np.int32, "r", shape=(n_saes, n_contexts, n_kept)),
            )
        return self._maps

    def columns(self, contexts: slice) -> np.ndarray:
        """(n_contexts, 1 + 2 n_saes, n_kept) float64: ones, |error| of each SAE, |nonlinear error| of each SAE."""
        squares = self._mapped()[0][:, :, contexts]
        n_saes, _, n_contexts, n_kept = squares.shape
        out = np.ones((n_contexts, 1 + 2 * n_saes, n_kept))
        for row in range(2):
            part = out[:, 1 + row * n_saes : 1 + (row + 1) * n_saes]
            np.sqrt(squares[:, row].swapaxes(0, 1), out=part, dtype=np.float64)
            part -= self._centre[row][:, None]
            part /= self._scale[row][:, None]
        return out

    def ranks(self, contexts: slice) -> np.ndarray:
        """(n_contexts, n_saes, n_kept) float64 ranks of |error| among all kept tokens, about their mean, over their number."""
        n_tokens = self._shape[1] * self._shape[2]
        twice = self._mapped()[1][:, contexts].swapaxes(0, 1).astype(np.float64)
        return (twice - (n_tokens + 1)) / (2 * n_tokens)

    def close(self) -> None:
        """Give the room on the disk back."""
        self._maps = None
        self._squares.close()
        self._ranks.close()
