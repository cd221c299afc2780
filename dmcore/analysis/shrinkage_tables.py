"""The rows of the shrinkage ladder from sums over contexts, with intervals; differences and ratios of rungs are paired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmcore.analysis.shrinkage_fits import ShrinkageMaps
from dmcore.math.bootstrap import poisson_weights
from dmcore.math.intervals import interval_ends
from dmcore.math.reduced_rank import ranks_shown
from dmcore.results.shrinkage import FULL, SCALES

Array = np.ndarray
Remark = tuple[str, str]
"""Topic and text."""
TITLES = {
    "scale_x": "α x",
    "scale_recon": "α (Sae(x) − b)",
    "diagonal": "one number a dimension of x",
}
ROUNDING = 1e-11
"""Share of its scale below which a sum of squares of float32 vectors is rounding."""


@dataclass(frozen=True)
class ShrinkageSums:
    """Sums over the tokens of each bootstrap unit."""

    columns: Mapping[str, Array]
    """(n_units,) each, by name: see `shrinkage.columns_of`."""
    ranks: Array
    """(n_units, d + 1) squared error at each rank."""
    ranks_scaled: Array
    """The same with `alpha x` taken away first."""
    groups: list[tuple[int, int]]
    """First and last component of each ablated group."""


def with_ends(name: str, draws: Array) -> dict[str, float]:
    """A value with its interval, from (1 + n_replicates,) of it, the whole sample first."""
    low, high = interval_ends(draws[:1], draws[1:, None])
    return {name: float(draws[0]), f"{name}_low": float(low[0]), f"{name}_high": float(high[0])}


class Draws:
    """R2 of the whole sample and of every replicate, (1 + n_replicates, ...), of sums over units."""

    def __init__(self, n_units: int, seed: int) -> None:
        self._weights = np.concatenate([np.ones((1, n_units)), poisson_weights(n_units, seed)])

    def sums(self, sums: Array) -> Array:
        """(1 + n_replicates, ...) of (n_units, ...)."""
        return self._weights @ sums

    def r2(self, error: Array, scatter: Array) -> Array:
        """`1 - sum error / sum scatter`; nan where there is no scatter."""
        with np.errstate(divide="ignore", invalid="ignore"):
            below = self.sums(scatter)
            below = below[:, None] if error.ndim == 2 else below
            return 1.0 - self.sums(error) / np.where(below > 0, below, np.nan)


def sum_tables(
    sums: ShrinkageSums, maps: ShrinkageMaps, seed: int
) -> tuple[dict[str, list[dict[str, Any]]], list[Remark]]:
    """Rows of `ladder`, `ranks`, `outliers`, `without` and `ablations`, and what is to be said of them."""
    tables: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("ladder", "ranks", "outliers", "without", "ablations")
    }
    scatter = sums.columns["scatter"]
    floor = ROUNDING * float(maps.scatter.trace())
    if not scatter.sum() > floor:
        return tables, [
            ("ladder", "The error of this SAE does not vary over tokens, so nothing of it can be explained.")
        ]
    draws = Draws(len(scatter), seed)
    ranks, scaled = draws.r2(sums.ranks, scatter), draws.r2(sums.ranks_scaled, scatter)
    full, remarks = ranks[:, -1], []
    lasting = np.percentile(full[1:], 2.5) > 0
    if not lasting:
        remarks.append(
            ("share", "The full map explains nothing of this error beyond doubt: no share of a linear part is given.")
        )
    tables["ladder"] = _ladder(sums, maps, draws, ranks, floor, lasting=bool(lasting))
    for rank in range(ranks.shape[1]):
        tables["ranks"].append({"rank": rank} | with_ends("r2", ranks[:, rank]) | with_ends("scaled", scaled[:, rank]))
    tables["ablations"] = _ablations(sums, maps, draws, full, lasting=bool(lasting))
    tables["outliers"], tables["without"], more = _outliers(sums, maps, draws, full)
    return tables, remarks + more


def _ladder(
    sums: ShrinkageSums, maps: ShrinkageMaps, draws: Draws, ranks: Array, floor: float, *, lasting: bool
) -> list[dict[str, Any]]:
    d = ranks.shape[1] - 1
    scatter, full = sums.columns["scatter"], ranks[:, -1]
    r2 = {rung: draws.r2(sums.columns[f"error.{rung}"], scatter) for rung in SCALES}
    weights = {"scale_x": 1, "scale_recon": 1, "diagonal": d}
    before = {"diagonal": "scale_x"}
    rows: list[dict[str, Any]] = []
    for rung in SCALES:
        fits = [fold.scales[rung] for fold in maps.folds]
        rest = sums.columns[f"scatter.{rung}"]
        row = {
            "rung": rung,
            "title": TITLES[rung],
            "n_weights": weights[rung],
            "alpha": float(np.mean([float(one.scale.mean()) for one in fits])),
        }
        if rest.sum() > floor:  # else nothing is left to be explained
            row |= with_ends("left", draws.r2(sums.columns[f"after.{rung}"], rest))
        rows.append(row)
    shown = [rank for rank in ranks_shown(d) if rank < d]
    for rank in shown:
        r2[f"rank_{rank}"] = ranks[:, rank]
        before |= {f"rank_{rank}": f"rank_{shown[shown.index(rank) - 1]}"} if rank > 1 else {}
        rows.append(
            {"rung": f"rank_{rank}", "title": f"rank {rank:,}", "rank": rank, "n_weights": rank * (2 * d - rank)}
        )
    r2[FULL] = full
    before[FULL] = f"rank_{shown[-1]}" if shown else "diagonal"
    rows.append({"rung": FULL, "title": f"every rank: d = {d:,}", "rank": d, "n_weights": d * d})
    for row in rows:
        rung = row["rung"]
        row |= with_ends("r2", r2[rung])
        if lasting:
            row |= with_ends("share", r2[rung] / full)
        if rung in before:
            row |= {"before": before[rung]} | with_ends("gain", r2[rung] - r2[before[rung]])
    return rows


def _ablations(
    sums: ShrinkageSums, maps: ShrinkageMaps, draws: Draws, full: Array, *, lasting: bool
) -> list[dict[str, Any]]:
    values = np.sort(np.linalg.eigvalsh(maps.scatter.cpu().numpy()))[::-1].clip(0.0)
    rows = []
    for k, (first, last) in enumerate(sums.groups):
        without = draws.r2(sums.columns[f"ablated.{k}"], sums.columns["scatter"])
        row: dict[str, Any] = {"first": first, "last": last}
        row["variance_share"] = float(values[first - 1 : last].sum() / values.sum())
        row |= with_ends("r2", without) | with_ends("drop", full - without)
        if lasting:
            row |= with_ends("drop_share", (full - without) / full)
        rows.append(row)
    return rows


def _outliers(
    sums: ShrinkageSums, maps: ShrinkageMaps, draws: Draws, full: Array
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[Remark]]:
    """Rows of `outliers` and of `without`."""
    columns, scatter = sums.columns, sums.columns["scatter"]
    median = float(maps.variances.median())
    found = [
        {"dimension": i, "variance": float(maps.variances[i]), "times_median": float(maps.variances[i]) / median
         if median > 0 else None}
        for i in maps.outliers
    ]  # fmt: skip
    cases = {"all": full}
    if not maps.outliers:
        text = "No dimension of x has a variance of more than 10 times the median: there are no outlying dimensions."
        return found, [{"case": "all"} | with_ends("r2", full)], [("outliers", text)]
    whole, ordinary = sums.ranks[:, -1], columns["ordinary.error"]
    if "unread.error" in columns:
        cases["inputs"] = draws.r2(columns["unread.error"], scatter)
        cases["both"] = draws.r2(columns["unread.ordinary"], columns["ordinary.scatter"])
    cases["targets"] = draws.r2(ordinary, columns["ordinary.scatter"])
    cases["only"] = draws.r2(whole - ordinary, scatter - columns["ordinary.scatter"])
    rows = []
    for case in ("all", "inputs", "targets", "both", "only"):
        if case in cases:
            row = {"case": case} | with_ends("r2", cases[case])
            rows.append(row | with_ends("drop", full - cases[case]) if case != "all" else row)
    return found, rows, []
