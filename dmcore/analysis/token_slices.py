"""Error norms by group of tokens: by class of the token's text, by range of positions, by domain of the text.

For each SAE and group, over kept tokens: the mean squared norm of the error and of its linear and nonlinear part over that
of all kept tokens, and the nonlinear share of the squared error. All are ratios of sums over contexts, so their bootstrap
intervals need only those sums. A group that is in one context alone has no interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from dmcore.analysis.token_kinds import KINDS, UNKNOWN
from dmcore.math.bootstrap import bootstrap_units, poisson_weights
from dmcore.math.intervals import interval_ends
from dmcore.results.scaling import PARTS, TABLES
from dmcore.sources.contexts import Contexts

MOST_DOMAINS = 12
"""Domains that are shown by name; the rest are one group."""
OTHER = "other"
FIRST_EDGE = 32
"""Ranges of positions end at powers of two, from this one on."""


@dataclass(frozen=True)
class Grouping:
    """One way to group the kept tokens."""

    by: str
    """class, position or domain."""
    names: tuple[str, ...]
    """Of the groups, in the order in which they are shown; some may be empty."""
    of_token: np.ndarray
    """(n_contexts, n_kept) number of each token's group."""


def by_class(tokens: np.ndarray, words: pl.DataFrame) -> Grouping | None:
    """By kind of text; None where the text of no token is known.

    Args:
        tokens: (n_contexts, n_kept) ids.
        words: `vocabulary` of all of them.
    """
    if (words["kind"] == UNKNOWN).all():
        return None
    ids = words["token"].to_numpy()
    kind = np.zeros(int(ids.max()) + 1, dtype=np.int8)
    kind[ids] = [KINDS.index(name) for name in words["kind"]]
    return Grouping("class", KINDS, kind[tokens])


def by_position(shape: tuple[int, int], skip_positions: int) -> Grouping:
    """By range of positions: to 31, 32 to 63, 64 to 127, and so on."""
    n_contexts, n_kept = shape
    length = skip_positions + n_kept
    edges = [skip_positions]
    edge = FIRST_EDGE
    while edge < length:
        edges += [edge] if edge > skip_positions else []
        edge *= 2
    ends = [*edges[1:], length]
    names = tuple(f"{first}-{end - 1}" for first, end in zip(edges, ends, strict=True))
    groups = np.searchsorted(edges, np.arange(skip_positions, length), side="right") - 1
    return Grouping("position", names, np.broadcast_to(groups.astype(np.int8), (n_contexts, n_kept)))


def by_domain(domains: np.ndarray, names: tuple[str, ...]) -> Grouping:
    """By domain, the largest first; past `MOST_DOMAINS` they are one group.

    Args:
        domains: (n_contexts, n_kept) numbers into `names`.
    """
    counts = np.bincount(domains.reshape(-1), minlength=len(names))
    named = [int(d) for d in np.lexsort((np.arange(len(names)), -counts)) if counts[d] > 0 and names[d] != OTHER]
    named = named[:MOST_DOMAINS]
    group = np.full(len(names), len(named), dtype=np.int8)
    group[named] = np.arange(len(named))
    return Grouping("domain", (*(names[d] for d in named), OTHER), group[domains])


def groupings(contexts: Contexts, skip_positions: int, words: pl.DataFrame) -> list[Grouping]:
    """Every way to group the kept tokens for which there is something to go by."""
    tokens = contexts.tokens[:, skip_positions:]
    found = [by_class(tokens, words), by_position(tokens.shape, skip_positions)]
    if contexts.domains is not None:
        found.append(by_domain(contexts.domains[:, skip_positions:], contexts.domain_names))
    return [grouping for grouping in found if grouping is not None]


class _Cells:
    """Tokens of one grouping, counted in bootstrap units."""

    def __init__(self, grouping: Grouping, units: np.ndarray, weights: np.ndarray) -> None:
        self.by = grouping.by
        self._shape = (int(units.max()) + 1, len(grouping.names))
        self._flat = (units.astype(np.int32)[:, None] * self._shape[1] + grouping.of_token).reshape(-1)
        counts = self.sums(None)
        self.weighted_counts = weights @ counts
        self.n_tokens = counts.sum(0).astype(np.int64)
        self.present = np.flatnonzero(self.n_tokens)
        self.names = grouping.names
        groups = np.arange(self._shape[1])
        in_contexts = sum((np.isin(groups, context)).astype(int) for context in grouping.of_token)
        self.spread = np.asarray(in_contexts) > 1
        """Whether each group is in more than one context."""

    def sums(self, values: np.ndarray | None) -> np.ndarray:
        """(n_units, n_groups) sums of a value over tokens; their number for None."""
        weights = None if values is None else values.reshape(-1)
        n_cells = self._shape[0] * self._shape[1]
        return np.bincount(self._flat, weights, minlength=n_cells).astype(float).reshape(self._shape)


class Slices:
    """Rows of the table of slices, an SAE at a time."""

    def __init__(self, groupings: list[Grouping], n_contexts: int, n_kept: int, seed: int) -> None:
        self._units = bootstrap_units(n_contexts)
        n_units = int(self._units.max()) + 1
        self._weights = np.concatenate([np.ones((1, n_units)), poisson_weights(n_units, seed)])
        self._cells = [_Cells(grouping, self._units, self._weights) for grouping in groupings]
        self._weighted_tokens = self._weights @ (np.bincount(self._units) * float(n_kept))

    def rows(self, sae: int, squares: Mapping[str, np.ndarray]) -> pl.DataFrame:
        """The rows of one SAE.

        Args:
            sae: its number.
            squares: (n_contexts, n_kept) squared norms of each of `PARTS`.
        """
        return pl.concat([self._of_cells(sae, cells, squares) for cells in self._cells])

    def _of_cells(self, sae: int, cells: _Cells, squares: Mapping[str, np.ndarray]) -> pl.DataFrame:
        sums = {part: self._weights @ cells.sums(squares[part]) for part in PARTS}
        groups = cells.present
        columns: dict[str, object] = {
            "sae": np.full(len(groups), sae),
            "by": [cells.by] * len(groups),
            "group": [cells.names[g] for g in groups],
            "order": np.arange(len(groups)),
            "n_tokens": cells.n_tokens[groups],
        }
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = {
                f"{part}_ratio": (sums[part] / cells.weighted_counts)
                / (sums[part].sum(1) / self._weighted_tokens)[:, None]
                for part in PARTS
            } | {"nonlinear_share": sums["nonlinear"] / sums["error"]}
        for name, replicates in drawn.items():
            value, rest = replicates[0, groups], replicates[1:, groups]
            low, high = np.where(cells.spread[groups], interval_ends(value, rest), np.nan)
            columns |= {name: value, f"{name}_low": low, f"{name}_high": high}
        return pl.DataFrame(columns, schema_overrides=TABLES["slices"]).fill_nan(None)
