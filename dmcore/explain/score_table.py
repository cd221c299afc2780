"""The table of scores: a row a latent, and what it says of all of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from dmcore.estimate import Estimate
from dmcore.explain.examples import FeatureExamples
from dmcore.explain.wilson import mean_of_two, wilson
from dmcore.math.bootstrap import bootstrap_units, interval, poisson_weights, ratio
from dmcore.results.detection import N_DECILES, SCORES


@dataclass(frozen=True)
class Outcome:
    """What became of one latent; JSON-able by `record` and `of_record`."""

    latent: int
    """Its number."""
    explanation: str | None
    """Null where there is none."""
    right: tuple[int, ...]
    """(N_DECILES + 1) windows told rightly: of each decile, then of the silent ones; empty for a failure."""
    n: tuple[int, ...]
    """(N_DECILES + 1) windows; empty for a failure."""
    auc: float | None = None
    """See `SCORES`."""
    failure: str | None = None
    """Why there is no score."""

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return json.loads(json.dumps(self.__dict__))

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> Outcome:
        """What `record` gave."""
        return cls(**{**record, "right": tuple(record["right"]), "n": tuple(record["n"])})


def failed(latent: int, reason: str, explanation: str | None = None) -> Outcome:
    """The outcome of a latent without a score."""
    return Outcome(latent, explanation, (), (), failure=reason)


def outcome_of(
    examples: FeatureExamples,
    explanation: str,
    active: Sequence[bool],
    silent: Sequence[bool],
    auc: float | None = None,
) -> Outcome:
    """The outcome of a scored latent.

    Args:
        examples: of the latent.
        explanation: that was scored.
        active: what the scorer said of `examples.test_active`.
        silent: what it said of `examples.test_silent`.
        auc: see `SCORES`.
    """
    answers = iter(active)
    right = [sum(next(answers) for _ in decile) for decile in examples.test]
    n = (*map(len, examples.test), len(examples.test_silent))
    return Outcome(examples.latent, explanation, (*right, sum(not said for said in silent)), n, auc)


def score_table(outcomes: Iterable[Outcome]) -> pl.DataFrame:
    """The table `SCORES`, in the order of the outcomes."""
    return pl.DataFrame([_row(outcome) for outcome in outcomes], schema=SCORES, orient="row")


def _row(outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(SCORES)
    row |= {
        "latent": outcome.latent,
        "explanation": outcome.explanation,
        "failure": outcome.failure,
        "n": 0,
        "n_active": 0,
    }
    if outcome.failure is not None:
        return row
    deciles = [wilson(right, n) for right, n in zip(outcome.right[:-1], outcome.n[:-1], strict=True)]
    active = wilson(sum(outcome.right[:-1]), sum(outcome.n[:-1]))
    silent = wilson(outcome.right[-1], outcome.n[-1])
    row |= {"n": sum(outcome.n), "n_active": sum(outcome.n[:-1]), "auc": outcome.auc, "decile_n": outcome.n[:-1]}
    row |= {
        "decile_accuracy": [_number(share) for share in deciles],
        "decile_low": [_number(share.low) for share in deciles],
        "decile_high": [_number(share.high) for share in deciles],
    }
    for name, share in (
        ("accuracy", wilson(sum(outcome.right), sum(outcome.n))),
        ("balanced_accuracy", mean_of_two(active, silent)),
        ("silent_accuracy", silent),
    ):
        row |= {name: _number(share), f"{name}_low": _number(share.low), f"{name}_high": _number(share.high)}
    return row


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


@dataclass(frozen=True)
class ScoreSummary:
    """Means over the scored latents, with intervals from a bootstrap over latents; nan where there is nothing to average."""

    n_scored: int
    """Latents with a score."""
    n_failed: int
    """Latents without one; they are in no mean."""
    accuracy: Estimate
    balanced_accuracy: Estimate
    deciles: tuple[Estimate, ...]
    """(N_DECILES) mean over the latents that have windows of the decile, the lowest first."""
    silent_accuracy: Estimate
    auc: Estimate


def summarise(table: pl.DataFrame, seed: int = 0) -> ScoreSummary:
    """What a table `SCORES` says of all of its latents.

    Intervals say how the means vary with the choice of latents; each mean gives every latent the same weight. Two tables of
    the same latents, in one order and with no failures, see the same replicates.
    """
    scored = table.filter(pl.col("failure").is_null())
    deciles = np.array(
        [[math.nan if value is None else value for value in row] for row in scored["decile_accuracy"].to_list()]
    ).reshape(-1, N_DECILES)
    units = bootstrap_units(max(len(scored), 1))[: len(scored)]
    weights = poisson_weights(int(units.max(initial=-1)) + 1, seed)

    def mean(values: np.ndarray) -> Estimate:
        there = np.isfinite(values)
        if not there.any():
            return Estimate(math.nan)
        sums, counts = (
            np.bincount(units, weights=one, minlength=weights.shape[1]) for one in (np.where(there, values, 0.0), there)
        )
        return interval(float(values[there].mean()), ratio(sums, counts.astype(float), weights))

    columns = {
        name: mean(scored[name].cast(pl.Float64).fill_null(math.nan).to_numpy())
        for name in ("accuracy", "balanced_accuracy", "silent_accuracy", "auc")
    }
    by_decile = tuple(mean(deciles[:, decile]) for decile in range(N_DECILES))
    return ScoreSummary(len(scored), len(table) - len(scored), deciles=by_decile, **columns)
