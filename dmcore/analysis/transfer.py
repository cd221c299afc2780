"""Whether a map from x to the error that was fitted in one place holds in another (`dmcore.math.transfer`).

1. One pass: moments of x and the errors of each place, a cell a fold.
2. Maps of every member, fitted on all folds but one; how each meets the training tokens of every other member.
3. A second pass: each held-out token's squared error by every map of a member, summed over contexts.
4. R2 of every pair with intervals; what is relative to the tested member's own map is paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmcore.analysis.reduction_passes import SHIFT_TOKENS, UnitSums
from dmcore.analysis.shrinkage_tables import Draws, with_ends
from dmcore.analysis.transfer_places import Places
from dmcore.errors import DataError
from dmcore.math.joint_moments import ACTS, JointMoments
from dmcore.math.linear_map import AffineMap
from dmcore.math.split import row_norm_sq
from dmcore.math.transfer import KEPT, Guest, Home, squared_errors, visit
from dmcore.progress import Reporter, Stage
from dmcore.results.transfer import TRANSFER_TABLES, Transfer, transfer_table
from dmcore.specs import Settings

LEAST_TOKENS = 10
"""Training tokens that a map needs for each weight of a dimension: with fewer, its noise is most of what transfer would show."""


@dataclass(frozen=True)
class TransferInputs:
    """What transfer works from."""

    places: Places
    members: tuple[Mapping[str, Any], ...]
    """Rows of the table `members`, in order; tokens are counted where a row does not say them."""
    settings: Settings
    seed: int
    by: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Fold:
    """What one fold's tokens are tested with."""

    maps: list[AffineMap]
    """Of every member, fitted on the other folds."""
    homes: list[Home]
    guests: list[list[Guest]]
    """By tested member, then fitted."""


@torch.inference_mode()
def transfer(given: TransferInputs, folder: Path, reporter: Reporter, name: str) -> None:
    """Write the matrix into `folder`; `Transfer` opens it.

    Raises:
        DataError: fewer than two members, or a member has too few tokens for a map.
    """
    places, settings = given.places, given.settings
    if len(given.members) < 2:
        raise DataError(
            "There is nothing to transfer between: the study has one member of that kind. "
            "Give it SAEs at more layers, widths or sparsities, or texts of more than one domain."
        )
    acts = places.own.acts
    with reporter.stage(f"moments {name}", acts.n_tokens, "tokens") as stage:
        moments = place_moments(places, stage)
    _check_sizes(given, moments)
    folds = [_fitted(places, moments, fold, settings) for fold in range(places.partition.n_folds)]
    with reporter.stage(f"transfer {name}", acts.n_tokens, "tokens") as stage:
        sums, scatters, counts = _pass_over(places, moments, folds, stage)
    scales = np.array([[[guest.scale for guest in row] for row in fold.guests] for fold in folds]).mean(0)
    cells, remarks = cell_rows(sums, scatters, scales, given)
    counted = [
        {"n_tokens": int(counts[i].sum()), "n_contexts": acts.n_contexts, **member, "member": i}
        for i, member in enumerate(given.members)
    ]
    tables = {"members": counted, "cells": cells}
    tables["remarks"] = [{"topic": "transfer", "text": text} for text in (*given.remarks, *remarks)]
    about = {
        "by": given.by,
        "d_model": acts.d_model,
        "n_contexts": acts.n_contexts,
        "n_tokens": int(counts.max(0).sum() if given.by != "domain" else counts[-1].sum()),
        "n_folds": places.partition.n_folds,
        "skip_positions": settings.skip_positions,
        "seed": given.seed,
        "ridge": settings.ridge,
        "fit_bias": settings.fit_bias,
    }
    Transfer.write(folder, about, {table: transfer_table(table, tables[table]) for table in TRANSFER_TABLES})


def place_moments(places: Places, stage: Stage) -> list[JointMoments]:
    """The moments of each place: of its x, and of the errors of its members one after the other."""
    found: dict[int, JointMoments] = {}
    for n_read, views in places.views():
        for view in views:
            if view.place not in found:
                shift = view.x[:SHIFT_TOKENS].double().mean(0)
                found[view.place] = JointMoments({ACTS: shift}, places.partition.n_folds, view.errors[0].numel())
            found[view.place].add({ACTS: view.x}, view.errors.flatten(1), view.folds)
        stage.advance(n_read)
    for one in found.values():
        one.finish()
    return [found[place] for place in range(len(places.places))]


def _check_sizes(given: TransferInputs, moments: Sequence[JointMoments]) -> None:
    """Every training set must be large enough."""
    weights = given.places.own.acts.d_model + int(given.settings.fit_bias)
    for place, of_place in zip(given.places.places, moments, strict=True):
        least = min(int(of_place.n_tokens(of_place.others(fold))) for fold in range(of_place.n_folds))
        if least < LEAST_TOKENS * weights:
            name = given.members[place[0]]["name"]
            raise DataError(
                f"The smallest training set of {name} has {least:,} tokens, {LEAST_TOKENS * weights:,} are needed for a map "
                f"of {weights:,} weights a dimension: too few to say whether maps transfer. Give more texts."
            )


def _fitted(places: Places, moments: Sequence[JointMoments], fold: int, settings: Settings) -> _Fold:
    """The maps of one fold, and how they meet each member."""
    n_members = sum(len(members) for members in places.places)
    maps: dict[int, AffineMap] = {}
    homes: dict[int, Home] = {}
    for members, of_place in zip(places.places, moments, strict=True):
        others, shift = of_place.others(fold), of_place.shifts[ACTS]
        fitted = of_place.fit([ACTS], others, ridge=settings.ridge, fit_bias=settings.fit_bias)
        gram, cross = of_place.gram([ACTS], others), of_place.cross([ACTS], others)
        d = cross.shape[1] // len(members)
        for k, member in enumerate(members):
            maps[member] = fitted.columns(k * d, (k + 1) * d)
            homes[member] = Home(gram, cross[:, k * d : (k + 1) * d], shift)
    order = range(n_members)
    guests = [[visit(maps[a], homes[b]) for a in order] for b in order]
    return _Fold([maps[i] for i in order], [homes[i] for i in order], guests)


def _pass_over(
    places: Places, moments: Sequence[JointMoments], folds: Sequence[_Fold], stage: Stage
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums over units: (n_tested, n_units, n_fitted * len(KEPT)) squared errors, (n_tested, n_units) scatters and tokens."""
    n, n_contexts = len(folds[0].maps), len(places.partition.folds)
    errors = [UnitSums(n_contexts, n * len(KEPT)) for _ in range(n)]
    totals = [UnitSums(n_contexts, 2) for _ in range(n)]
    means = [_error_means(moments[p], len(members)) for p, members in enumerate(places.places)]
    for n_read, views in places.views():
        for view in views:
            m, dtype = len(view.members), view.x.dtype
            found = torch.empty(m, len(view.x), n, len(KEPT), dtype=torch.float64, device=view.x.device)
            for fold in torch.unique(view.folds).tolist():
                where, with_ = (view.folds == fold).nonzero().squeeze(1), folds[fold]
                x = view.x[where] - with_.homes[view.members[0]].x_mean.to(dtype)
                about = [
                    view.errors[where, k] - with_.homes[b].error_mean.to(dtype) for k, b in enumerate(view.members)
                ]
                for a, fitted in enumerate(with_.maps):
                    predicted = x @ fitted.weight.to(dtype)
                    for k, b in enumerate(view.members):
                        found[k, where, a] = squared_errors(about[k], predicted, with_.guests[b][a]).double()
            for k, b in enumerate(view.members):
                scatter = row_norm_sq(view.errors[:, k] - means[view.place][k].to(dtype))
                errors[b].add(view.contexts, found[k].flatten(1))
                totals[b].add(view.contexts, torch.stack([scatter, torch.ones_like(scatter)], dim=1))
        stage.advance(n_read)
    both = np.stack([one.sums for one in totals])
    return np.stack([one.sums for one in errors]), both[:, :, 0], both[:, :, 1]


def _error_means(moments: JointMoments, n_members: int) -> torch.Tensor:
    """(n_members, d) mean of each member's error over all of its tokens."""
    everything = range(moments.n_folds)
    return (moments.cross([ACTS], everything)[-1] / moments.n_tokens(everything)).reshape(n_members, -1)


def cell_rows(
    sums: np.ndarray, scatters: np.ndarray, scales: np.ndarray, given: TransferInputs
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of `cells`, and what is to be said of them.

    Args:
        sums, scatters: of `_pass_over`.
        scales: (n_tested, n_fitted), mean over folds.
        given: for the seed and the names.
    """
    n, n_units = len(sums), sums.shape[1]
    draws, rows, remarks = Draws(n_units, given.seed), [], []
    for b in range(n):
        if not scatters[b].sum() > 0:
            remarks.append(f"The error of {given.members[b]['name']} does not vary: nothing of it can be explained.")
            continue
        r2 = draws.r2(sums[b], scatters[b]).reshape(-1, n, len(KEPT))
        own = r2[:, b, KEPT.index("map")]
        lasting = np.nanpercentile(own[1:], 2.5) > 0
        if not lasting:
            remarks.append(
                f"The map fitted on {given.members[b]['name']} explains nothing of its own error beyond doubt: nothing is "
                "given relative to it."
            )
        for a in range(n):
            for k, kept in enumerate(KEPT):
                row = {"fitted": a, "tested": b, "kept": kept} | with_ends("r2", r2[:, a, k])
                row |= with_ends("drop", own - r2[:, a, k])
                row |= with_ends("relative", r2[:, a, k] / own) if lasting else {}
                rows.append(row | ({"scale": float(scales[b, a])} if kept == "scaled" else {}))
    return rows, remarks
