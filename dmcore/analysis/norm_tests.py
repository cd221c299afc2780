"""The norm tests of one SAE: how well linear maps predict squared norms, and what the map for that of Sae(x) looks at.

1. First pass over the stored codes: moments of x, the error and the squared norms (`NormMoments`), with the parts of the
   error out of fold by the maps of the split; how often and how strongly each latent is active.
2. Maps from moments: from x, and from the quantity itself, to its squared norm (`fit_norms`).
3. Second pass: squared residuals per context, hence R2 with an interval. Nothing kept grows with the number of tokens.
4. The latent check: the probe is the linear map from r = Sae(x) - b_dec to |r|^2. With decoder rows d_i that are nearly
   orthogonal, |r|^2 = sum f_i^2 |d_i|^2, and the slope along d_i that fits this best is near the size |f_i d_i| that latent i
   has when it is active. So for each latent the probe's product with d_i / |d_i| stands against the mean of |f_i d_i| where
   active. Decoder rows are read a slice at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from dmcore.analysis.activations import Activations, Chunk
from dmcore.analysis.encode import decoded
from dmcore.analysis.partition import Partition
from dmcore.estimate import Estimate
from dmcore.math.bootstrap import bootstrap_units
from dmcore.math.linear_map import AffineMap
from dmcore.math.moments import InputMoments
from dmcore.math.norm_prediction import (
    PROBE,
    NormFit,
    NormMoments,
    NormSums,
    estimates,
    fit_norms,
    norms_of,
    vectors_of,
)
from dmcore.math.sparse_codes import SparseCodes
from dmcore.math.split import FoldedFit, split_tokens
from dmcore.progress import Reporter, Stage
from dmcore.results.scaling import QUANTITIES, TABLES
from dmcore.sources.dictionary import Dictionary
from dmcore.sources.sliced_dictionary import SlicedDictionary
from dmcore.specs import Settings

NORM_TABLES = ("norm_tests", "latent_checks", "latents")
"""Tables of `dmcore.results.scaling.TABLES` that one SAE's entry holds, without their column `sae`."""
PREDICTORS = ("x", "itself")
"""What a norm is predicted from, in the order of the rows."""
LEAST_ACTIVE = 10
"""Kept tokens on which a latent must be active to be checked."""
SHOWN_LATENTS = 400
"""Most rows of the table of latents."""
ROWS_BYTES = 2**27
"""Bytes, in float64, of the decoder rows that are looked at together."""


@dataclass(frozen=True)
class NormTestInputs:
    """What the tests work from."""

    acts: Activations
    sae: Dictionary | SlicedDictionary
    codes: Path
    """Folder of its codes."""
    split: Path
    """Folder of its split, which holds the maps of the folds."""
    inputs: InputMoments
    """Gram matrices of the site."""
    partition: Partition
    settings: Settings
    seed: int
    device: torch.device


@dataclass(frozen=True)
class _Tokens:
    """Some tokens, with what is tested of them."""

    chunk: Chunk
    vectors: dict[str, Tensor]
    norms: Tensor
    folds: Tensor
    """Fold of each token, -1 where it is skipped."""
    codes: SparseCodes


class LatentTotals:
    """On how many kept tokens each latent is active, and the sum of its values there.

    Counted by numpy, on the host: sums on a GPU come in another order on every run.
    """

    def __init__(self, d_sae: int) -> None:
        self.counts, self.sums = np.zeros(d_sae, dtype=np.int64), np.zeros(d_sae)

    def add(self, codes: SparseCodes, kept: Tensor) -> None:
        """Count some tokens."""
        of_kept = torch.repeat_interleave(kept, codes.l0)
        latents, values = (v[of_kept].cpu().numpy() for v in (codes.latents, codes.values.double()))
        self.counts += np.bincount(latents, minlength=len(self.counts))
        self.sums += np.bincount(latents, weights=values, minlength=len(self.sums))


def norm_tests(given: NormTestInputs, folder: Path, reporter: Reporter, name: str) -> None:
    """Write `NORM_TABLES` of one SAE into `folder`.

    Maps have a bias, and the study's ridge; with a bias in the study as well, R2 of the error's norm from x is the record's
    `r2_error_norm_sq`, with its interval. R2 is null where a norm does not vary: an SAE that is dead, or exact. There are no
    latents (`n_latents` 0) where there are no decoder rows, no probe, or none is active often enough.
    """
    linear = fold_maps(given.split, given.inputs.shift, given.partition.n_folds)
    with reporter.stage(f"norm tests of {name}", 2 * given.acts.n_tokens, "tokens") as stage:
        moments, totals = _first_pass(given, linear, stage)
        fit = fit_norms(moments, linear, ridge=given.settings.ridge)
        del moments  # several matrices of d_model x d_model for each fold
        sums = NormSums(fit, bootstrap_units(len(given.partition.folds)))
        with torch.inference_mode():
            for tokens in _tokens(given, linear, stage):
                where = (tokens.chunk.first_context, tokens.chunk.n_contexts)
                sums.add(tokens.vectors, tokens.norms, tokens.folds, where)
    r2 = estimates(sums, fit, given.seed)
    kept = given.acts.n_contexts * (given.acts.length - given.settings.skip_positions)
    latents = _checked_latents(given.sae, fit, totals, kept)
    tables = {
        "norm_tests": pl.DataFrame(
            [_row(quantity, predictor, r2) for quantity in QUANTITIES for predictor in PREDICTORS]
        ),
        "latent_checks": pl.DataFrame([_check(latents, r2.get((PROBE, "itself")))]),
        "latents": _shown(latents),
    }
    for table, content in tables.items():
        schema = {column: dtype for column, dtype in TABLES[table].items() if column != "sae"}
        in_schema = content.select(pl.col(column).cast(dtype) for column, dtype in schema.items())
        in_schema.write_parquet(folder / f"{table}.parquet", compression="zstd")


def read_norm_tests(folder: Path) -> dict[str, pl.DataFrame]:
    """What `norm_tests` wrote, by name of table."""
    return {name: pl.read_parquet(folder / f"{name}.parquet") for name in NORM_TABLES}


def fold_maps(split: Path, shift: Tensor, n_folds: int) -> FoldedFit:
    """The maps of a split entry from x to `[e, |e|^2]`, one a fold, about the shift at which they were fitted."""
    tensors = load_file(split / "maps.safetensors", device=str(shift.device))
    maps = []
    for fold in range(n_folds):
        weight, bias = tensors[f"fold_{fold}.weight"], tensors[f"fold_{fold}.bias"]
        maps.append(AffineMap(weight, bias.double() + shift @ weight.double(), shift))
    return FoldedFit(tuple(maps), None)


def _tokens(given: NormTestInputs, linear: FoldedFit, stage: Stage) -> Iterator[_Tokens]:
    """All tokens, in order."""
    bias = given.sae.decoder_bias
    for part in decoded(given.acts, given.sae, given.codes, given.device):
        folds = given.partition.token_folds(part.chunk, part.x.device)
        parts = split_tokens(linear, part.x, part.error, folds)
        vectors = vectors_of(part.x, part.error, parts.linear)
        kept = part.chunk.positions(part.x.device) >= given.settings.skip_positions
        yield _Tokens(part.chunk, vectors, norms_of(vectors, bias), torch.where(kept, folds, -1), part.codes)
        stage.advance(part.x.shape[0])


@torch.inference_mode()
def _first_pass(given: NormTestInputs, linear: FoldedFit, stage: Stage) -> tuple[NormMoments, LatentTotals]:
    moments, totals = None, LatentTotals(given.sae.d_sae)
    cells_of_fold = given.partition.cells_of_fold(given.settings.skip_positions)
    for tokens in _tokens(given, linear, stage):
        kept, error = tokens.folds >= 0, tokens.vectors["error"]
        if moments is None:
            moments = NormMoments(given.inputs, cells_of_fold, error[kept].double().mean(0), tokens.norms.shape[1])
        moments.add(tokens.vectors["x"], error, tokens.norms, tokens.folds)
        totals.add(tokens.codes, kept)
    assert moments is not None, "a study has contexts"
    moments.finish()
    return moments, totals


def _row(quantity: str, predictor: str, r2: dict[tuple[str, str], Estimate]) -> dict[str, str | float | None]:
    found = r2[quantity, predictor]
    ends = {"r2": found.value, "r2_low": found.low, "r2_high": found.high}
    return {"quantity": quantity, "predictor": predictor, **{end: _number(value) for end, value in ends.items()}}


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _checked_latents(
    sae: Dictionary | SlicedDictionary, fit: NormFit, totals: LatentTotals, n_kept: int
) -> dict[str, np.ndarray]:
    """Number, frequency, size and probe of the latents that are active often enough; none without a probe."""
    wanted = totals.counts >= LEAST_ACTIVE
    sizes, probes = np.zeros(sae.d_sae), np.zeros(sae.d_sae)
    if fit.probe is not None and fit.probe.full_map is not None:
        slope = fit.probe.full_map.weight[:, 0]
        step = max(1, ROWS_BYTES // (8 * sae.d_in))
        for first in range(0, sae.d_sae, step):
            last = min(first + step, sae.d_sae)
            rows = sae.decoder_rows(first, last) if wanted[first:last].any() else None
            if rows is not None:
                sizes[first:last] = rows.double().norm(dim=1).cpu().numpy()
                probes[first:last] = (rows.double() @ slope).cpu().numpy()
    found = np.flatnonzero(wanted & (sizes > 0))
    return {
        "latent": found,
        "frequency": totals.counts[found] / n_kept,
        "mean_active": totals.sums[found] / totals.counts[found] * sizes[found],
        "probe": probes[found] / sizes[found],
    }


def _check(latents: dict[str, np.ndarray], r2: Estimate | None) -> dict[str, float | None]:
    both = latents["probe"], latents["mean_active"]
    # Numbers that differ by rounding alone have no correlation.
    varied = all(len(v) > 2 and np.ptp(v) > 1e-9 * np.abs(v).max() for v in both)
    return {
        "n_latents": len(latents["latent"]),
        "pearson": float(pearsonr(*both).statistic) if varied else None,
        "spearman": float(spearmanr(*both).statistic) if varied else None,
        "probe_r2": None if r2 is None else _number(r2.value),
    }


def _shown(latents: dict[str, np.ndarray]) -> pl.DataFrame:
    """Latents at equal steps of the order of frequency; of equally frequent ones the lower number comes first."""
    order = np.argsort(latents["frequency"], kind="stable")
    picked = np.unique(np.linspace(0, len(order) - 1, min(SHOWN_LATENTS, len(order))).round().astype(np.int64))
    return pl.DataFrame({name: values[order[picked]] for name, values in latents.items()})
