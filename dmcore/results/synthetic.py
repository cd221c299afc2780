"""Whether the estimates find what was put in: the tables of two experiments, and the specs of the entries that hold them.

`Planted`, one entry an SAE: its reconstructions stand for true activations, and known errors are added to them (the paper's
experiment). `GroundTruth`, one entry for all studies: activations made from known sparse features, and SAEs that are known.
In both, *truth* is what the best affine map of all tokens leaves, *estimate* what least squares held out by context finds on
some tokens. All sizes are shares of the variance of the activation: an FVU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from dmcore.errors import SpecError
from dmcore.results.table_folder import TableFolder

SYNTHETIC = "synthetic"
"""Stage of the entries of SAEs."""
GROUND_TRUTH = "ground-truth"
"""Stage of the entry of known features."""
VERSION = 1
"""Raised when what `Planted` holds changes."""
GROUND_TRUTH_VERSION = 1
"""Raised when what `GroundTruth` holds changes."""

NOISES = {"gaussian": "Gaussian noise", "residual": "errors of other tokens"}
"""What is added: isotropic; or the SAE's real errors about their mean, shuffled over tokens."""
LEVELS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Mean squared norm of what is added, over that of the SAE's real error about its mean."""
ABLATED = (0.0, 0.25, 0.5)
"""Share of the latents, the least used, that the ablated SAE lacks."""
SPLIT = ("linear", "nonlinear")
"""Parts of an error that are estimated."""


def _ends(name: str) -> dict[str, Any]:
    return {name: pl.Float64, f"{name}_low": pl.Float64, f"{name}_high": pl.Float64}


_SPLIT: dict[str, Any] = {
    "n_tokens": pl.Int64,
    "price": pl.Float64,  # expected share by which held-out least squares overstates what is nonlinear, for Gaussian inputs
    "truth_fvu": pl.Float64,  # of all tokens: sum |e|^2 / sum |x - mean x|^2, and its two parts
    "truth_linear": pl.Float64,
    "truth_nonlinear": pl.Float64,
    **_ends("fvu"),  # held out by context, on n_tokens, with a bootstrap over contexts
    **_ends("linear"),
    **_ends("nonlinear"),
}

PLANTED_TABLES: dict[str, dict[str, Any]] = {
    # a row a cell: x'' = Sae(x) + a, Sae''(x) = the ablated SAE's reconstruction + b; the error is x'' - Sae''(x)
    "cells": {
        "noise": pl.String,  # of `NOISES`
        "ablated": pl.Float64,  # of `ABLATED`
        "on_acts": pl.Float64,  # of `LEVELS`: a
        "on_recon": pl.Float64,  # of `LEVELS`: b
        "planted_absent": pl.Float64,  # sum |what the ablated latents wrote|^2, its mean within; over the variance of x''
        "planted_acts": pl.Float64,  # a
        "planted_recon": pl.Float64,  # b
        **_SPLIT,
    },
    # Pearson correlations over the cells of a noise and an ablation, of what was planted with a part that was found
    "correlations": {
        "noise": pl.String,
        "ablated": pl.Float64,
        "planted": pl.String,  # acts, recon
        "found": pl.String,  # of `SPLIT`
        **_ends("r"),
    },
}

INGREDIENTS: dict[str, tuple[float, ...]] = {
    "density": (2.0, 8.0, 24.0),
    "absent": (0.0, 0.25, 0.5, 0.75),
    "dense": (0.0, 0.25, 1.0),
    "circles": (0.0, 0.25, 1.0),
    "introduced": (0.0, 0.02, 0.1),
    "shrinkage": (0.0, 0.2),
    "tokens": (16.0, 64.0, 256.0, 1024.0),
}
"""Levels of each ingredient of the grid: active features a token; share of the features, the rarest, that the SAE lacks;
variance of the dense part, and of the circles, over that of the sparse features; mean square of spurious activity, over the same;
share of each value that the SAE loses; tokens a dimension, of which the estimate is made."""
DEFAULTS = {"density": 8.0, "absent": 0.5, "dense": 0.25, "circles": 0.25, "introduced": 0.02, "shrinkage": 0.2,
            "tokens": 256.0}  # fmt: skip
"""The setting that a page opens with."""
COMPONENTS = ("absent", "dense", "shrunk", "missed", "manifold", "introduced")
"""What the error of the known SAE is made of; they add up to it."""

GROUND_TRUTH_TABLES: dict[str, dict[str, Any]] = {
    # a row a point of the grid
    "settings": {"setting": pl.Int32, **dict.fromkeys(INGREDIENTS, pl.Float64), **_SPLIT},
    # a row a setting and component, of all tokens; the same for every number of tokens, so of settings of one number alone
    "components": {
        "setting": pl.Int32,
        "component": pl.String,  # of `COMPONENTS`
        "size": pl.Float64,  # sum |c|^2 / sum |x - mean x|^2
        "linear": pl.Float64,  # sum <linear part of c, linear error> over the same: adds up to truth_linear
        "nonlinear": pl.Float64,  # sum <the rest of c, nonlinear error> over the same: adds up to truth_nonlinear
        "r2": pl.Float64,  # of the component from x, by the best affine map
    },
    # a row an SAE that was trained, TopK, and a number of tokens
    "trained": {
        **{name: pl.Float64 for name in INGREDIENTS if name not in ("absent", "introduced", "shrinkage")},
        "d_sae": pl.Int32,
        "l0": pl.Float64,
        "found": pl.Float64,  # share of the true features with a decoder row of cosine 0.9 or above
        **_SPLIT,
    },
}


@dataclass(frozen=True)
class PlantedSettings:
    """On how much the experiment on an SAE is run."""

    contexts: int = 64
    """Contexts, at equal steps, on which estimates are made; more where those are too few for the map from x; 0 for all."""

    def __post_init__(self) -> None:
        if not isinstance(self.contexts, int) or isinstance(self.contexts, bool) or self.contexts < 0:
            raise SpecError(f"contexts is {self.contexts!r}: give a whole number, 0 or above.")


@dataclass(frozen=True)
class Planted(TableFolder):
    """The experiment on one SAE; tables are read when they are first asked for."""

    SCHEMAS = PLANTED_TABLES
    UNREADABLE = "What was planted in this SAE cannot be read: `python -m dmcore synthetic STUDY SAE` makes it again."

    about: Mapping[str, Any]
    """sae (name), hook, d_model, d_sae, n_tokens (of the truth), n_contexts (of the study), sample_tokens, sample_contexts,
    n_folds, skip_positions, seed, error_share (mean square of the real error about its mean, over the variance of Sae(x))."""


@dataclass(frozen=True)
class GroundTruth(TableFolder):
    """The experiment on known features; tables are read when they are first asked for."""

    SCHEMAS = GROUND_TRUTH_TABLES
    UNREADABLE = "The ground truth cannot be read: `python -m dmcore synthetic --ground-truth` makes it again."

    about: Mapping[str, Any]
    """d_model, n_features, truth_tokens, context_length, n_folds, seed, and what the generator is made of."""

    def setting(self, **levels: float) -> dict[str, Any] | None:
        """The row of a point of the grid; None where it has none."""
        rows = self["settings"].filter(*(pl.col(name) == value for name, value in levels.items()))
        return rows.row(0, named=True) if len(rows) == 1 else None


def planted_spec(summary: str, settings: PlantedSettings) -> dict[str, Any]:
    """The spec of an SAE's entry, from what pages know; `summary`: key of the SAE's summary."""
    made = {"levels": list(LEVELS), "ablated": list(ABLATED), **asdict(settings)}
    return {"stage": SYNTHETIC, "version": VERSION, "summary": summary, **made}


def ground_truth_spec(size: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The spec of the entry of known features, which no study is needed for.

    Args:
        size: what differs from the usual (`dmcore.analysis.ground_truth.Size`), for tests.
    """
    levels = {name: list(values) for name, values in INGREDIENTS.items()}
    return {"stage": GROUND_TRUTH, "version": GROUND_TRUTH_VERSION, "levels": levels, **dict(size or {})}


def synthetic_table(schema: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows as a table of a schema; columns that a row lacks, and what is no finite number, become null."""
    table = pl.DataFrame([{c: row.get(c) for c in schema} for row in rows], schema=dict(schema), strict=False)
    floats = [column for column, dtype in schema.items() if dtype == pl.Float64]
    return table.with_columns(pl.when(pl.col(c).is_finite()).then(pl.col(c)).alias(c) for c in floats)
