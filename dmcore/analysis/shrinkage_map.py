"""What the map from x to an SAE's error looks like: shape, singular values, and what its directions are aligned with.

Of the map of all tokens, with intervals from a jackknife over the folds: the maps without each of them are there already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from dmcore.analysis.error_spectra import decoder_basis
from dmcore.analysis.shrinkage_fits import ShrinkageMaps
from dmcore.math.map_facts import (
    READS,
    WEIGHTINGS,
    WRITES,
    Directions,
    directions,
    row_cosines,
    shape_chance,
    shape_shares,
)
from dmcore.math.spectrum import eigenbasis, jackknife, shares
from dmcore.math.subspaces import dimensions, overlaps
from dmcore.sources.dictionary import Dictionary
from dmcore.sources.sliced_dictionary import SlicedDictionary

Remark = tuple[str, str]
N_ROWS = 16
"""Directions of each side that are compared to single decoder rows."""


def map_tables(
    maps: ShrinkageMaps, per_fold: Sequence[int], sae: Dictionary | SlicedDictionary, seed: int
) -> tuple[dict[str, list[dict[str, Any]]], list[Remark]]:
    """Rows of `shape`, `spectrum`, `alignment` and `rows`, and what is to be said of them.

    Args:
        maps: of all tokens, and without each fold.
        per_fold: tokens of each.
        sae: whose decoder rows directions are compared to.
        seed: of the random directions.
    """
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in ("shape", "spectrum", "alignment", "rows")}
    whole, sizes = maps.whole.weight.double(), np.array(per_fold)
    if not float(whole.abs().max()) > 0:
        return tables, [("map", "The linear map is 0, so it has no directions.")]
    without = [fold.full.weight.double() for fold in maps.folds]
    tables["shape"] = _shape(whole, without, sizes)
    found = {name: directions(whole, maps.scatter, name) for name in WEIGHTINGS}
    left_out = {name: [directions(weight, maps.scatter, name) for weight in without] for name in WEIGHTINGS}
    tables["spectrum"] = _spectrum(found, left_out, sizes)
    bases: dict[str, Tensor] = {"x": eigenbasis(maps.scatter)[1]}
    remarks: list[Remark] = []
    if (rows := decoder_basis(sae)) is None:
        remarks.append(("rows", "The SAE has no decoder rows that all tokens share, so nothing is compared to them."))
    else:
        bases["decoder"] = rows[1]
    for weighting in WEIGHTINGS:
        for side in (READS, WRITES):
            some, others = getattr(found[weighting], side), [getattr(one, side) for one in left_out[weighting]]
            for basis, vectors in bases.items():
                about = {"side": side, "weighting": weighting, "basis": basis}
                tables["alignment"] += [about | row for row in _overlaps(some, others, vectors, sizes)]
            if "decoder" in bases:
                about = {"side": side, "weighting": weighting}
                tables["rows"] += [about | row for row in _nearest(some[:, :N_ROWS], sae, seed)]
    return tables, remarks


def _shape(whole: Tensor, without: Sequence[Tensor], sizes: np.ndarray) -> list[dict[str, Any]]:
    value, chance = shape_shares(whole), shape_chance(len(whole))
    others = [shape_shares(weight) for weight in without]
    rows = []
    for fact in value:
        low, high = jackknife(value[fact], np.array([one[fact] for one in others]), sizes)
        row = {"fact": fact, "value": value[fact], "value_low": float(low), "value_high": float(high)}
        rows.append(row | {"chance": chance.get(fact, 0.0)})
    return rows


def _spectrum(
    found: dict[str, Directions], left_out: dict[str, list[Directions]], sizes: np.ndarray
) -> list[dict[str, Any]]:
    def numbers(one: Directions) -> np.ndarray:
        return one.values.cpu().numpy()

    singular, predicted = numbers(found["plain"]), shares(numbers(found["data"]))
    ends = jackknife(singular, np.stack([numbers(one) for one in left_out["plain"]]), sizes).clip(0.0)
    of_share = jackknife(predicted, shares(np.stack([numbers(one) for one in left_out["data"]])), sizes).clip(0.0, 1.0)
    return [
        {"direction": i + 1, "singular": singular[i], "singular_low": ends[0, i], "singular_high": ends[1, i],
         "predicted": predicted[i], "predicted_low": of_share[0, i], "predicted_high": of_share[1, i]}
        for i in range(len(singular))
    ]  # fmt: skip


def _overlaps(some: Tensor, others: Sequence[Tensor], basis: Tensor, sizes: np.ndarray) -> list[dict[str, Any]]:
    d = len(some)
    ks = [k for k in dimensions(d) if k <= min(some.shape[1], basis.shape[1])]
    if not ks:
        return []
    value = overlaps(some, basis, ks)
    low, high = jackknife(value, np.stack([overlaps(one, basis, ks) for one in others]), sizes).clip(0.0, 1.0)
    return [
        {"k": k, "overlap": value[i], "overlap_low": low[i], "overlap_high": high[i], "chance": k / d}
        for i, k in enumerate(ks)
    ]


def _nearest(some: Tensor, sae: Dictionary | SlicedDictionary, seed: int) -> list[dict[str, Any]]:
    found = row_cosines(some, sae.decoder_rows, sae.d_sae, seed=seed)
    if found is None:
        return []
    pairs = zip(found.cosines.tolist(), found.latents.tolist(), strict=True)
    return [
        {"direction": i + 1, "cosine": cosine, "latent": latent, "chance": found.chance}
        for i, (cosine, latent) in enumerate(pairs)
    ]
