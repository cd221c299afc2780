"""The points that laws are fitted to: a metric of some SAEs, with the replicates that go with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from dmcore.estimate import Estimate
from dmcore.math.bootstrap import MAX_UNITS

Array = np.ndarray
Row = dict[str, Any]

MIN_REPLICATES = 20
WORDS = {"fvu": "FVU", "fvu_nonlinear": "nonlinear FVU"}


@dataclass(frozen=True)
class Points:
    """A metric of some SAEs, those left out for which it is missing."""

    metric: str
    d_sae: Array
    """(n,) latents."""
    l0: Array
    values: Array
    replicates: Array | None
    """(n_replicates, n), the same contexts in a row; None where an SAE has none, or another number of them."""
    missing: list[int]
    """Widths of the SAEs that were left out."""
    n_units: int | None = None
    """Bootstrap units that the replicates redraw: contexts, or bundles of them."""

    @property
    def n_widths(self) -> int:
        """How many different widths there are."""
        return len(np.unique(self.d_sae))


def points_of(members: pl.DataFrame, metric: str, replicates: Mapping[str, pl.DataFrame]) -> Points:
    """The metric of rows of `RECORD`, with the replicates that go with it."""
    values = members[metric].cast(pl.Float64).to_numpy()
    there = np.isfinite(values)
    drawn = [
        replicates[key][metric].cast(pl.Float64).to_numpy() if key in replicates else np.empty(0)
        for key in members.filter(there)["summary_key"]
    ]
    lengths = {len(column) for column in drawn}
    paired = len(lengths) == 1 and min(lengths) >= MIN_REPLICATES
    widths, l0 = (members[name].cast(pl.Float64).to_numpy() for name in ("d_sae", "l0"))
    missing = [int(width) for width in widths[~there]]
    redraws = np.stack(drawn, 1) if paired else None
    n_contexts = members["n_contexts"].min()
    n_units = None if n_contexts is None else min(int(n_contexts), MAX_UNITS)
    return Points(metric, widths[there], l0[there], values[there], redraws, missing, n_units)


def ends(name: str, value: Estimate, scatter: Estimate | None = None) -> Row:
    row = {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
    if scatter is not None:
        row |= {f"{name}_scatter_low": scatter.low, f"{name}_scatter_high": scatter.high}
    return row
