"""Spectra of x and of the parts of the error, whether their directions come back, and what they are directions of.

1. `ContextGroups`: about 20 groups of whole contexts, each within one fold, so that one map gives a group's linear error.
2. `PartMoments`: the Gram matrix of each part in each group, from products of x and the error alone (`NormMoments`).
3. `spectrum_tables`: eigenvalues and their sums, with the jackknife over groups; overlaps of halves of the groups; variance
   in the directions of x and of the decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from dmcore.math.moments import InputMoments, MomentAccumulator
from dmcore.math.norm_prediction import NormMoments
from dmcore.math.spectrum import (
    directions_for,
    effective_rank,
    eigenbasis,
    eigenvalues,
    jackknife,
    participation_ratio,
    scatter_of,
    shares,
)
from dmcore.math.split import ROUNDING, FoldedFit
from dmcore.math.subspaces import dimensions, halvings, overlaps, variance_along, variance_within
from dmcore.results.structure import SPECTRUM_PARTS, structure_table
from dmcore.sources.dictionary import Dictionary
from dmcore.sources.sliced_dictionary import SlicedDictionary

N_GROUPS = 20
"""Groups of contexts, if there are so many contexts; at least one a fold."""
GROUPS_BYTES = 2**33
"""Bytes, in float64, of the matrices of all groups; where activations are wide, there are fewer groups."""
N_SPLITS = 8
"""Splits of the groups in halves."""
ROWS_BYTES = 2**27
"""Bytes, in float64, of the decoder rows that are looked at together."""
STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "effective_rank": effective_rank,
    "participation_ratio": participation_ratio,
    **{
        f"directions_{percent}": lambda values, share=percent / 100: directions_for(values, share)
        for percent in (50, 90, 99)
    },
}
"""Columns of the table of parts, from eigenvalues."""
Remark = tuple[str, str | None, str]
"""Topic (name of a table), part, sentence."""


@dataclass(frozen=True)
class ContextGroups:
    """Groups of contexts for the jackknife and the halves."""

    of_context: np.ndarray
    """(n_contexts,) group of each."""
    folds: np.ndarray
    """(n_groups,) fold of each group."""

    @classmethod
    def of(cls, folds: np.ndarray, d_model: int, seed: int) -> ContextGroups:
        """Random groups of about one size inside of each fold; the number of groups depends on d_model, not on tokens."""
        present = np.unique(folds)
        affordable = GROUPS_BYTES // (4 * 8 * d_model**2)
        per_fold = max(1, min(N_GROUPS, affordable) // len(present))
        rng, groups, of_group = np.random.default_rng(seed), np.empty(len(folds), dtype=np.int64), []
        for fold in present:
            members = rng.permutation(np.flatnonzero(folds == fold))
            for some in np.array_split(members, min(per_fold, len(members))):
                groups[some] = len(of_group)
                of_group.append(fold)
        return cls(groups, np.array(of_group))


@dataclass(frozen=True)
class PartMoments:
    """The moments of one part, group by group."""

    name: str
    grams: Tensor
    """(n_groups, d + 1, d + 1) `sum [v - shift, 1]^T [v - shift, 1]`."""
    shift: Tensor
    smallest: float
    """A mean square below this is rounding of x."""

    @cached_property
    def counts(self) -> np.ndarray:
        """(n_groups,) tokens."""
        return self.grams[:, -1, -1].cpu().numpy()

    @cached_property
    def total(self) -> Tensor:
        """The Gram matrix of all tokens."""
        return self.grams.sum(0)

    @cached_property
    def scatter(self) -> Tensor:
        """(d, d) `sum (v - mean)^T (v - mean)`."""
        return scatter_of(self.total)

    @cached_property
    def basis(self) -> tuple[np.ndarray, Tensor]:
        """Eigenvalues of `scatter`, the largest first, and eigenvectors."""
        return eigenbasis(self.scatter)

    @property
    def mean(self) -> Tensor:
        """(d,) mean over all tokens."""
        return self.shift + self.total[-1, :-1] / self.total[-1, -1]

    @property
    def variance(self) -> float:
        """Mean of |v - mean v|^2."""
        return float(self.scatter.trace()) / float(self.counts.sum())

    @property
    def varies(self) -> bool:
        """Whether it varies by more than rounding of x."""
        return self.variance > self.smallest

    @property
    def is_there(self) -> bool:
        """Whether it is more than rounding of x: it may be the same for all tokens."""
        return self.variance + float(self.mean.square().sum()) > self.smallest

    def without(self) -> list[Tensor]:
        """(d, d) scatters of all tokens but those of each group, one after the other."""
        return [scatter_of(self.total - gram) for gram in self.grams] if len(self.grams) > 1 else []


class GroupedMoments:
    """Filled in one pass over the tokens; then `parts`."""

    def __init__(self, groups: ContextGroups, shift: Tensor, error_shift: Tensor) -> None:
        n_groups = len(groups.folds)
        self._groups = groups
        self._inputs = InputMoments(n_groups, shift)
        self._add_x = MomentAccumulator(self._inputs, None, shift)
        # No norms: only Gram matrices are wanted. A group stands where the maps have a fold.
        self._moments = NormMoments(self._inputs, [[group] for group in range(n_groups)], error_shift, 0)

    def add(self, x: Tensor, error: Tensor, groups: Tensor) -> None:
        """Add tokens; those whose group is below 0 are skipped."""
        self._add_x.add(x, None, groups)
        self._moments.add(x, error, x.new_empty(len(x), 0, dtype=torch.float64), groups)

    def parts(self, linear: FoldedFit) -> dict[str, PartMoments]:
        """The moments of each of `SPECTRUM_PARTS`; called once. `linear`: the maps of the folds."""
        self._add_x.finish()
        self._moments.finish()
        of_group = FoldedFit(tuple(linear.fold_maps[fold] for fold in self._groups.folds), None)
        found, smallest = {}, 0.0
        for name in SPECTRUM_PARTS:
            gram = self._moments.of(name, of_group)[0]
            found[name] = PartMoments(name, gram.gram, gram.shift, smallest)
            if name == "x":
                x = found[name]
                smallest = ROUNDING**2 * (x.variance + float(x.mean.square().sum()))
                found[name] = PartMoments(name, x.grams, x.shift, smallest)
        return found


def spectrum_tables(
    parts: Mapping[str, PartMoments], sae: Dictionary | SlicedDictionary, seed: int, advance: Callable[[], None]
) -> tuple[dict[str, pl.DataFrame], list[Remark]]:
    """The tables `parts`, `spectra`, `stability`, `alignment`, and what is to be said of them.

    Args:
        parts: of `GroupedMoments`.
        sae: whose decoder rows parts are compared to.
        seed: of the halves.
        advance: called after each part.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("parts", "spectra", "stability", "alignment")}
    remarks: list[Remark] = []
    bases = {"x": parts["x"].basis if parts["x"].varies else None, "decoder": decoder_basis(sae)}
    if bases["decoder"] is None:
        text = "The SAE has no decoder rows that all tokens share, so nothing is compared to them."
        remarks.append(("alignment", None, text))
    for name, part in parts.items():
        if not part.varies:
            what = "does not vary" if part.is_there else "is 0 up to rounding"
            remarks.append(("parts", name, f"The {name} part {what} over tokens, so it has no directions."))
            rows["parts"].append({"part": name, "variance_share": 0.0})
        else:
            found, spectra = _spectrum(part, parts["x"])
            rows["parts"].append(found)
            rows["spectra"] += spectra
            halves = _stability(part, seed)
            rows["stability"] += halves
            rows["alignment"] += [
                row for basis, of in bases.items() if of is not None for row in _within(part, basis, of)
            ]
            if not halves:
                text = (
                    f"The {name} part cannot be compared between two halves of the texts: one of them has no variance."
                )
                remarks.append(("stability", name, text))
        advance()
    if len(parts["x"].counts) < 2:
        remarks.append(("parts", None, "There are no intervals: all contexts are one group."))
    return {name: structure_table(name, content) for name, content in rows.items()}, remarks


def _spectrum(part: PartMoments, x: PartMoments) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    values = part.basis[0]
    without = np.array([eigenvalues(scatter) for scatter in part.without()]).reshape(-1, len(values))
    sizes = part.counts[: len(without)]
    found: dict[str, Any] = {"part": part.name, "variance_share": part.variance / x.variance}
    found["rank"] = int((values > 0).sum())
    for name, statistic in STATISTICS.items():
        value = statistic(values)
        low, high = jackknife(value, statistic(without), sizes, log=True)
        found |= {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
    share = shares(values)
    low, high = jackknife(share, shares(without), sizes, log=True)
    spectra = [
        {"part": part.name, "direction": i + 1, "share": share[i], "share_low": low[i], "share_high": high[i]}
        for i in range(len(values))
    ]
    return found, spectra


def _stability(part: PartMoments, seed: int) -> list[dict[str, Any]]:
    """Rows of `stability`; k goes up to the rank of the halves."""
    n_groups, d = len(part.grams), part.grams.shape[1] - 1
    found, ks = [], np.array(dimensions(d))
    for half in halvings(n_groups, N_SPLITS, seed):
        where = torch.from_numpy(half).to(part.grams.device)
        bases = [eigenbasis(scatter_of(part.grams[some].sum(0))) for some in (where, ~where)]
        rank = min(int((values > 0).sum()) for values, _ in bases)
        of_half = np.full(len(ks), np.nan)
        of_half[ks <= rank] = overlaps(bases[0][1], bases[1][1], ks[ks <= rank].tolist())
        found.append(of_half)
    if not found or not np.isfinite(found).all(0).any():
        return []
    return [
        {
            "part": part.name,
            "k": k,
            "n_splits": len(of_k),
            "overlap": of_k.mean(),
            "overlap_least": of_k.min(),
            "overlap_most": of_k.max(),
            "chance": k / d,
        }
        for k, of_k in zip(ks.tolist(), np.array(found).T, strict=True)
    ]


def _within(part: PartMoments, basis: str, of: tuple[np.ndarray, Tensor]) -> list[dict[str, Any]]:
    """Rows of `alignment`; k goes up to the rank of the basis."""
    values, vectors = of
    d, rank = vectors.shape[0], int((values > 0).sum())
    ks = [k for k in dimensions(d) if k <= rank]
    along = np.stack([variance_along(gram, vectors).cpu().numpy() for gram in part.grams])
    totals = [float(scatter.trace()) for scatter in (part.scatter, *part.without())]
    if len(totals) == 1:  # one group: nothing is left without it
        totals.append(np.nan)
    share, without = variance_within(along, part.counts, np.array(totals), ks)
    low, high = jackknife(share, without, part.counts).clip(0.0, 1.0)
    return [
        {"part": part.name, "basis": basis, "k": k, "share": share[i], "share_low": low[i], "share_high": high[i]}
        | {"chance": k / d}
        for i, k in enumerate(ks)
    ]


@torch.inference_mode()
def decoder_basis(sae: Dictionary | SlicedDictionary) -> tuple[np.ndarray, Tensor] | None:
    """Squared singular values of the decoder, the largest first, and its right singular vectors as columns; None without one.

    Equivalent to `numpy.linalg.svd(W_dec)`, read a slice of rows at a time.
    """
    gram, step = None, max(1, ROWS_BYTES // (8 * sae.d_in))
    for first in range(0, sae.d_sae, step):
        rows = sae.decoder_rows(first, min(first + step, sae.d_sae))
        if rows is None:
            return None
        product = rows.double().T @ rows.double()
        gram = product if gram is None else gram + product
    return None if gram is None or not float(gram.trace()) > 0 else eigenbasis(gram)
