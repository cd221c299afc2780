"""Whether the linear part of an SAE's error is only undone shrinkage.

1. Moments of x and the error (`reduction_passes.joint_moments`); from them every map (`shrinkage_fits`).
2. One pass over the tokens: squared errors of every map, out of fold, summed over contexts, from which all intervals come.
3. What the map looks like (`shrinkage_map`), from the maps alone.
4. The tables (`shrinkage_tables`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dmcore.analysis.reduction_passes import TokenSources, UnitSums, joint_moments
from dmcore.analysis.shrinkage_fits import FoldMaps, ShrinkageMaps, fit_maps, groups_of
from dmcore.analysis.shrinkage_map import map_tables
from dmcore.analysis.shrinkage_tables import ShrinkageSums, sum_tables
from dmcore.math.corrections import Rows
from dmcore.math.joint_moments import ACTS, JointMoments
from dmcore.math.split import check_determined, row_norm_sq
from dmcore.progress import Reporter, Stage
from dmcore.results.shrinkage import OUTLIER_MULTIPLE, SCALES, SHRINKAGE_TABLES, Shrinkage, shrinkage_table
from dmcore.specs import Settings


@dataclass(frozen=True)
class ShrinkageInputs:
    """What the ladder works from."""

    sources: TokenSources
    settings: Settings
    seed: int


@torch.inference_mode()
def shrinkage(given: ShrinkageInputs, folder: Path, reporter: Reporter, name: str) -> None:
    """Write the ladder of one SAE into `folder`; `Shrinkage` opens it.

    Every rung has a bias if the study's map has, and the full rank is the study's map. What cannot be said (an error that is 0,
    shares of a linear part that is not there, outliers where there are none) is null, with a sentence in `remarks`.

    Raises:
        DataError: too few tokens for the map from x.
    """
    settings, sources = given.settings, given.sources
    own, n_tokens = sources.own, sources.own.acts.n_tokens
    with reporter.stage(f"moments of the error of {name}", n_tokens, "tokens") as stage:
        moments = joint_moments(sources, stage)
    per_fold = [int(moments.n_tokens([fold])) for fold in range(moments.n_folds)]
    check_determined(per_fold, own.acts.d_model + int(settings.fit_bias), settings.ridge)
    bias = own.sae.decoder_bias
    maps = fit_maps(
        moments,
        ridge=settings.ridge,
        fit_bias=settings.fit_bias,
        decoder_bias=None if bias is None else bias.double(),
        dtype=sources.dtype,
    )
    with reporter.stage(f"shrinkage of {name}", n_tokens, "tokens") as stage:
        sums = pass_over(sources, moments, maps, stage)
    tables, remarks = sum_tables(sums, maps, given.seed)
    with reporter.stage(f"the linear map of {name}", 1, "maps") as stage:
        of_map, more = map_tables(maps, per_fold, own.sae, given.seed)
        stage.advance()
    tables |= of_map
    tables["remarks"] = [{"topic": topic, "text": text} for topic, text in [*remarks, *more]]
    about = {
        "sae": name,
        "d_model": own.acts.d_model,
        "d_sae": own.sae.d_sae,
        "n_tokens": sum(per_fold),
        "n_contexts": own.acts.n_contexts,
        "n_folds": moments.n_folds,
        "skip_positions": settings.skip_positions,
        "seed": given.seed,
        "ridge": settings.ridge,
        "fit_bias": settings.fit_bias,
        "outlier_multiple": OUTLIER_MULTIPLE,
    }
    Shrinkage.write(folder, about, {table: shrinkage_table(table, tables[table]) for table in SHRINKAGE_TABLES})


def columns_of(maps: ShrinkageMaps) -> list[str]:
    """What is summed of each token besides the ranks."""
    names = ["scatter", *(f"{kind}.{rung}" for rung in SCALES for kind in ("error", "scatter", "after"))]
    names += [f"ablated.{k}" for k in range(len(maps.folds[0].ablated))]
    if maps.outliers:
        names += ["ordinary.error", "ordinary.scatter"]
    if maps.folds[0].unread is not None:
        names += ["unread.error", "unread.ordinary"]
    return names


def pass_over(sources: TokenSources, moments: JointMoments, maps: ShrinkageMaps, stage: Stage) -> ShrinkageSums:
    """Squared errors of every map, out of fold, summed over the bootstrap units."""
    columns, n_contexts = columns_of(maps), len(sources.partition.folds)
    n_ranks = maps.folds[0].ranks.full_rank + 1
    ordinary = torch.ones(n_ranks - 1, dtype=torch.bool, device=maps.scatter.device)
    ordinary[list(maps.outliers)] = False
    others, ranks, scaled = (UnitSums(n_contexts, n) for n in (len(columns), n_ranks, n_ranks))
    for tokens in sources.tokens():
        n, device = tokens.error.shape[0], tokens.error.device
        found = torch.empty(n, len(columns), dtype=torch.float64, device=device)
        of_ranks = torch.empty(2, n, n_ranks, dtype=torch.float64, device=device)
        for fold in torch.unique(tokens.folds).tolist():
            where = (tokens.folds == fold).nonzero().squeeze(1)
            x, error, fitted = tokens.inputs[ACTS][where], tokens.error[where], maps.folds[fold]
            centred = x - moments.shifts[ACTS].to(x.dtype)
            rows = Rows({ACTS: centred}, error, error.new_ones(where.numel(), 1))
            sums, rest = _row_sums(rows, x, fitted, maps, ordinary)
            found[where] = torch.stack([sums[name] for name in columns], dim=1)
            of_ranks[0, where] = fitted.ranks.squared_errors(x, error).double()
            of_ranks[1, where] = fitted.ranks_scaled.squared_errors(x, rest).double()
        others.add(tokens.contexts, found)
        ranks.add(tokens.contexts, of_ranks[0])
        scaled.add(tokens.contexts, of_ranks[1])
        stage.advance(tokens.n_read)
    of_columns = {name: others.sums[:, k] for k, name in enumerate(columns)}
    return ShrinkageSums(of_columns, ranks.sums, scaled.sums, groups_of(n_ranks - 1))


def _row_sums(
    rows: Rows, x: Tensor, fitted: FoldMaps, maps: ShrinkageMaps, ordinary: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Squared errors of tokens of one fold, by column; and what rescaling x leaves."""
    error, dtype = rows.error, rows.error.dtype
    about = error - maps.error_mean.to(dtype)
    sums = {"scatter": row_norm_sq(about)}
    rests = {rung: fitted.scales[rung].after(rows) for rung in SCALES}
    for rung, rest in rests.items():
        sums[f"error.{rung}"] = row_norm_sq(rest)
        sums[f"scatter.{rung}"] = row_norm_sq(rest - maps.rest_means[rung].to(dtype))
        sums[f"after.{rung}"] = row_norm_sq(rest - fitted.rests[rung].predict(x))
    for k, one in enumerate(fitted.ablated):
        sums[f"ablated.{k}"] = row_norm_sq(error - one.predict(x))
    if maps.outliers:
        sums["ordinary.error"] = row_norm_sq((error - fitted.full.predict(x))[:, ordinary])
        sums["ordinary.scatter"] = row_norm_sq(about[:, ordinary])
    if fitted.unread is not None:
        left = error - fitted.unread.predict(x)
        sums["unread.error"], sums["unread.ordinary"] = row_norm_sq(left), row_norm_sq(left[:, ordinary])
    return sums, rests["scale_x"]
