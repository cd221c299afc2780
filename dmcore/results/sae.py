"""What a study's computation leaves behind for pages and people: typed results and the schemas of their tables.

Nothing here imports torch: pages read these. One `summary` entry per SAE holds the files of `TABLES`; one `index` entry
per study holds `records.parquet`, a row of `RECORD` per SAE, so that a page needs one read to know the whole study.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from dmcore.errors import StoreError

METRICS = ("fvu", "fvu_nonlinear", "r2_error", "r2_error_mean_dims", "r2_error_norm_sq")
"""Each has columns `<metric>`, `<metric>_low`, `<metric>_high` (95 % interval, bootstrap over contexts)."""

_INTERVALS = {f"{metric}{end}": pl.Float64 for metric in METRICS for end in ("", "_low", "_high")}

RECORD: dict[str, Any] = {
    "sae": pl.String,  # the SAE's id: its path in the study, or release/id
    "site": pl.String,  # hook name, e.g. blocks.2.hook_resid_post
    "stream": pl.String,  # residual, mlp or attention
    "layer": pl.Int64,
    "architecture": pl.String,  # SAELens's name: topk, standard, jumprelu, gated, ...
    "label": pl.String,  # what the study calls the architecture (a BatchTopK SAE is saved as jumprelu)
    "d_model": pl.Int64,
    "d_sae": pl.Int64,
    "l0": pl.Float64,  # measured: mean active latents per kept token
    "dead_share": pl.Float64,  # share of latents never active on the study's kept tokens
    **_INTERVALS,
    "shrinkage": pl.Float64,  # held-out R2 (pooled) of the error by one number: e ~ alpha (x - mean) + mean e
    "n_tokens": pl.Int64,
    "n_contexts": pl.Int64,
    "skip_positions": pl.Int64,
    "n_folds": pl.Int64,
    "ridge": pl.Float64,
    "fit_bias": pl.Boolean,
    "seed": pl.Int64,
    "summary_key": pl.String,
    "computed": pl.String,  # UTC time, ISO 8601
}
OF_ONE_SAE = (
    "sae",
    "site",
    "stream",
    "layer",
    "architecture",
    "label",
    "d_model",
    "d_sae",
    "l0",
    "summary_key",
    "computed",
)
"""Columns without which a row is of no SAE."""

TABLES: dict[str, dict[str, Any]] = {
    # one row per bootstrap replicate; row r has the same context weights for every SAE of the study (paired differences)
    "replicates": dict.fromkeys(METRICS, pl.Float32),
    # one row per dimension of the activation; r2 is held out; null where the error does not vary
    "dims": {"dimension": pl.Int32, "r2": pl.Float32, "error_variance": pl.Float32, "act_variance": pl.Float32},
    # held-out R2 on each fold for each ridge (with bias); ridge_relative = ridge / mean eigenvalue of the scatter of x
    "ridge": {
        "ridge": pl.Float64,
        "ridge_relative": pl.Float64,
        "fold": pl.Int32,
        "r2_error": pl.Float64,
        "r2_error_norm_sq": pl.Float64,
    },
    # the split again under other settings: first positions skipped, bias or none; the study's own choice is one row
    "variants": {"skip_positions": pl.Int32, "fit_bias": pl.Boolean, "n_tokens": pl.Int64, **_INTERVALS},
    # held-out R2 of |e|^2 from one predictor each
    "baselines": {
        "predictor": pl.String,  # x, token, loss, entropy, position, l0, norm
        "r2": pl.Float64,
        "r2_low": pl.Float64,
        "r2_high": pl.Float64,
    },
    # predicted against actual, binned. panel norm_sq: log10(|e|^2 / mean |e|^2), predictions at or below the axis are in
    # its lowest bin; panel vector: coordinates of the error and of its prediction in units of that dimension's sd
    "density": {
        "panel": pl.String,
        "actual_low": pl.Float32,
        "actual_high": pl.Float32,
        "predicted_low": pl.Float32,
        "predicted_high": pl.Float32,
        "count": pl.UInt32,
    },
    # means over contexts at each position from 0 on, skipped ones too (those are predicted by maps that never saw them)
    "positions": {
        "position": pl.Int32,
        "n_tokens": pl.Int32,
        "act_norm_sq": pl.Float64,
        "error_sq": pl.Float64,
        "linear_sq": pl.Float64,
        "nonlinear_sq": pl.Float64,
    },
    # sums over the kept tokens of each bootstrap unit (a context, or a bundle of contexts past 2,000)
    "contexts": {
        "unit": pl.Int32,
        "n_tokens": pl.Float64,
        "act_scatter": pl.Float64,
        "error_sq": pl.Float64,
        "linear_sq": pl.Float64,
        "nonlinear_sq": pl.Float64,
        "norm_residual": pl.Float64,
        "norm_scatter": pl.Float64,
    },
}


@dataclass(frozen=True)
class Summary:
    """Everything that pages show of one SAE."""

    record: dict[str, Any]
    """One row of `RECORD`."""
    replicates: pl.DataFrame
    dims: pl.DataFrame
    ridge: pl.DataFrame
    variants: pl.DataFrame
    baselines: pl.DataFrame
    density: pl.DataFrame
    positions: pl.DataFrame
    contexts: pl.DataFrame


def write_summary(folder: Path, record: dict[str, Any], tables: dict[str, pl.DataFrame]) -> None:
    """Write `record.json` and one parquet a table, in exactly the schemas of `TABLES`."""
    (folder / "record.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    for name, schema in TABLES.items():
        tables[name].select(pl.col(column).cast(dtype) for column, dtype in schema.items()).write_parquet(
            folder / f"{name}.parquet", compression="zstd", compression_level=12
        )


def read_record(folder: Path) -> dict[str, Any]:
    """The record alone.

    Raises:
        StoreError: it cannot be read.
    """
    with _readable():
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("it is no record")
    return record


def read_summary(folder: Path) -> Summary:
    """Read what `write_summary` wrote.

    Raises:
        StoreError: a file cannot be read, or a table lacks a column.
    """
    record = read_record(folder)
    with _readable():
        tables = {
            name: pl.read_parquet(folder / f"{name}.parquet").select(
                pl.col(column).cast(dtype) for column, dtype in schema.items()
            )
            for name, schema in TABLES.items()
        }
    return Summary(record, **tables)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RecursionError, pl.exceptions.PolarsError) as error:
        raise StoreError("The results of this SAE cannot be read: sweep the study again to make them anew.") from error
