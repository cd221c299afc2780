"""Comparisons of two SAEs on the same draws of contexts.

Row r of every SAE's `replicates` has the same context weights, so a ratio taken row by row cancels what the two SAEs share:
which texts happened to be drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import polars as pl

from dmcore.estimate import Estimate
from dmcore.math.bootstrap import interval, poisson_weights, ratio
from dmcore.results import Downstream, Summary


def paired_ratio(above: Summary, below: Summary, metric: str) -> Estimate:
    """`metric` of one SAE over that of another, with the 95 % percentile interval of the paired replicates."""
    value = _divide(np.array([above.record[metric]]), np.array([below.record[metric]]))[0]
    a, b = (s.replicates[metric].to_numpy().astype(np.float64) for s in (above, below))
    if a.size != b.size or a.size < 20:
        return Estimate(float(value))
    return interval(float(value), _divide(a, b))


def paired_cost(found: Downstream, one: str, other: str) -> Estimate | None:
    """How many nats a token more one variant costs than another, on the same draws of contexts; None where one was not run."""
    sums = found["sums"].filter(pl.col("panel") == "all").sort("unit")
    rows = [sums.filter(pl.col("variant") == name) for name in (one, other)]
    if rows[0].is_empty() or rows[0]["unit"].to_list() != rows[1]["unit"].to_list():
        return None
    apart, n = (rows[0]["ce"] - rows[1]["ce"]).to_numpy(), rows[0]["n_tokens"].to_numpy()
    units = rows[0]["unit"].to_numpy()
    weights = poisson_weights(int(units.max()) + 1, int(found.about["seed"]))[:, units]
    return interval(float(apart.sum() / n.sum()), ratio(apart, n, weights))


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return a / b


class HasSummaries(Protocol):
    """What is needed of a page's selection here."""

    def summary_of(self, record: dict[str, Any]) -> Any:
        """The `Summary` of an SAE."""
        ...


@dataclass(frozen=True)
class EqualL0:
    """An SAE against another architecture at its own L0."""

    label: str
    l0: float
    value: tuple[float, float, float]
    """Its metric, with its interval."""
    reference: str
    """Label of the architecture that it is compared with."""
    ratio: Estimate | None
    """Its metric over the reference's at the same L0; None outside the reference's L0s."""


def equal_l0_ratios(selection: HasSummaries, records: pl.DataFrame, metric: str) -> list[EqualL0]:
    """Every SAE of the other architectures against the one with most SAEs (the first by name of several).

    The reference at an L0 lies on the straight line, in log metric over log L0, between its two neighbouring SAEs; replicates
    are taken row by row, so that intervals are paired.

    Args:
        selection: of a page, to read replicates.
        records: rows of `RECORD` of one site and width.
        metric: positive.
    """
    counts = records.group_by("label").len().sort(["len", "label"], descending=[True, False])
    reference = counts["label"][0]
    ladder = records.filter((pl.col("label") == reference) & (pl.col("l0") > 0)).sort("l0").to_dicts()
    found = []
    for row in records.filter(pl.col("label") != reference).sort("label", "l0").to_dicts():
        value = (row[metric], row[f"{metric}_low"], row[f"{metric}_high"])
        ratio = _against(selection, row, ladder, metric)
        found.append(EqualL0(row["label"], row["l0"], value, reference, ratio))
    return found


def _against(
    selection: HasSummaries, row: dict[str, Any], ladder: list[dict[str, Any]], metric: str
) -> Estimate | None:
    between = [(a, b) for a, b in pairwise(ladder) if a["l0"] <= row["l0"] <= b["l0"] and a["l0"] < b["l0"]]
    if not between or row[metric] is None:
        return None
    a, b = between[0]
    share = (math.log(row["l0"]) - math.log(a["l0"])) / (math.log(b["l0"]) - math.log(a["l0"]))
    rows = (row, a, b)
    replicates = [selection.summary_of(one).replicates[metric].to_numpy().astype(np.float64) for one in rows]
    paired = len({column.size for column in replicates}) == 1
    columns = [np.concatenate([[one[metric]], r if paired else []]) for one, r in zip(rows, replicates, strict=True)]
    with np.errstate(divide="ignore", invalid="ignore"):
        own, low, high = (np.log(column) for column in columns)
        ratios = np.exp(own - (1 - share) * low - share * high)
    return interval(float(ratios[0]), ratios[1:]) if np.isfinite(ratios[0]) else None
