"""How well single latents can be told: the schemas of the tables of a `detection` entry, and the typed result.

An entry is of one SAE (of the study, or on a part of its error) and of one scorer: patterns of the text, or a language model.
A page finds the entries of an SAE by the key of its summary, which their specs have, as have those of SAEs on parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from dmcore.results.table_folder import TableFolder

DETECTION = "detection"
"""Stage of the entries."""
VERSION = 1
"""Raised when what is computed changes."""
PATTERNS = "patterns"
"""Name of the scorer that needs no language model."""
N_LATENTS = 1000
"""Random latents of an SAE, where nothing else is asked: as many as the paper scores."""
N_DECILES = 10
"""Of a latent's activation."""


def _ends(name: str) -> dict[str, Any]:
    return {name: pl.Float64, f"{name}_low": pl.Float64, f"{name}_high": pl.Float64}


SCORES: dict[str, Any] = {
    "latent": pl.Int32,
    "explanation": pl.String,  # of unknown origin: escape it before it is shown; null where there is none
    "n": pl.Int32,  # test windows that were scored; 0 for a failure
    "n_active": pl.Int32,  # of those
    # share of windows told rightly, over all of them; Wilson interval
    **_ends("accuracy"),
    # mean of the shares over active and over silent windows: 0.5 for who guesses; MOVER interval from the two Wilson ones
    **_ends("balanced_accuracy"),
    # share of the windows of each decile of activation, the lowest first, and how many these are
    "decile_accuracy": pl.List(pl.Float64),
    "decile_low": pl.List(pl.Float64),
    "decile_high": pl.List(pl.Float64),
    "decile_n": pl.List(pl.Int32),
    # share of silent windows told rightly
    **_ends("silent_accuracy"),
    # area under the curve over all windows, for scorers that give a number; else null
    "auc": pl.Float64,
    "failure": pl.String,  # why there is no score; null where there is one
}
"""A row a latent. Numbers are null where they cannot be had."""

OFFLINE: dict[str, Any] = {
    **SCORES,  # of the logistic regression; explanation: the best single pattern
    # of the best single pattern on the same windows; null for other scorers
    "pattern_accuracy": pl.Float64,
    "pattern_balanced_accuracy": pl.Float64,
    "pattern_balanced_accuracy_low": pl.Float64,
    "pattern_balanced_accuracy_high": pl.Float64,
}
"""Of scores by patterns."""

MEASURES = ("accuracy", "balanced_accuracy", "auc", "silent_accuracy", "decile_accuracy")

DETECTION_TABLES: dict[str, dict[str, Any]] = {
    "scores": OFFLINE,
    # the mean of each of `MEASURES` over the latents that have it (n), each with the same weight; interval: bootstrap over
    # latents, so over the choice of latents alone. decile: 0 (lowest) to 9 for decile_accuracy, else null
    "summary": {"measure": pl.String, "decile": pl.Int32, "n": pl.Int32, **_ends("value")},
}


@dataclass(frozen=True)
class Detection(TableFolder):
    """Detection scores of random latents of one SAE; tables are read when they are first asked for."""

    SCHEMAS = DETECTION_TABLES
    UNREADABLE = (
        "The detection scores of this SAE cannot be read: delete the entry and run `python -m dmcore detect` again."
    )

    about: Mapping[str, Any]
    """sae (name), site, summary (key of the SAE's summary; of the base's, for an SAE on a part), part (key of its entry) and
    part_name and train_seed (all three null for an SAE of the study), scorer (`PATTERNS`, or the model's name), identity
    (all that the scores depend on), d_sae, n_asked, n_scored, n_failed, n_unanswered (of those, latents that another run
    may get an answer for), windows (`dmcore.explain.draw.DrawSettings`), seed, n_contexts, protocol (in words)."""

    @property
    def key(self) -> tuple[str, ...]:
        """Names what is in the entry: it is made anew where a language model owed answers."""
        return self.folder.name, str(self.about["n_scored"])

    def mean(self, measure: str) -> dict[str, Any]:
        """The row of one of `MEASURES` but deciles in `summary`."""
        return self["summary"].row(by_predicate=pl.col("measure") == measure, named=True)

    def score(self, latent: int) -> dict[str, Any] | None:
        """The row of a latent; None if it is not among those that were drawn."""
        rows = self["scores"].filter(pl.col("latent") == latent)
        return None if rows.is_empty() else rows.row(0, named=True)


def detection_spec(
    summary: str, part: str | None, scorer: Mapping[str, Any], n_latents: int, windows: Mapping[str, Any]
) -> dict[str, Any]:
    """The spec of an entry.

    Args:
        summary: key of the SAE's summary; of the base's, for an SAE on a part of its error.
        part: key of the `part` entry, for an SAE on a part.
        scorer: its identity.
        n_latents: asked for.
        windows: how they are drawn, with the seed.
    """
    return {
        "stage": DETECTION,
        "version": VERSION,
        "summary": summary,
        "part": part,
        "scorer": dict(scorer),
        "n_latents": n_latents,
        "windows": dict(windows),
    }


def scorers_of(found: Sequence[Detection]) -> list[str]:
    """Names of the scorers of some results: patterns first, then language models by name."""
    return sorted({str(one.about["scorer"]) for one in found}, key=lambda name: (name != PATTERNS, name))
