"""Which latents of SAEs on the parts of an error have a direction that a dictionary has already: schemas and typed result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from dmcore.errors import StoreError
from dmcore.results.compare import nearest_l0_each

LEARNED = "learned"
"""Stage of the entries."""
VERSION = 1
"""Raised when what is computed changes."""

NOT_LEARNED: dict[str, Any] = {
    "latent": pl.Int32,  # of an SAE trained on a part of the error
    "against": pl.String,  # name of a dictionary, or `COMPONENTS`
    "nearest": pl.Int32,  # its row with the largest cosine
    "cosine": pl.Float32,  # that cosine; without sign for principal components, which have none
    "baseline_mean": pl.Float32,  # the same of random directions: the mean over them
    "baseline_95": pl.Float32,  # and the 95 % quantile
}
"""Is a latent's direction in a dictionary already? A row a latent and dictionary."""
COMPONENTS = "principal components"
LEARNED_LATENTS: dict[str, Any] = {"part": pl.String, "seed": pl.Int32, **NOT_LEARNED}
"""The same for the SAEs on all parts and seeds; latents that no kept token activates are left out."""
SAME = 0.9
"""A cosine from which on two latents count as the same, as in `parts`."""
SHARES: dict[str, Any] = {
    "part": pl.String,
    "against": pl.String,
    "n_latents": pl.Int64,  # of all seeds together
    # share of the latents of an SAE whose largest cosine is at least `SAME`: mean over seeds, least and most of them
    "same": pl.Float64,
    "same_least": pl.Float64,
    "same_most": pl.Float64,
    # and of those above the 95 % quantile of random directions: 5 % would be by chance
    "above_random": pl.Float64,
    "above_random_least": pl.Float64,
    "above_random_most": pl.Float64,
    "median_cosine": pl.Float64,
}
_TABLE, _ABOUT = "latents.parquet", "about.json"


def dictionaries_of(records: pl.DataFrame, summary: str) -> list[str]:
    """Keys of the summaries of an SAE and, for each larger width at its site, of the one with the nearest L0; by width.

    Args:
        records: rows of `RECORD` of a study.
        summary: key of the SAE's own.
    """
    own = records.filter(pl.col("summary_key") == summary).row(0, named=True)
    wider = records.filter((pl.col("site") == own["site"]) & (pl.col("d_sae") > own["d_sae"]))
    return [summary, *nearest_l0_each(wider, "d_sae", own["l0"])["summary_key"]]


def learned_spec(parts: str, dictionaries: Sequence[str]) -> dict[str, Any]:
    """The spec of an entry, from what pages know.

    Args:
        parts: key of the entry of the SAEs on the parts.
        dictionaries: keys of the summaries of what their latents are compared to (`dictionaries_of`).
    """
    return {"stage": LEARNED, "version": VERSION, "parts": parts, "dictionaries": list(dictionaries)}


@dataclass(frozen=True)
class Learned:
    """Which latents are in a dictionary already."""

    about: Mapping[str, Any]
    """base, against (names of those with decoder rows, by width), widths (of all, by name), n_components, d_model."""
    latents: pl.DataFrame
    """With the columns of `LEARNED_LATENTS`."""
    key: str
    """Of the entry."""

    def shares(self) -> pl.DataFrame:
        """A row a part and dictionary, with the columns of `SHARES`, in the order of the latents."""
        known = self.latents.filter(pl.col("cosine").is_not_null())
        each = known.group_by("part", "against", "seed", maintain_order=True).agg(
            same=(pl.col("cosine") >= SAME).mean(),
            above_random=(pl.col("cosine") > pl.col("baseline_95")).mean(),
            n=pl.len(),
        )
        ends = [
            expression
            for name in ("same", "above_random")
            for expression in (
                pl.col(name).mean(),
                pl.col(name).min().alias(f"{name}_least"),
                pl.col(name).max().alias(f"{name}_most"),
            )
        ]
        keys = ["part", "against"]
        rows = each.group_by(keys, maintain_order=True).agg(*ends, n_latents=pl.col("n").sum())
        medians = known.group_by(keys).agg(median_cosine=pl.col("cosine").median())
        return rows.join(medians, on=keys, how="left", maintain_order="left").select(
            pl.col(name).cast(dtype) for name, dtype in SHARES.items()
        )


def write_learned(folder: Path, about: Mapping[str, Any], latents: pl.DataFrame) -> None:
    """Write what `read_learned` opens."""
    (folder / _ABOUT).write_text(json.dumps(dict(about), indent=1), encoding="utf-8")
    table = latents.select(pl.col(name).cast(dtype) for name, dtype in LEARNED_LATENTS.items())
    table.write_parquet(folder / _TABLE, compression="zstd")


def read_learned(folder: Path) -> Learned:
    """Open what `write_learned` wrote.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        return Learned(about, pl.read_parquet(folder / _TABLE), folder.name)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise StoreError("What is known of learned latents cannot be read: sweep the study again.") from error
