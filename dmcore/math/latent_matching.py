"""Latents of two dictionaries matched by the cosine of their decoder rows: which directions do both have?

1. Rows are brought to unit norm; the cosine keeps its sign, since a latent is active in one direction alone.
2. Up to `MOST_ASSIGNED` latents, the one-to-one matching with the largest sum of cosines (Hungarian method, over all pairs);
   beyond, where that takes too long, pairs that are each other's nearest neighbour, found in blocks of rows. Mutual
   neighbours are one to one as well, but leave latents without a partner: those count as found nowhere.
3. The yardstick is the same matching of random rows, as many of them: with many latents in few dimensions, chance alone
   gives large cosines. Rows from the whole sphere (`random_rows`), or with the second moments of each dictionary's own
   (`shaped_rows`), which is the stricter one.

Reference: Paulo and Belrose 2025, Sparse Autoencoders Trained on the Same Data Learn Different Features, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

MOST_ASSIGNED = 8192
"""Latents (of the larger dictionary) up to which the best assignment is found; it takes cubic time."""
ROWS_AT_ONCE = 4096
"""Rows of each dictionary whose cosines are made together."""
DRAWN_AT_ONCE = 1024
"""Random rows that are drawn together; the draw does not depend on it as long as 16 divides it."""
ASSIGNED, MUTUAL = "assignment", "mutual neighbours"
"""How latents were matched."""


@dataclass(frozen=True)
class Matching:
    """Pairs of latents, one to one, by ascending number in the first dictionary."""

    first: np.ndarray
    """(n_pairs,) numbers in the first dictionary."""
    second: np.ndarray
    """(n_pairs,) numbers in the second."""
    cosine: np.ndarray
    """(n_pairs,) float64, -1 to 1."""
    n_first: int
    """Latents of the first dictionary."""
    n_second: int
    """Latents of the second."""
    method: str
    """`ASSIGNED` or `MUTUAL`."""

    @property
    def mean_cosine(self) -> float:
        """Mean over the pairs; nan where there are none."""
        return float(self.cosine.mean()) if len(self.cosine) else float("nan")

    def share_above(self, cosine: float) -> float:
        """Pairs above a cosine, as a share of the latents of the smaller dictionary; nan where that has none."""
        n = min(self.n_first, self.n_second)
        return float((self.cosine > cosine).sum()) / n if n else float("nan")

    def of_first(self) -> np.ndarray:
        """(n_first,) cosine of each latent of the first dictionary with its partner; -1 where it has none."""
        found = np.full(self.n_first, -1.0)
        found[self.first] = self.cosine
        return found


def match_latents(
    first: Float[Tensor, "n_first d_in"],
    second: Float[Tensor, "n_second d_in"],
    *,
    most_assigned: int = MOST_ASSIGNED,
    rows_at_once: int = ROWS_AT_ONCE,
) -> Matching:
    """Match the decoder rows of two dictionaries, on their device, in float32.

    Args:
        first, second: decoder rows of any norm; a row of zeros has cosine 0 with every other.
        most_assigned: latents of the larger one up to which all pairs are looked at together.
        rows_at_once: rows of each whose cosines are made together beyond that.

    Equivalent, where all pairs are looked at, to `scipy.optimize.linear_sum_assignment` of the matrix of cosines.
    """
    a, b = _unit(first), _unit(second)
    if min(len(a), len(b)) == 0:
        none = np.zeros(0, dtype=np.int64)
        return Matching(none, none, np.zeros(0), len(a), len(b), ASSIGNED)
    if max(len(a), len(b)) <= most_assigned:
        rows, columns = _assign(a, b)
        method = ASSIGNED
    else:
        rows, columns = _mutual(a, b, rows_at_once)
        method = MUTUAL
    # In float64, so that a copy has cosine 1 to more digits than a float32 product has.
    one, two = (v[torch.from_numpy(i).to(v.device)].double() for v, i in ((first, rows), (second, columns)))
    cosine = torch.nn.functional.cosine_similarity(one, two, dim=1, eps=1e-30).clamp(-1.0, 1.0)
    return Matching(rows, columns, cosine.cpu().numpy(), len(a), len(b), method)


def random_rows(n: int, d_in: int, seed: int) -> Float[Tensor, "n d_in"]:
    """Unit rows drawn uniformly from the sphere."""
    return _unit(torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed)))


def shaped_rows(
    like: Float[Tensor, "n d_in"], seed: int, *, rows_at_once: int = DRAWN_AT_ONCE
) -> Float[Tensor, "n d_in"]:
    """Gaussian rows with the second moments of some unit rows, as many of them, brought to unit norm.

    Where a dictionary lies in few of its dimensions, chance gives larger cosines than rows from the whole sphere say.
    """
    rows, generator = _unit(like), torch.Generator().manual_seed(seed)
    mixed = torch.empty_like(rows)
    # A few at a time: those of all rows would be a square matrix, 5 GB at 36,864 latents.
    for first in range(0, len(rows), rows_at_once):
        weights = torch.randn(min(rows_at_once, len(rows) - first), len(rows), generator=generator)
        mixed[first : first + rows_at_once] = weights.to(rows.device) @ rows
    return _unit(mixed)


def stable_latents(matchings: Sequence[Matching], cosine: float) -> np.ndarray:
    """Latents of one dictionary that have a partner above a cosine in every other.

    Args:
        matchings: of the same first dictionary with each of the others, at least one.
        cosine: above which a pair counts. What chance gives is the least: the largest that was seen where there is nothing
            to find (noise of the same covariance, SAEs of the same training), or more.

    Returns:
        their numbers, ascending.
    """
    return np.flatnonzero(np.min([matching.of_first() for matching in matchings], axis=0) > cosine)


def _unit(rows: Tensor) -> Tensor:
    rows = rows.detach().float()
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)


def _assign(a: Tensor, b: Tensor) -> tuple[np.ndarray, np.ndarray]:
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment((a @ b.T).cpu().numpy(), maximize=True)
    return rows.astype(np.int64), columns.astype(np.int64)


def _mutual(a: Tensor, b: Tensor, rows_at_once: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that are each other's nearest; of equal ones the lower number is nearer."""
    best_of_a, in_b = a.new_full((len(a),), -2.0), torch.zeros(len(a), dtype=torch.int64, device=a.device)
    best_of_b, in_a = b.new_full((len(b),), -2.0), torch.zeros(len(b), dtype=torch.int64, device=b.device)
    for i in range(0, len(a), rows_at_once):
        some_a = slice(i, i + rows_at_once)
        for j in range(0, len(b), rows_at_once):
            some_b = slice(j, j + rows_at_once)
            cosines = a[some_a] @ b[some_b].T
            _improve(best_of_a[some_a], in_b[some_a], cosines, j)
            _improve(best_of_b[some_b], in_a[some_b], cosines.T, i)
    rows = (in_a[in_b] == torch.arange(len(a), device=a.device)).nonzero().squeeze(1)
    return rows.cpu().numpy(), in_b[rows].cpu().numpy()


def _improve(best: Tensor, where: Tensor, cosines: Tensor, first: int) -> None:
    """Take over what is larger in a block, in place; its columns begin at `first`."""
    value, column = cosines.max(1)
    better = value > best
    best[better] = value[better]
    where[better] = column[better] + first
