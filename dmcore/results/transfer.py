"""Whether a map from x to the error that was fitted in one place holds in another: of texts, layers, SAEs.

A row of `cells` is a pair of members: the map fitted on one, tested on the other. Everything is held out by context: for tokens
of fold f the map was fitted on the other folds of its own member, whatever is tested. What is kept of the map differs:
    map      slope and bias
    slope    the slope; the means of x and of the error are those of the training folds where it is tested
    scaled   the slope times one number, fitted there too: whether the directions hold where the size does not
R2 is pooled over tokens and dimensions, about the mean of the error that is tested; intervals by the bootstrap over contexts,
maps held fixed, and what is relative to the map fitted on the tested member itself is paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from dmcore.results.compare import nearest_l0_each, over_layers, over_widths
from dmcore.results.table_folder import TableFolder

TRANSFER = "transfer"
"""Stage of the entries."""
VERSION = 1
"""Raised when what is computed changes."""

BY = {
    "domain": "between texts",
    "layer": "between layers",
    "sae": "between SAEs of one site",
    "width": "between widths",
}
"""What is transferred between, in words."""
KEPT = {"map": "slope and bias", "slope": "slope alone", "scaled": "slope up to one number"}
"""What is kept of a map, in words."""
MOST_MEMBERS = 12
"""Most members of a matrix."""
ALL_TEXTS = "all texts"
"""The member of every kept token, among domains."""


def _ends(name: str) -> dict[str, Any]:
    return {name: pl.Float64, f"{name}_low": pl.Float64, f"{name}_high": pl.Float64}


TRANSFER_TABLES: dict[str, dict[str, Any]] = {
    "members": {
        "member": pl.Int32,
        "name": pl.String,  # of the domain, or the SAE
        "site": pl.String,
        "layer": pl.Int64,
        "label": pl.String,
        "d_sae": pl.Int64,
        "l0": pl.Float64,
        "summary_key": pl.String,
        "n_tokens": pl.Int64,
        "n_contexts": pl.Int64,  # that have a token of it
    },
    "cells": {
        "fitted": pl.Int32,
        "tested": pl.Int32,
        "kept": pl.String,  # of `KEPT`
        **_ends("r2"),
        **_ends("relative"),  # R2 / R2 of the map fitted on the tested member
        **_ends("drop"),  # R2 of that map less R2
        "scale": pl.Float64,  # of `scaled`: the number, mean over folds
    },
    "remarks": {"topic": pl.String, "text": pl.String},
}


@dataclass(frozen=True)
class Transfer(TableFolder):
    """Maps fitted in one place and tested in another; tables are read when they are first asked for."""

    SCHEMAS = TRANSFER_TABLES
    UNREADABLE = (
        "How maps transfer cannot be read: `python -m dmcore cache verify` takes damaged entries away, then `python -m dmcore "
        "transfer` makes it again."
    )

    @property
    def by(self) -> str:
        """Of `BY`."""
        return str(self.about["by"])

    def off_diagonal(self, kept: str) -> pl.DataFrame:
        """The cells where the map was fitted elsewhere; where texts are compared, those of all texts are left out."""
        whole = self["members"].filter((pl.col("name") == ALL_TEXTS) & (self.by == "domain"))["member"].to_list()
        here = pl.col("kept") == kept
        apart = (pl.col("fitted") != pl.col("tested")) & ~pl.col("fitted").is_in(whole) & ~pl.col("tested").is_in(whole)
        return self["cells"].filter(here & apart)


def transfer_members(records: pl.DataFrame, summary: str, by: str) -> list[str]:
    """Keys of the summaries of the SAEs that a matrix around one SAE has, in order; that SAE alone for texts.

    layer: of its stream one an SAE a layer, of the nearest width and L0. width: of its site one a width, of the nearest L0.
    sae: those, the SAEs of its own kind and width at every L0, and of its width one of every other kind, at most
    `MOST_MEMBERS`. All have activations of one size.

    Args:
        records: rows of `RECORD` of a study.
        summary: key of the SAE's own.
        by: of `BY`.
    """
    own = records.filter(pl.col("summary_key") == summary).row(0, named=True)
    if by == "domain":
        return [summary]
    same = records.filter(pl.col("d_model") == own["d_model"])
    if by == "layer":
        return over_layers(same, own)["summary_key"].head(MOST_MEMBERS).to_list()
    site = same.filter(pl.col("site") == own["site"])
    widths = over_widths(site, own)["summary_key"].to_list()
    if by == "width":
        return widths[:MOST_MEMBERS]
    width = site.filter(pl.col("d_sae") == own["d_sae"])
    sparser = width.filter(pl.col("label") == own["label"]).sort("l0")["summary_key"].to_list()
    kinds = nearest_l0_each(width.filter(pl.col("label") != own["label"]), "label", own["l0"])["summary_key"].to_list()
    chosen = list(dict.fromkeys([summary, *widths, *sparser, *kinds]))[:MOST_MEMBERS]
    return site.filter(pl.col("summary_key").is_in(chosen)).sort("label", "d_sae", "l0")["summary_key"].to_list()


def transfer_spec(by: str, summaries: Sequence[str]) -> dict[str, Any]:
    """The spec of an entry: between which SAEs, or the SAE whose texts are compared."""
    return {"stage": TRANSFER, "version": VERSION, "by": by, "summaries": sorted(summaries)}


def transfer_table(name: str, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """A table of `TRANSFER_TABLES`; columns that a row lacks, and what is no finite number, become null."""
    schema = TRANSFER_TABLES[name]
    table = pl.DataFrame([{column: row.get(column) for column in schema} for row in rows], schema=schema, strict=False)
    floats = [column for column, dtype in schema.items() if dtype == pl.Float64]
    return table.with_columns(pl.when(pl.col(c).is_finite()).then(pl.col(c)).alias(c) for c in floats)
