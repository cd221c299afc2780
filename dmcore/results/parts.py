"""What SAEs trained on the parts of an SAE's error leave behind: the schemas of the tables, and the entry that holds them.

One `part` entry per SAE (its codes and sums over the study's tokens), and one `parts` entry per base SAE, which pages read.
A part is x, or the base's error, or the linear or nonlinear part of it; parts are taken out of fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from dmcore.results.table_folder import TableFolder

PART, PARTS_STAGE = "part", "parts"
"""Stages of the entries."""
VERSION = 1
"""Raised when what is computed changes."""


def _ends(name: str) -> dict[str, Any]:
    return {name: pl.Float64, f"{name}_low": pl.Float64, f"{name}_high": pl.Float64}


_SAE = {"part": pl.String, "seed": pl.Int64}

PARTS_TABLES: dict[str, dict[str, Any]] = {
    # one row an SAE, in the order of parts and seeds. fvu = sum |v - Sae(v)|^2 / sum |v - mean v|^2 over the study's kept
    # tokens, v the part, out of fold; pooled; null where the part does not vary
    "saes": {
        **_SAE,
        "sae": pl.String,  # its folder, relative to the study
        **_ends("fvu"),
        "l0": pl.Float64,  # mean active latents per kept token
        "dead_share": pl.Float64,  # share of latents that no kept token activates
        "d_sae": pl.Int64,
        "variance_share": pl.Float64,  # sum |v - mean v|^2 over that of x
        "train_tokens": pl.Int64,
        "train_fvu": pl.Float64,  # on held-out training contexts, of the part by the map of all study tokens
    },
    # mean FVU over the seeds of each part, with its interval over texts; seed_sd: standard deviation over seeds (n - 1);
    # null with one seed
    "means": {"part": pl.String, "n_seeds": pl.Int32, **_ends("fvu"), "seed_sd": pl.Float64},
    # mean FVU of `part` less that of `other`: paired, the same replicates of the same contexts
    "differences": {"part": pl.String, "other": pl.String, **_ends("difference")},
    # FVU in each bootstrap replicate; replicate r has the same context weights for every SAE of the study
    "replicates": {**_SAE, "replicate": pl.Int32, "fvu": pl.Float64},
    # the curve of each training, on held-out training contexts
    "curves": {**_SAE, "tokens": pl.Int64, "fvu": pl.Float64, "l0": pl.Float64, "dead_share": pl.Float64},
    # latents of two seeds of a part, matched one to one by the cosine of decoder rows; only latents that some kept token
    # activates. share_*: pairs above that cosine over the latents of the smaller one; random_*: the same number of random
    # unit rows; shaped_*: of random rows with the second moments of each dictionary's own. Neither is what SAEs on noise
    # give, which can be more. method: assignment, or mutual neighbours past 8,192 latents; null means where there are no pairs
    "stability": {
        "part": pl.String,
        "first": pl.Int64,  # seeds
        "second": pl.Int64,
        "n_first": pl.Int32,
        "n_second": pl.Int32,
        "n_pairs": pl.Int32,
        "method": pl.String,
        **{
            f"{kind}{name}": pl.Float64
            for kind in ("", "random_", "shaped_")
            for name in ("mean_cosine", "share_above_07", "share_above_09")
        },
    },
}


def part_spec(split: str, part: str, sae: str) -> dict[str, Any]:
    """The spec of one SAE's entry.

    Args:
        split: `SaePlan.maps_key` of the base: what the maps that take its error apart are made from.
        part: of `dmcore.specs.PARTS`.
        sae: fingerprint of the SAE on the part.
    """
    return {"stage": PART, "version": VERSION, "split": split, "part": part, "sae": sae}


def parts_spec(summary: str, parts: Mapping[str, Any], entries: Sequence[str]) -> dict[str, Any]:
    """The spec of a base's entry.

    Args:
        summary: key of the base's summary, by which a page finds it.
        parts: the study's [parts] table, as plain values.
        entries: keys of the `part` entries, in the order of `PartsSpec.saes`.
    """
    return {
        "stage": PARTS_STAGE,
        "version": VERSION,
        "summary": summary,
        "parts": dict(parts),
        "entries": list(entries),
    }


@dataclass(frozen=True)
class Parts(TableFolder):
    """SAEs on the parts of one SAE's error; tables are read when they are first asked for."""

    SCHEMAS = PARTS_TABLES
    UNREADABLE = "The SAEs on the parts cannot be read: sweep the study again to measure them anew."

    about: Mapping[str, Any]
    """base, site, summary (key), parts (names), seeds, width, l0, architecture, engine, tokens, batch_tokens, n_tokens,
    n_contexts, skip_positions, n_folds, seed, d_model, note (how training's parts differ from the measured ones)."""

    def record(self) -> dict[str, Any]:
        """All tables but the replicates, as JSON has them."""
        tables = {name: self[name].to_dicts() for name in PARTS_TABLES if name != "replicates"}
        return {"about": dict(self.about), **tables}
