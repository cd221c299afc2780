"""Detection scores of the parts of an error beside each other, from those of SAEs on them.

1. Each SAE has a mean over its latents; a part has the mean of those over its seeds.
2. The interval of a part's mean is that of its SAEs' means over their latents, which are drawn for each by itself.
3. The difference of two parts has Welch's t interval over the means of their seeds: it says how the difference varies with
   the seed of training and with the latents that are drawn, and not how it varies with the texts, which all SAEs share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from dmcore.estimate import Estimate
from dmcore.math.welch import mean_of_independent, welch
from dmcore.results.detection import Detection

SAES: dict[str, Any] = {
    "part": pl.String,
    "seed": pl.Int64,  # of training; null for the mean over seeds
    "measure": pl.String,
    "decile": pl.Int32,
    "n": pl.Int32,  # latents
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}
"""A row a number: `summary` of every SAE, and the means over the seeds of each part."""


def beside(found: Sequence[Detection]) -> pl.DataFrame:
    """The table `SAES` of SAEs on parts, in the order given; numbers that are missing are left out."""
    frames = [
        one["summary"]
        .rename({"value_low": "low", "value_high": "high"})
        .with_columns(part=pl.lit(one.about["part_name"], pl.String), seed=pl.lit(one.about["train_seed"], pl.Int64))
        .select(SAES.keys())
        for one in found
    ]
    each = pl.concat([pl.DataFrame(schema=SAES), *frames]).filter(pl.col("value").is_not_null())
    rows = []
    for (part, measure, decile), group in each.group_by("part", "measure", "decile", maintain_order=True):
        mean = mean_of_independent([_estimate(row) for row in group.to_dicts()])
        rows.append((part, None, measure, decile, group["n"].sum(), mean.value, mean.low, mean.high))
    means = pl.DataFrame(rows, schema=SAES, orient="row").with_columns(pl.col("low", "high").fill_nan(None))
    return pl.concat([means, each])


def difference(found: Sequence[Detection], part: str, other: str, measure: str = "balanced_accuracy") -> Estimate:
    """Mean of a measure over the seeds of a part, less that of another; nan where either has none."""
    table = beside(found).filter((pl.col("measure") == measure) & pl.col("seed").is_not_null())
    return welch(*(table.filter(pl.col("part") == one)["value"].to_list() for one in (part, other)))


def _estimate(row: dict[str, Any]) -> Estimate:
    ends = (math.nan if row[end] is None else row[end] for end in ("low", "high"))
    return Estimate(row["value"], *ends)
