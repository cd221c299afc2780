"""The intervals that numbers of the split have when only the texts vary, from its sums over contexts: the plain way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from dmcore.estimate import Estimate
from dmcore.math.bootstrap import interval, poisson_weights

SUMS = {
    "fvu": ("error_sq", "act_scatter"),
    "fvu_nonlinear": ("nonlinear_sq", "act_scatter"),
    "r2_error_norm_sq": ("norm_residual", "norm_scatter"),
}


def texts_alone(folder: Path, metric: str, seed: int = 0) -> Estimate:
    """A metric of a split or summary entry, with the maps taken as they are."""
    sums = pl.read_parquet(folder / "contexts.parquet")
    left, whole = (sums[name].to_numpy() for name in SUMS[metric])
    weights = np.concatenate([np.ones((1, len(sums))), poisson_weights(len(sums), seed)])
    values = (weights @ left) / (weights @ whole)
    if metric.startswith("r2"):
        values = 1.0 - values
    return interval(float(values[0]), values[1:])
