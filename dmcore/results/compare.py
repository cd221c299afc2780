"""Which SAEs of a study are compared with a chosen one: over widths at its L0, and over layers at its width and L0."""

from __future__ import annotations

import math
from typing import Any

import polars as pl


def log_distance(a: float, b: float) -> float:
    """Distance of two positive numbers on a log scale; an SAE with L0 0 counts as a hundredth."""
    return abs(math.log(max(a, 0.01)) - math.log(max(b, 0.01)))


def comparable_label(records: pl.DataFrame, record: dict[str, Any], column: str) -> str:
    """The label to compare over `column` at the record's site: its own where it has two values, else the commonest."""
    own = records.filter(pl.col("label") == record["label"])
    if own[column].n_unique() > 1:
        return record["label"]
    counts = records.group_by("label").agg(pl.col(column).n_unique().alias("values")).sort("values", "label")
    return counts["label"][-1]


def nearest_l0_each(records: pl.DataFrame, column: str, l0: float) -> pl.DataFrame:
    """For each value of `column`, the record whose L0 is nearest to `l0` on a log scale, of equals the first; by `column`."""
    far = (pl.col("l0").clip(0.01).log() - math.log(max(l0, 0.01))).abs().alias("_far")
    ordered = records.with_columns(far).sort(column, "_far", maintain_order=True)
    return ordered.unique(column, keep="first", maintain_order=True).drop("_far")


def over_widths(records: pl.DataFrame, record: dict[str, Any]) -> pl.DataFrame:
    """One SAE per width at the record's site: the label to compare, the L0 nearest to the record's; of equals the record."""
    site = records.filter(pl.col("site") == record["site"])
    label = comparable_label(site, record, "d_sae")
    own_first = site.filter(pl.col("label") == label).sort(
        pl.col("summary_key") != record["summary_key"], maintain_order=True
    )
    return nearest_l0_each(own_first, "d_sae", record["l0"])


def over_layers(records: pl.DataFrame, record: dict[str, Any]) -> pl.DataFrame:
    """One SAE per layer of the record's stream: the nearest width, then the nearest L0."""
    stream = records.filter(pl.col("stream") == record["stream"])
    label = comparable_label(stream, record, "layer")
    stream = stream.filter(pl.col("label") == label)
    far = (pl.col("d_sae").log() - math.log(record["d_sae"])).abs()
    nearest = stream.with_columns(far.alias("_far")).filter(pl.col("_far") == pl.col("_far").min().over("layer"))
    return nearest_l0_each(nearest.drop("_far"), "layer", record["l0"])
