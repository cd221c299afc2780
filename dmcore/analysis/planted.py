"""The paper's synthetic experiment on one SAE: known errors are added to what it makes, and looked for.

1. `x' = Sae(x)` stands for the true activation: the SAE reconstructs it exactly. The latents that are active least often are
   taken out of it, so that what they wrote becomes an error, features absent from the dictionary.
2. Noise is added to x' (a part of the activation that the SAE knows nothing of) and to the reconstruction (what an SAE adds that
   is not in the activation), on a grid; it is Gaussian, or the SAE's real errors of other tokens.
3. The truth: noise is independent of x', so its second moments are known; those of x' and of what was ablated are summed over
   all tokens. The best affine map follows, and what it leaves. Noise on x' is *not* all linear: where the noise is small beside
   x', x'' = x' + noise hardly tells it.
4. The estimate: least squares on a sample of contexts, held out by context, in the same way as for any SAE.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmcore.analysis.context_sample import ContextSample, sample_of
from dmcore.analysis.encode import decoded
from dmcore.analysis.norm_tests import NormTestInputs
from dmcore.errors import DataError
from dmcore.math.bootstrap import bootstrap_units, interval
from dmcore.math.mixtures import PieceMoments, Tokens, best_split, held_out_split
from dmcore.math.moments import InputMoments, MomentAccumulator
from dmcore.math.sparse_codes import SparseCodes
from dmcore.math.split import check_determined
from dmcore.progress import Reporter
from dmcore.results.synthetic import (
    ABLATED,
    LEVELS,
    NOISES,
    PLANTED_TABLES,
    SPLIT,
    Planted,
    PlantedSettings,
    synthetic_table,
)

TRUE, ON_ACTS, ON_RECON = "true", "on_acts", "on_recon"
"""Names of pieces: x', and the two noises at mean square 1 times that of the real error."""


def ablated(share: float) -> str:
    """Name of the piece that so many latents wrote."""
    return f"ablated_{share:g}"


@dataclass(frozen=True)
class Gathered:
    """What the passes over the tokens found."""

    truth: PieceMoments
    """Of x' and what was ablated, over all kept tokens."""
    error_gram: Tensor
    """(d_model + 1, d_model + 1) of the real error, over all kept tokens."""
    pieces: dict[str, Tensor]
    """Of the kept tokens of the sample."""
    errors: Tensor
    """(n_sampled, d_model) their real errors."""
    folds: Tensor
    contexts: Tensor

    @property
    def n_tokens(self) -> int:
        """Kept tokens of the study."""
        return round(float(self.error_gram[-1, -1]))

    @property
    def error_covariance(self) -> Tensor:
        """(d_model, d_model) of the real error."""
        mean = self.error_gram[-1, :-1] / self.error_gram[-1, -1]
        return self.error_gram[:-1, :-1] / self.error_gram[-1, -1] - torch.outer(mean, mean)


@torch.inference_mode()
def planted(
    given: NormTestInputs, asked: PlantedSettings, folder: Path, reporter: Reporter, name: str, hook: str
) -> None:
    """Write the experiment on an SAE into `folder`; `Planted` opens it.

    Raises:
        DataError: too few tokens for the map, or the SAE reconstructs without an error to be compared with.
    """
    settings, acts, partition = given.settings, given.acts, given.partition
    kept = acts.length - settings.skip_positions
    sample = sample_of(partition, kept, asked.contexts, acts.d_model + 1)
    per_fold = np.bincount(partition.folds[list(sample.contexts)], minlength=partition.n_folds) * kept
    check_determined(per_fold.tolist(), acts.d_model + 1, 0.0)
    with reporter.stage(f"what latents of {name} write", 2 * acts.n_tokens, "tokens") as stage:
        least = _least_used(given, stage.advance)
        found = _gather(given, sample, least, stage.advance)
    if not float(found.error_covariance.trace()) > 0:
        raise DataError(f"{name} makes no error, so there is nothing to measure noise by: choose another SAE.")
    cells, correlations = [], []
    total = len(NOISES) * len(ABLATED) * len(LEVELS) ** 2
    with reporter.stage(f"planted errors in {name}", total, "cells") as stage:
        for noise in NOISES:
            tokens = _with_noise(given, found, noise)
            truth = _truth_with_noise(found, noise)
            for share in ABLATED:
                rows, replicates = [], []
                for on_acts, on_recon in product(LEVELS, LEVELS):
                    stage.advance(1)
                    if not (share or on_acts or on_recon):
                        continue  # nothing was planted
                    row, drawn = _cell(tokens, truth, share, on_acts, on_recon)
                    rows.append({"noise": noise, **row})
                    replicates.append(drawn)
                cells += rows
                correlations += _correlations(rows, replicates)
    about = {
        "sae": name,
        "hook": hook,
        "d_model": acts.d_model,
        "d_sae": given.sae.d_sae,
        "n_tokens": found.n_tokens,
        "n_contexts": acts.n_contexts,
        "sample_tokens": len(found.contexts),
        "sample_contexts": len(sample.contexts),
        "n_folds": partition.n_folds,
        "skip_positions": settings.skip_positions,
        "seed": given.seed,
        "error_share": _error_share(found),
    }
    tables = {"cells": cells, "correlations": correlations}
    Planted.write(folder, about, {t: synthetic_table(PLANTED_TABLES[t], rows) for t, rows in tables.items()})


def _kept(given: NormTestInputs) -> Iterator[tuple[Any, Tensor]]:
    """Chunks of tokens with their errors and codes, and which of them are kept."""
    for one in decoded(given.acts, given.sae, given.codes, given.device):
        yield one, (one.chunk.positions(given.device) >= given.settings.skip_positions).nonzero().squeeze(1)


def _least_used(given: NormTestInputs, advance: Any) -> dict[float, Tensor]:
    """(d_sae,) which latents stay, for each share of `ABLATED`: the least often active on kept tokens go first."""
    counts = torch.zeros(given.sae.d_sae, dtype=torch.int64, device=given.device)
    for one, kept in _kept(given):
        counts += torch.bincount(one.codes.chosen(kept).latents.long(), minlength=len(counts))
        advance(len(one.x))
    order = torch.argsort(counts, stable=True)
    stays = {}
    for share in ABLATED:
        stays[share] = torch.ones(len(counts), dtype=torch.bool, device=given.device)
        stays[share][order[: round(share * len(counts))]] = False
    return stays


def _gather(given: NormTestInputs, sample: ContextSample, stays: dict[float, Tensor], advance: Any) -> Gathered:
    names = [ablated(share) for share in stays if share]
    truth = PieceMoments([TRUE], names, given.acts.d_model, device=given.device)
    errors = InputMoments(1, torch.zeros(given.acts.d_model, dtype=torch.float64, device=given.device))
    accumulator = MomentAccumulator(errors, None, errors.shift)
    taken: dict[str, list[Tensor]] = {name: [] for name in (TRUE, *names, "error", "context")}
    sampled = torch.tensor(sample.contexts, device=given.device)
    centre = None
    for one, kept in _kept(given):
        recon, codes = (one.x - one.error), one.codes
        # Activations are taken about a fixed point, so that a large mean does not cost digits: a bias undoes it.
        centre = recon[kept].mean(0) if centre is None else centre
        pieces = {TRUE: (recon - centre)[kept]}
        for share, stay in stays.items():
            if share:
                left = SparseCodes(codes.offsets, codes.latents, codes.values * stay[codes.latents.long()])
                pieces[ablated(share)] = (recon - given.sae.decode(left, one.x))[kept]
        truth.add(pieces)
        accumulator.add(one.error[kept].double(), None, torch.zeros_like(kept))
        contexts = one.chunk.contexts(given.device)[kept]
        here = torch.isin(contexts, sampled)
        for name, rows in {**pieces, "error": one.error[kept], "context": contexts}.items():
            taken[name].append(rows[here])
        advance(len(one.x))
    accumulator.finish()
    joined = {name: torch.cat(rows) for name, rows in taken.items()}
    contexts = joined.pop("context")
    folds = torch.from_numpy(given.partition.folds).to(contexts.device)[contexts]
    return Gathered(truth, errors.gram[0], joined, joined.pop("error"), folds, contexts)


def _noises(given: NormTestInputs, found: Gathered, noise: str) -> tuple[Tensor, Tensor]:
    """Two independent draws, (n_sampled, d_model), with the mean square of the real error."""
    g = torch.Generator().manual_seed(given.seed)
    shape, like = found.errors.shape, found.errors
    if noise == "gaussian":
        size = (float(found.error_covariance.trace()) / shape[1]) ** 0.5
        return tuple((size * torch.randn(shape, generator=g)).to(like) for _ in range(2))  # type: ignore[return-value]
    mean = (found.error_gram[-1, :-1] / found.error_gram[-1, -1]).to(like)
    return tuple(like[torch.randperm(len(like), generator=g).to(like.device)] - mean for _ in range(2))  # type: ignore[return-value]


def _with_noise(given: NormTestInputs, found: Gathered, noise: str) -> Tokens:
    """The sample, with both noises."""
    names = [name for name in found.pieces if name != TRUE]
    on_acts, on_recon = _noises(given, found, noise)
    pieces = {**found.pieces, ON_ACTS: on_acts, ON_RECON: on_recon}
    moments = PieceMoments(
        [TRUE, ON_ACTS], [*names, ON_RECON], given.acts.d_model, given.partition.n_folds, given.device
    )
    moments.add(pieces, found.folds)
    units = bootstrap_units(given.acts.n_contexts)
    return Tokens(pieces, moments, found.folds, found.contexts, given.seed, units)


def _truth_with_noise(found: Gathered, noise: str) -> PieceMoments:
    """The moments of all tokens, joined by the expected ones of noise that is independent of them, and of mean 0."""
    known, d = found.truth, found.truth.d_model
    names = [name for name in known.names if name != TRUE]
    moments = PieceMoments([TRUE, ON_ACTS], [*names, ON_RECON], d, device=known.dots.device)
    covariance = found.error_covariance
    if noise == "gaussian":
        covariance = torch.eye(d, dtype=torch.float64, device=covariance.device) * (covariance.trace() / d)
    n_tokens = known.cross[0, -1, -1]
    where = torch.cat([torch.arange(moments.names.index(n) * d, (moments.names.index(n) + 1) * d) for n in known.names])
    where = torch.cat([where, torch.tensor([moments.cross.shape[2] - 1])])
    rows = torch.cat([torch.arange(d), torch.tensor([moments.cross.shape[1] - 1])])
    moments.cross[0][rows[:, None], where[None]] = known.cross[0]
    moments.cross[0, d : 2 * d, d : 2 * d] = n_tokens * covariance
    places = torch.tensor([moments.names.index(n) for n in known.names])
    moments.dots[places[:, None], places[None]] = known.dots
    for name in (ON_ACTS, ON_RECON):
        k = moments.names.index(name)
        moments.dots[k, k] = n_tokens * covariance.trace()
    return moments


def _cell(
    tokens: Tokens, truth: PieceMoments, share: float, on_acts: float, on_recon: float
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The row of a cell, but for its noise, and the replicates of its estimates."""
    a, b = on_acts**0.5, on_recon**0.5
    x = {TRUE: 1.0, ON_ACTS: a}
    parts = {"absent": {ablated(share): 1.0} if share else {}, "acts": {ON_ACTS: a}, "recon": {ON_RECON: -b}}
    error = {name: weight for part in parts.values() for name, weight in part.items()}
    best = best_split(truth, x, error, parts)
    found, replicates = held_out_split(tokens, x, error)
    row = {
        "ablated": share,
        "on_acts": on_acts,
        "on_recon": on_recon,
        **{f"planted_{name}": sizes[0] for name, sizes in best.components.items()},
        "truth_fvu": best.fvu,
        "truth_linear": best.linear,
        "truth_nonlinear": best.nonlinear,
        **found,
    }
    return row, replicates


def _correlations(rows: list[dict[str, Any]], replicates: list[dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """The correlations over the cells of one noise and ablation, with intervals over contexts."""
    made = []
    for planted_in, part in product(("acts", "recon"), SPLIT):
        put = np.array([row[f"planted_{planted_in}"] for row in rows])
        values = np.array([row[part] for row in rows])
        drawn = np.stack([one[part] for one in replicates], axis=1)
        r = interval(float(_pearson(put, values[None])[0]), _pearson(put, drawn))
        made.append({
            "noise": rows[0]["noise"], "ablated": rows[0]["ablated"], "planted": planted_in, "found": part,
            "r": r.value, "r_low": r.low, "r_high": r.high,
        })  # fmt: skip
    return made


def _pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) correlation of `a` (n_cells,) with each row of `b` (n, n_cells)."""
    a, b = a - a.mean(), b - b.mean(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (b @ a) / np.sqrt((a @ a) * (b * b).sum(1))


def _error_share(found: Gathered) -> float:
    cross, d = found.truth.cross[0], found.truth.d_model
    mean = cross[-1, :d] / cross[-1, -1]
    variance = float(cross[:d, :d].diagonal().sum() / cross[-1, -1] - mean @ mean)
    return float(found.error_covariance.trace()) / variance
