"""A control as a row: what it should be, what it is, and the verdict by a rule that is said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from dmcore.estimate import Estimate
from dmcore.results.controls import (
    AGREES,
    CONTROL_TABLES,
    DIFFERS,
    FAILED,
    GROUPS,
    PASSED,
    UNDECIDED,
    WITHIN,
    control_table,
)

LEAST_CONTEXTS = 10
"""Contexts that an interval over texts needs."""


@dataclass
class Found:
    """What controls have found: rows of the tables, and sentences in place of what could not be had."""

    tables: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in CONTROL_TABLES})

    def add(self, table: str, **row: Any) -> None:
        """Add a row to a table."""
        self.tables[table].append(row)

    def remark(self, topic: str, text: str) -> None:
        """Say why something is not there."""
        self.add("remarks", topic=topic, text=text)

    def finished(self) -> dict[str, pl.DataFrame]:
        """The tables, controls in the order of their groups."""
        order = list(GROUPS)
        self.tables["controls"].sort(key=lambda row: order.index(row["group"]))
        return {name: control_table(name, rows) for name, rows in self.tables.items()}


def control(
    name: str,
    title: str,
    value: Estimate,
    between: tuple[float | None, float | None],
    *,
    group: str,
    rule: str,
    n: tuple[int, int],
    what: str,
    quantity: str,
    why: str,
    expected: float | None = None,
    resolution: float = math.inf,
    over_texts: bool = True,
    means: str = "",
) -> dict[str, Any]:
    """The row of a control, with its verdict.

    Args:
        value: with its interval.
        between: the expected range; None for no bound.
        rule: of `dmcore.results.controls.RULES`.
        n: tokens and contexts.
        expected: the number itself, where one is known.
        resolution: half-width of the interval above which `agrees` says nothing.
        over_texts: whether the interval is over contexts, of which there must then be enough.
        means: what a verdict that is not `passed` means.
    """
    verdict, note = verdict_of(rule, value, between, resolution)
    if over_texts and n[1] < LEAST_CONTEXTS:
        verdict = UNDECIDED
        note = f"{n[1]} contexts are too few for an interval over texts: at least {LEAST_CONTEXTS} are needed."
    elif verdict != PASSED and means and not note:
        note = means
    return {
        "name": name, "group": group, "title": title, "what": what, "quantity": quantity, "expected": expected,
        "expected_low": between[0], "expected_high": between[1], "why": why, "value": value.value, "value_low": value.low,
        "value_high": value.high, "n_tokens": n[0], "n_contexts": n[1], "rule": rule, "verdict": verdict, "note": note,
    }  # fmt: skip


def verdict_of(
    rule: str, value: Estimate, between: tuple[float | None, float | None], resolution: float = math.inf
) -> tuple[str, str]:
    """The verdict, and why there is none where it is open.

    `agrees`: passed if the interval meets the range; failed if one twice as wide does not, as one interval in twenty misses by
    chance. `within`: passed inside, failed outside. `differs`: passed outside, failed inside.
    """
    low, high = value.low, value.high
    if not all(math.isfinite(v) for v in (value.value, low, high)):
        return UNDECIDED, "There is no interval."
    least, most = (-math.inf if between[0] is None else between[0]), (math.inf if between[1] is None else between[1])
    if math.isnan(least) or math.isnan(most):
        return UNDECIDED, "What it should be cannot be told here."
    inside, outside = least <= low and high <= most, high < least or low > most
    if rule == AGREES:
        if not outside:
            wide = (high - low) / 2 > resolution
            return (UNDECIDED, f"The interval is wider than ±{resolution:.2g}.") if wide else (PASSED, "")
        far = 2 * high - value.value < least or 2 * low - value.value > most
        return (FAILED, "") if far else (UNDECIDED, "Just beyond the interval, as one in twenty is by chance.")
    good, bad = {WITHIN: (inside, outside), DIFFERS: (outside, inside)}[rule]
    return (PASSED, "") if good else (FAILED, "") if bad else (UNDECIDED, "The interval lies across the border.")


def over_draws(values: Sequence[float]) -> Estimate:
    """Mean of some draws with its 95 % t-interval."""
    array = np.asarray(values, dtype=np.float64)
    mean, spread = float(array.mean()), float(array.std(ddof=1)) / math.sqrt(len(array))
    width = float(stats.t.ppf(0.975, len(array) - 1)) * spread
    return Estimate(mean, mean - width, mean + width)
