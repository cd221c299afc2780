"""The second pass over an SAE's tokens: the parts of each token's error, out of fold, and everything summed from them.

1. Maps per fold from the moments, for the study's settings and for each variant (other skipped positions, no bias).
2. One pass by sparse decode; each collector takes what it needs from every chunk: the table of tokens, sums per context
   for each variant, the histograms of predicted against actual, the profile over positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from dmcore.analysis.encode import ErrorChunk
from dmcore.analysis.partition import Partition
from dmcore.math.bootstrap import bootstrap_units
from dmcore.math.fit_noise import error_influence, fit_pulls
from dmcore.math.moments import InputMoments, TargetMoments
from dmcore.math.sparse_codes import SparseCodes
from dmcore.math.split import (
    Centres,
    FoldedFit,
    SplitEstimates,
    SplitSums,
    TokenParts,
    estimates,
    fit_folds,
    row_norm_sq,
    split_tokens,
)
from dmcore.progress import Reporter
from dmcore.specs import Settings

TOKEN_COLUMNS = ("act_norm_sq", "error_sq", "linear_sq", "nonlinear_sq", "predicted_norm_sq")
"""Columns of the table of tokens, float32: squared norms of x, e, its linear and nonlinear part, and the predicted |e|^2."""
TOKENS = "tokens.parquet"
N_BINS = 64
NORM_RANGE = (-2.5, 2.5)
"""Of log10(|e|^2 / mean)."""
VECTOR_RANGE = (-4.0, 4.0)
"""Of coordinates of the error, in standard deviations."""
VECTOR_COORDINATES = 4_000_000
"""About how many coordinates the histogram of the vector is made of; tokens are taken at equal steps."""


@dataclass(frozen=True)
class Variant:
    """Settings under which the split is reported."""

    skip_positions: int
    fit_bias: bool


@dataclass(frozen=True)
class SplitPass:
    """What the pass leaves."""

    fit: FoldedFit
    """Of the study's own settings."""
    main: SplitEstimates
    sums: SplitSums
    variants: dict[Variant, tuple[int, SplitEstimates]]
    """Tokens and estimates of every variant, the study's own first."""
    density: pl.DataFrame
    positions: pl.DataFrame
    l0: float
    """Mean active latents per kept token."""
    dead_share: float
    """Share of latents that no kept token activates."""


class LatentUse:
    """Which latents the kept tokens activate, and how many at a time."""

    def __init__(self, d_sae: int, device: torch.device) -> None:
        self._used = torch.zeros(d_sae, dtype=torch.bool, device=device)
        self._n_active = self._n_tokens = 0

    def add(self, codes: SparseCodes, kept: Tensor) -> None:
        """Count some tokens."""
        of_kept = torch.repeat_interleave(kept, codes.l0)
        self._used[codes.latents[of_kept].long()] = True
        self._n_active += int(of_kept.sum())
        self._n_tokens += int(kept.sum())

    @property
    def l0(self) -> float:
        """Mean active latents per token."""
        return self._n_active / self._n_tokens

    @property
    def dead_share(self) -> float:
        """Share of latents never active."""
        return float((~self._used).double().mean())


class TokenTable:
    """Writes the table of tokens, a row group a chunk."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(
            path, pa.schema([(name, pa.float32()) for name in TOKEN_COLUMNS]), compression="none"
        )

    def add(self, part: ErrorChunk, parts: TokenParts) -> Tensor:
        """Write a chunk; returns its columns, (5, n_tokens)."""
        norms = [row_norm_sq(v) for v in (part.x, part.error, parts.linear, parts.nonlinear)]
        columns = torch.stack([*norms, parts.predicted_norm_sq.double()]).float()
        host = columns.cpu().numpy()
        self._writer.write_table(pa.table(dict(zip(TOKEN_COLUMNS, host, strict=True))))
        return columns

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


class Density:
    """Two histograms of predicted against actual: the squared norm, and the coordinates of the vector."""

    def __init__(self, norm_sq: float, error_sd: Tensor, n_tokens: int) -> None:
        self._norm_sq, self._sd = norm_sq, error_sd.clamp_min(1e-30)
        self._step = max(1, n_tokens * error_sd.numel() // VECTOR_COORDINATES)
        self._counts = {name: np.zeros(N_BINS * N_BINS, dtype=np.int64) for name in ("norm_sq", "vector")}

    def add_norms(self, columns: Tensor, kept: Tensor) -> None:
        """Count kept tokens, given the columns of the table of tokens."""
        relative = columns[:, kept] / self._norm_sq
        actual, predicted = (relative[TOKEN_COLUMNS.index(c)] for c in ("error_sq", "predicted_norm_sq"))
        self._count("norm_sq", *(v.clamp_min(1e-30).log10() for v in (actual, predicted)), NORM_RANGE)

    def add_vectors(self, error: Tensor, linear: Tensor, mean: Tensor, kept: Tensor) -> None:
        """Count the coordinates of every so many kept tokens."""
        rows = kept.nonzero().squeeze(1)[:: self._step]
        centred = [(v[rows] - mean) / self._sd for v in (error, linear)]
        self._count("vector", *(v.flatten() for v in centred), VECTOR_RANGE)

    def _count(self, panel: str, actual: Tensor, predicted: Tensor, limits: tuple[float, float]) -> None:
        low, high = limits
        bins = [((v - low) / (high - low) * N_BINS).long().clamp_(0, N_BINS - 1) for v in (actual, predicted)]
        counted = torch.bincount(bins[0] * N_BINS + bins[1], minlength=N_BINS * N_BINS)
        self._counts[panel] += counted.cpu().numpy()

    def table(self) -> pl.DataFrame:
        """The bins that hold something; the outermost bins hold what lies beyond."""
        frames = []
        for panel, limits in (("norm_sq", NORM_RANGE), ("vector", VECTOR_RANGE)):
            edges = np.linspace(*limits, N_BINS + 1)
            where = np.flatnonzero(self._counts[panel])
            rows, columns = np.divmod(where, N_BINS)
            frames.append(
                pl.DataFrame(
                    {
                        "panel": [panel] * len(where),
                        "actual_low": edges[rows],
                        "actual_high": edges[rows + 1],
                        "predicted_low": edges[columns],
                        "predicted_high": edges[columns + 1],
                        "count": self._counts[panel][where],
                    }
                )
            )
        return pl.concat(frames)


class Positions:
    """Means of the squared norms at each position of a context."""

    def __init__(self, length: int) -> None:
        self._sums = np.zeros((len(TOKEN_COLUMNS) - 1, length))
        self._contexts = 0

    def add(self, columns: Tensor, part: ErrorChunk) -> None:
        """Add a chunk, given the columns of the table of tokens."""
        shaped = columns[:-1].double().reshape(len(TOKEN_COLUMNS) - 1, part.chunk.n_contexts, part.chunk.length)
        self._sums += shaped.sum(1).cpu().numpy()
        self._contexts += part.chunk.n_contexts

    def table(self) -> pl.DataFrame:
        """A row a position."""
        length = self._sums.shape[1]
        means = dict(zip(TOKEN_COLUMNS, self._sums / self._contexts, strict=False))
        return pl.DataFrame({"position": np.arange(length), "n_tokens": np.full(length, self._contexts), **means})


def variants_of(settings: Settings) -> list[Variant]:
    """The study's own settings, then every other combination of skipped positions and bias."""
    own = Variant(settings.skip_positions, settings.fit_bias)
    skips = [settings.skip_positions, *settings.compare_skips]
    biases = [settings.fit_bias, not settings.fit_bias] if settings.compare_skips else [settings.fit_bias]
    return [own, *(v for v in (Variant(s, b) for s, b in itertools.product(skips, biases)) if v != own)]


class _VariantSums:
    """The maps and the sums of one variant."""

    def __init__(
        self, variant: Variant, inputs: InputMoments, targets: TargetMoments, partition: Partition, settings: Settings
    ) -> None:
        cells_of_fold = partition.cells_of_fold(variant.skip_positions)
        cells = [c for cells in cells_of_fold for c in cells]
        self.variant = variant
        own = variant == Variant(settings.skip_positions, settings.fit_bias)
        how = {"ridge": settings.ridge, "fit_bias": variant.fit_bias}
        fit = fit_folds(inputs, targets, cells_of_fold, **how, full=own)
        self.pulls = tuple(pull.single() for pull in fit_pulls(inputs, targets, cells_of_fold, fit, **how))
        self.fit = fit.single()
        self.centres = Centres.from_moments(inputs, targets, cells)
        self.units = bootstrap_units(len(partition.folds))
        self.sums = SplitSums(int(self.units.max()) + 1, inputs.shift.shape[0], self.centres)

    def add(self, part: ErrorChunk, kept: Tensor, parts: TokenParts, folds: Tensor) -> None:
        """Add the kept tokens of a chunk."""
        units = torch.from_numpy(self.units).to(kept.device)[part.chunk.contexts(kept.device)]
        influence = error_influence(self.pulls, part.x, part.error, parts, folds)
        self.sums.add(units, kept, part.x, part.error, parts, influence)


@dataclass(frozen=True)
class SplitInputs:
    """What the pass works from."""

    inputs: InputMoments
    targets: TargetMoments
    partition: Partition
    settings: Settings
    seed: int
    d_sae: int
    n_tokens: int
    """All tokens, skipped ones too: for the progress shown."""


@torch.inference_mode()
def split_pass(
    errors: Iterator[ErrorChunk], given: SplitInputs, folder: Path, reporter: Reporter, name: str
) -> SplitPass:
    """Take every token's error apart; writes the table of tokens into `folder`."""
    collectors = [
        _VariantSums(v, given.inputs, given.targets, given.partition, given.settings)
        for v in variants_of(given.settings)
    ]
    main = collectors[0]
    density = _density(main, given)
    profile = Positions(given.n_tokens // len(given.partition.folds))
    use = LatentUse(given.d_sae, given.inputs.shift.device)
    table = TokenTable(folder / TOKENS)
    with reporter.stage(f"split {name}", given.n_tokens, "tokens") as stage:
        for part in errors:
            folds = given.partition.token_folds(part.chunk, part.x.device)
            positions = part.chunk.positions(part.x.device)
            for collector in collectors:
                parts = split_tokens(collector.fit, part.x, part.error, folds)
                kept = positions >= collector.variant.skip_positions
                collector.add(part, kept, parts, folds)
                if collector is main:
                    columns = table.add(part, parts)
                    profile.add(columns, part)
                    density.add_norms(columns, kept)
                    density.add_vectors(part.error, parts.linear, main.centres.error.float(), kept)
                    use.add(part.codes, kept)
            stage.advance(part.x.shape[0])
    table.close()
    results = {c.variant: (int(c.sums.scalar("n_tokens").sum()), estimates(c.sums, given.seed)) for c in collectors}
    own = results[main.variant][1]
    return SplitPass(main.fit, own, main.sums, results, density.table(), profile.table(), use.l0, use.dead_share)


def _density(main: _VariantSums, given: SplitInputs) -> Density:
    cells = [c for cells in given.partition.cells_of_fold(given.settings.skip_positions) for c in cells]
    _, target_sq = given.targets.pooled(cells)
    count = float(given.inputs.pooled(cells)[-1, -1])
    variance = target_sq[:-1] / count - main.centres.error.square()
    return Density(main.centres.norm_sq, variance.clamp_min(0.0).sqrt().float(), int(count))
