"""Do the tokens with the largest error fall in clusters?

1. `HighVectors`: the part's vectors of the 5,000 kept tokens with the largest norm, kept in float32 while a pass goes by.
2. `clustered`: each vector to length 1, PCA to at most 50 dimensions, k-means for k from 2 to 12, silhouettes.
3. The null: Gaussian vectors with the mean and covariance of the part over all kept tokens, as many as there are (at most
   200,000), of which the ones with the largest norm go the same way; 8 draws. It has the selection by norm in it, which by
   itself makes two clusters of a Gaussian with one large eigenvalue: its two ends.
4. The bar of k: the null's mean and 4 standard deviations of a draw, or the largest draw if that is more. Of the k whose
   silhouette is above their bar and the bars of the two k before (k-means now and then leaves a cluster whole, and then has
   the silhouette of fewer clusters), the one with the largest excess over the null's mean is chosen. Without one there are no
   clusters beyond chance. Beyond chance is not far apart: below `APART` the clusters run into each other.

`cluster_contents` says what is in each cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch import Tensor

from dmcore.analysis.activations import Chunk
from dmcore.analysis.error_spectra import ROWS_BYTES, PartMoments
from dmcore.math.silhouettes import silhouettes
from dmcore.math.top_values import Cut
from dmcore.sources.dictionary import Dictionary
from dmcore.sources.sliced_dictionary import SlicedDictionary

MOST_TOKENS = 5000
"""Tokens that are clustered."""
LEAST_TOKENS = 50
"""With fewer, no clusters are looked for."""
KS = tuple(range(2, 13))
"""Numbers of clusters that are tried."""
N_DIMENSIONS = 50
"""Of the vectors that are clustered."""
N_INIT = 4
"""Starts of each k-means."""
N_DRAWS = 8
"""Draws of the null."""
MOST_DRAWN = 200_000
"""Vectors of each draw, from which those with the largest norm are taken."""
LEAST_DEVIATIONS = 4.0
"""Standard deviations of one draw by which a silhouette must exceed the mean of the null."""
APART = 0.25
"""Silhouette below which Kaufman and Rousseeuw (1990) see no substantial structure."""
ELEMENTS = 2**22
"""Of the Gaussian vectors that are drawn at once."""


class HighVectors:
    """Vectors of one part at the tokens that a cut takes; filled chunk by chunk, in order."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut
        self._vectors: list[np.ndarray] = []
        self._tokens: list[np.ndarray] = []

    def add(self, chunk: Chunk, squares: np.ndarray, vectors: Tensor) -> None:
        """Look at a chunk; `squares`: its squared norms, from the table of tokens."""
        found = np.flatnonzero(self._cut.take(squares))
        if len(found):
            self._vectors.append(vectors[torch.from_numpy(found).to(vectors.device)].float().cpu().numpy())
            self._tokens.append(found + chunk.rows.start)

    @cached_property
    def tokens(self) -> np.ndarray:
        """(n,) number of each among all tokens, ascending."""
        return np.concatenate(self._tokens) if self._tokens else np.empty(0, dtype=np.int64)

    @cached_property
    def units(self) -> np.ndarray:
        """(n, d) float32 vectors of length 1."""
        return unit_rows(np.concatenate(self._vectors))


@dataclass(frozen=True)
class Clustering:
    """k-means of one set of vectors."""

    ks: tuple[int, ...]
    labels: list[np.ndarray]
    """Of each k, (n,) cluster of each vector, the largest cluster first."""
    silhouettes: np.ndarray
    """(len(ks),)."""


@dataclass(frozen=True)
class Found:
    """What clustering one part gave."""

    clustering: Clustering
    null: np.ndarray
    """(n_draws, len(ks)) silhouettes of Gaussian vectors."""

    @property
    def null_sd(self) -> np.ndarray:
        """(len(ks),) standard deviation of a draw; not below the median over k, for there are few draws."""
        variances = self.null.var(0, ddof=1)
        return np.sqrt(np.maximum(variances, np.median(variances)))

    @property
    def chosen(self) -> int | None:
        """Place in `ks` of the chosen number of clusters; None for none beyond chance."""
        mean = self.null.mean(0)
        bar = np.maximum(mean + LEAST_DEVIATIONS * self.null_sd, self.null.max(0))
        before = np.concatenate([[-1.0, -1.0], bar])
        beyond = self.clustering.silhouettes > np.maximum.reduce([bar, before[1:-1], before[:-2]])
        excess = self.clustering.silhouettes - mean
        return int(np.argmax(np.where(beyond, excess, -np.inf))) if beyond.any() else None


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Each row to length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def clustered(units: np.ndarray, seed: int, ks: tuple[int, ...] = KS) -> Clustering | None:
    """Cluster vectors of length 1; None where fewer than three of them differ by more than rounding.

    Equivalent to `sklearn.cluster.KMeans` on `sklearn.decomposition.PCA`, with `sklearn.metrics.silhouette_score`.
    """
    if not float(units.var(0, dtype=np.float64).sum()) > 1e-9:
        return None
    n_components = min(N_DIMENSIONS, *units.shape)
    scores = PCA(n_components, random_state=seed).fit_transform(units)
    n_different = len(np.unique(np.round(scores, 4), axis=0))
    ks = tuple(k for k in ks if k < n_different)
    if not ks:
        return None
    labels = [_by_size(KMeans(k, n_init=N_INIT, random_state=seed).fit_predict(scores)) for k in ks]
    return Clustering(ks, labels, silhouettes(scores.astype(np.float64), labels))


def _by_size(labels: np.ndarray) -> np.ndarray:
    """Clusters numbered by size, the largest first; of equal ones that of the first token."""
    _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    number = np.empty(len(counts), dtype=np.int64)
    number[np.lexsort((first, -counts))] = np.arange(len(counts))
    return number[inverse]


def gaussian_units(mean: np.ndarray, variances: np.ndarray, n: int, n_drawn: int, seed: int) -> np.ndarray:
    """(n, d) float32 units of the `n` with the largest norm of `n_drawn` Gaussian vectors with independent coordinates.

    Args:
        mean, variances: (d,) in the eigenbasis: turning it changes no distance.
    """
    rng, step = np.random.default_rng(seed), max(256, ELEMENTS // len(mean))
    spread, kept = np.sqrt(variances).astype(np.float32), np.empty((0, len(mean)), dtype=np.float32)
    for start in range(0, n_drawn, step):
        rows = rng.standard_normal((min(step, n_drawn - start), len(mean)), dtype=np.float32)
        rows *= spread
        rows += mean.astype(np.float32)
        kept = np.concatenate([kept, rows])
        if len(kept) > n:
            kept = kept[np.argpartition(-np.einsum("ij,ij->i", kept, kept), n - 1)[:n]]
    return unit_rows(kept)


def find_clusters(
    high: HighVectors, part: PartMoments, seed: int, advance: Callable[[], None] = lambda: None
) -> Found | str:
    """Cluster the tokens of a part, and as many of the null; a sentence where it cannot be done.

    Args:
        high: filled.
        part: the part's moments over all kept tokens.
        seed: of everything by chance.
        advance: called after each of 1 + `N_DRAWS` clusterings.
    """
    n = len(high.tokens)
    if not part.is_there:
        return f"The {part.name} part is 0 up to rounding, so no tokens stand out."
    if n < LEAST_TOKENS:
        return f"The {part.name} part is above 0 on {n} kept tokens alone: too few to look for clusters."
    found = clustered(high.units, seed) if part.varies else None
    if found is None:
        return f"The {part.name} part has one direction on all of these tokens, so there is nothing to cluster."
    advance()
    values, vectors = part.basis
    mean, n_kept = (part.mean @ vectors).cpu().numpy(), int(part.counts.sum())
    null = []
    for draw in range(N_DRAWS):
        drawn = gaussian_units(mean, values / n_kept, n, max(n, min(n_kept, MOST_DRAWN)), seed + 1 + draw)
        of_draw = clustered(drawn, seed, found.ks)
        null.append(np.zeros(len(found.ks)) if of_draw is None else _at(of_draw, found.ks))
        advance()
    return Found(found, np.array(null))


def _at(clustering: Clustering, ks: tuple[int, ...]) -> np.ndarray:
    """Silhouettes for some k; 0 where there are not so many different vectors."""
    of = dict(zip(clustering.ks, clustering.silhouettes, strict=True))
    return np.array([of.get(k, 0.0) for k in ks])


def centres_of(units: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n_clusters, d) float64 means of the units of each cluster, scaled to length 1; nan for one whose units cancel."""
    sums = np.stack([units[labels == c].sum(0, dtype=np.float64) for c in range(int(labels.max()) + 1)])
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums / np.linalg.norm(sums, axis=1, keepdims=True)


@torch.inference_mode()
def nearest_rows(centres: np.ndarray, sae: Dictionary | SlicedDictionary) -> Iterator[tuple[int | None, float | None]]:
    """Of each centre, the latent whose decoder row has the largest cosine with it, and that cosine; None without rows."""
    best, where = np.full(len(centres), -np.inf), np.full(len(centres), -1)
    step = max(1, ROWS_BYTES // (8 * sae.d_in))
    for first in range(0, sae.d_sae, step):
        rows = sae.decoder_rows(first, min(first + step, sae.d_sae))
        if rows is None:
            break
        norms = rows.double().norm(dim=1, keepdim=True)
        # A row of length 0 has no direction, and a cosine of 0 with everything.
        cosines = (rows.double() / norms.clamp_min(1e-300)).cpu().numpy() @ centres.T
        own = cosines.argmax(0)
        largest = cosines[own, np.arange(len(centres))]
        better = largest > best
        best[better], where[better] = largest[better], first + own[better]
    for cosine, latent in zip(best, where, strict=True):
        yield (int(latent), float(cosine)) if latent >= 0 else (None, None)
