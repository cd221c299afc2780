"""Which latents fire, and on which kinds of tokens, when much of the squared error is nonlinear.

1. The share of a token is |nonlinear|^2 / |error|^2, from the table of tokens; a token without error has none and is left out.
   The tenth of the kept tokens with the largest share are high; of equal ones the first.
2. `LatentLift`, in one pass over the codes: counts per context of every latent, of every kind of token and range of positions,
   summed as `LiftSums` wants them. Its memory does not grow with tokens.
3. `tables`: latents active on at least 20 tokens are tested; those that pass are listed, the largest and the smallest lifts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from dmcore.analysis.activations import Chunk, chunks_of
from dmcore.analysis.feature_statistics import n_high_of
from dmcore.analysis.token_slices import by_class, by_position
from dmcore.errors import DataError
from dmcore.math.lift import Lifts, LiftSums, adjusted
from dmcore.math.sparse_codes import SparseCodes
from dmcore.math.top_values import Cut, cut_largest
from dmcore.results.structure import SIDES, structure_table

COLUMNS = ("error_sq", "nonlinear_sq")
"""Read of the table of tokens."""
LEAST_ACTIVE = 20
"""Tokens on which a latent must be active to be tested."""
SHOWN = 50
"""Most latents listed of either side."""
LEVEL = 0.05
"""False discoveries among the listed latents, on average, at most."""


@dataclass(frozen=True)
class TokenTable:
    """The table of tokens of a split, read in order, whole contexts at a time."""

    path: Path
    n_contexts: int
    length: int
    skip_positions: int

    def chunks(self, chunks: Iterable[Chunk] | None = None) -> Iterator[np.ndarray]:
        """(2, n_tokens) float32 of each chunk, rows as in `COLUMNS`; -1 at skipped positions.

        Args:
            chunks: consecutive, from the first; some that cover all tokens if None.

        Raises:
            DataError: the table cannot be read, has another number of tokens, or holds what is no squared norm.
        """
        held, left = np.empty((len(COLUMNS), 0), dtype=np.float32), self._groups()
        for chunk in chunks_of(self.n_contexts, self.length) if chunks is None else chunks:
            size = chunk.n_contexts * chunk.length
            while held.shape[1] < size:
                more = next(left, None)
                if more is None:
                    raise self._bad("it has too few tokens")
                held = np.concatenate([held, more], axis=1)
            found, held = held[:, :size].copy(), held[:, size:]
            if not (np.isfinite(found).all() and (found >= 0).all()):
                raise self._bad("it holds norms that are no finite numbers")
            found[:, np.tile(np.arange(chunk.length), chunk.n_contexts) < self.skip_positions] = -1.0
            yield found
        if held.shape[1] or next(left, None) is not None:
            raise self._bad("it has too many tokens")

    def _groups(self) -> Iterator[np.ndarray]:
        try:
            with pq.ParquetFile(self.path) as file:
                for number in range(file.num_row_groups):
                    group = file.read_row_group(number, columns=list(COLUMNS))
                    yield np.stack([group.column(name).to_numpy() for name in COLUMNS]).astype(np.float32)
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise self._bad(str(error)) from error

    def _bad(self, why: str) -> DataError:
        return DataError(
            f"The table of tokens {self.path} cannot be used ({why}): delete its split entry and run again."
        )


def shares_of(columns: np.ndarray) -> np.ndarray:
    """(n_tokens,) float32 |nonlinear|^2 / |error|^2; -1 where there is none, which `cut_largest` leaves out."""
    error, nonlinear = columns
    return np.divide(nonlinear, error, out=np.full_like(error, -1.0), where=error > 0)


def high_shares(table: TokenTable) -> Cut:
    """The cut above which a token's share is high."""
    return cut_largest(lambda: (shares_of(columns) for columns in table.chunks()), n_high_of)


class LatentLift:
    """Filled chunk by chunk, in order; then `tables`.

    Args:
        d_sae: latents.
        cut: of `high_shares`, not yet used.
        tokens: (n_contexts, length) ids, mapped from disk.
        words: `vocabulary` of all ids that occur.
        skip_positions: of the study.
    """

    def __init__(self, d_sae: int, cut: Cut, tokens: np.ndarray, words: pl.DataFrame, skip_positions: int) -> None:
        self._cut, self._tokens, self._skip = cut, tokens, skip_positions
        self.latents = LiftSums(d_sae)
        length = tokens.shape[1]
        # The groupings of one row: of all ids, and of all positions.
        ids = np.arange(int(words["token"].max() or 0) + 1)[None]
        kinds, places = by_class(ids, words), by_position((1, length - skip_positions), skip_positions)
        self._groupings = [grouping for grouping in (kinds, places) if grouping is not None]
        self._kind_of_id = None if kinds is None else kinds.of_token[0]
        self._place_of_position = np.concatenate([np.zeros(skip_positions, dtype=np.int64), places.of_token[0]])
        self.groups = LiftSums(sum(len(grouping.names) for grouping in self._groupings))

    def add(self, chunk: Chunk, codes: SparseCodes, columns: np.ndarray) -> None:
        """Count a chunk; `columns`: its rows of the table of tokens."""
        shares = shares_of(columns)
        counted, high = shares >= 0, self._cut.take(shares)
        context = np.repeat(np.arange(chunk.n_contexts), chunk.length)
        n_high, n_tokens = (flags.reshape(chunk.n_contexts, -1).sum(1) for flags in (high, counted))
        token = np.repeat(np.arange(len(shares)), codes.l0.cpu().numpy())
        latents, there = codes.latents.cpu().numpy(), counted[token]
        token = token[there]
        self.latents.add(context[token], latents[there], high[token], n_high, n_tokens)
        where = np.flatnonzero(counted)
        items = [item[where] for item in self._items(chunk)]
        of_context, is_high = (np.tile(of[where], len(items)) for of in (context, high))
        self.groups.add(of_context, np.concatenate(items), is_high, n_high, n_tokens)

    def _items(self, chunk: Chunk) -> Iterator[np.ndarray]:
        """Of each grouping, each token's group; groups are numbered through all groupings."""
        first = 0
        if self._kind_of_id is not None:
            ids = self._tokens[chunk.first_context : chunk.first_context + chunk.n_contexts]
            yield self._kind_of_id[ids.reshape(-1)].astype(np.int64)
            first += len(self._groupings[0].names)
        yield first + np.tile(self._place_of_position, chunk.n_contexts)

    @property
    def least_share(self) -> float | None:
        """The smallest share of a high token; None where there is none."""
        return self._cut.bound if self._cut.n else None

    def tables(self) -> tuple[dict[str, pl.DataFrame], dict[str, int]]:
        """The tables `latents` and `groups`, and how many latents were tested and passed."""
        found = self.latents.lifts()
        tested = (found.n_active >= LEAST_ACTIVE) & np.isfinite(found.p)
        adjusted_p = adjusted(np.where(tested, found.p, np.nan))
        passed = (adjusted_p <= LEVEL) & ((found.low > 1.0) | (found.high < 1.0))
        listed = []
        for side, sign in zip(SIDES, (-1.0, 1.0), strict=True):
            of_side = np.flatnonzero(passed & (sign * (found.lift - 1.0) < 0))
            # of equals, such as lifts of 0, those that are active on most tokens
            order = of_side[np.lexsort((-found.n_active[of_side], sign * found.lift[of_side]))][:SHOWN]
            columns = {"side": [side] * len(order), "rank": np.arange(len(order)), "latent": order}
            more = {"adjusted_p": adjusted_p[order]}
            listed.append(structure_table("latents", columns | _columns(found, order) | more))
        counts = {"n_tested": int(tested.sum()), "n_significant": int(passed.sum()), "least_active": LEAST_ACTIVE}
        return {"latents": pl.concat(listed), "groups": self._group_table()}, counts

    def _group_table(self) -> pl.DataFrame:
        found = self.groups.lifts()
        by = [grouping.by for grouping in self._groupings for _ in grouping.names]
        names = [name for grouping in self._groupings for name in grouping.names]
        order = [i for grouping in self._groupings for i in range(len(grouping.names))]
        present = np.flatnonzero(found.n_active)
        columns = {name: [of[i] for i in present] for name, of in (("by", by), ("group", names), ("order", order))}
        return structure_table("groups", columns | _columns(found, present))


def _columns(found: Lifts, where: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of some items, as both tables have them."""
    columns = {"n_active": found.n_active, "n_high": found.n_high, "n_contexts": found.n_contexts}
    columns |= {"lift": found.lift, "lift_low": found.low, "lift_high": found.high, "p": found.p}
    return {name: values[where] for name, values in columns.items()}
