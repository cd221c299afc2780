"""The summary of an SAE: everything that pages show of it, in a few small tables.

1. `write_split` keeps what the second pass found, with the maps, in the `split` entry.
2. `summary_tables` adds the ridge path and the baselines, and makes the record.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file

from dmcore.analysis.baselines import TokenColumns, baseline_table
from dmcore.analysis.partition import Partition
from dmcore.analysis.split_pass import TOKENS, SplitPass
from dmcore.estimate import Estimate
from dmcore.math.linear_map import AffineMap
from dmcore.math.moments import InputMoments
from dmcore.results import METRICS
from dmcore.specs import Settings

SPLIT_TABLES = ("replicates", "dims", "variants", "density", "positions", "contexts")


def write_split(found: SplitPass, inputs: InputMoments, partition: Partition, settings: Settings, folder: Path) -> None:
    """Keep the tables, the maps and the numbers of a split."""
    cells = [c for cells in partition.cells_of_fold(settings.skip_positions) for c in cells]
    count = float(inputs.pooled(cells)[-1, -1])
    tables = {
        "replicates": pl.DataFrame(found.main.replicates),
        "dims": pl.DataFrame(
            {
                "dimension": np.arange(inputs.shift.shape[0]),
                "r2": found.sums.r2_dims(),
                "error_variance": found.sums.error_scatter_dims.sum(0) / count,
                "act_variance": (inputs.scatter(cells) / count).cpu().numpy(),
            }
        ).with_columns(pl.col("r2").fill_nan(None)),
        "variants": pl.DataFrame(
            [
                {
                    "skip_positions": variant.skip_positions,
                    "fit_bias": variant.fit_bias,
                    "n_tokens": n_tokens,
                    **with_intervals(result.values),
                }
                for variant, (n_tokens, result) in found.variants.items()
            ]
        ),
        "density": found.density,
        "positions": found.positions,
        "contexts": pl.DataFrame(
            {"unit": np.arange(found.sums.scalars.shape[1])}
            | dict(zip(found.sums.SCALARS, found.sums.scalars, strict=True))
        ),
    }
    for name in SPLIT_TABLES:
        tables[name].write_parquet(folder / f"{name}.parquet", compression="zstd")
    fit = found.fit
    assert fit.full_map is not None, "asked for when it was fitted"
    maps = {"weight": fit.full_map.weight, "bias": fit.full_map.bias}
    for fold, fitted in enumerate(fit.fold_maps):
        maps |= {f"fold_{fold}.weight": fitted.weight, f"fold_{fold}.bias": fitted.bias}
    save_file({name: tensor.float().cpu().contiguous() for name, tensor in maps.items()}, folder / "maps.safetensors")
    about = {
        **with_intervals(found.main.values),
        "l0": found.l0,
        "dead_share": found.dead_share,
        "n_tokens": int(count),
    }
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")


def with_intervals(values: dict[str, Estimate]) -> dict[str, float | None]:
    """`<metric>`, `<metric>_low`, `<metric>_high` for each metric; None where there is no number."""
    flat = {}
    for metric in METRICS:
        estimate = values[metric]
        for end, number in (("", estimate.value), ("_low", estimate.low), ("_high", estimate.high)):
            flat[f"{metric}{end}"] = number if np.isfinite(number) else None
    return flat


@dataclass(frozen=True)
class TokenFacts:
    """What is known of every token besides its activation, in order; memory is a few numbers a token."""

    token: np.ndarray
    loss: np.ndarray
    entropy: np.ndarray
    l0: np.ndarray
    length: int
    """Tokens in each context."""


def baselines(
    split_folder: Path, facts: TokenFacts, partition: Partition, settings: Settings, seed: int
) -> pl.DataFrame:
    """The table of baselines of the squared norm."""
    table = pl.read_parquet(split_folder / TOKENS, columns=["error_sq", "act_norm_sq"])
    about = json.loads((split_folder / "about.json").read_text(encoding="utf-8"))
    n_tokens = len(table)
    positions = np.tile(np.arange(facts.length), n_tokens // facts.length)
    kept = positions >= settings.skip_positions
    contexts = np.repeat(np.arange(len(partition.folds)), facts.length)[kept]
    columns = TokenColumns(
        table["error_sq"].to_numpy()[kept].astype(np.float64), contexts, partition.folds[contexts].astype(np.int64)
    )
    numbers = {
        "loss": facts.loss[kept],
        "entropy": facts.entropy[kept],
        "l0": facts.l0[kept],
        "norm": np.sqrt(table["act_norm_sq"].to_numpy()[kept].astype(np.float64)),
    }
    # Encoders predict no next token: a loss that is nowhere a number predicts nothing, and is left out.
    numbers = {name: values for name, values in numbers.items() if np.isfinite(values).any()}
    categories = {"token": facts.token[kept], "position": positions[kept]}
    from_x = Estimate(
        *(
            np.nan if about[f"r2_error_norm_sq{e}"] is None else about[f"r2_error_norm_sq{e}"]
            for e in ("", "_low", "_high")
        )
    )
    return baseline_table(columns, numbers, categories, from_x, partition.n_folds, seed, len(partition.folds))


def summary_tables(split_folder: Path, ridge: pl.DataFrame, baseline: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """All tables of a summary."""
    tables = {name: pl.read_parquet(split_folder / f"{name}.parquet") for name in SPLIT_TABLES}
    return tables | {"ridge": ridge, "baselines": baseline}


def split_about(split_folder: Path) -> dict[str, Any]:
    """The numbers of a split, with l0, dead_share and n_tokens."""
    return json.loads((split_folder / "about.json").read_text(encoding="utf-8"))


def save_full_map(split_folder: Path, folder: Path) -> None:
    """Copy the map that was fitted on all tokens into the summary, without those of the folds."""
    tensors = load_file(split_folder / "maps.safetensors")
    kept: dict[str, torch.Tensor] = {name: tensors[name] for name in ("weight", "bias")}
    save_file(kept, folder / "map.safetensors")


def load_full_map(folder: Path, device: torch.device | str) -> AffineMap:
    """The map from x to the error in a summary, for other texts than the study's: on these it is in sample."""
    tensors = load_file(folder / "map.safetensors", device=str(device))
    weight, bias = tensors["weight"], tensors["bias"].double()
    return AffineMap(weight, bias, bias.new_zeros(weight.shape[0])).columns(0, weight.shape[0])
