"""Whether the linear part of an SAE's error is only undone shrinkage: a ladder of ever larger maps, and what the map is.

Every R2 is held out by context, pooled over tokens and dimensions, of the error about its mean, with a 95 % interval from the
bootstrap over contexts, the maps held fixed; differences and ratios of rungs are paired, replicate by replicate. What the map
looks like has intervals from a jackknife over the folds. What cannot be said is null, and `remarks` says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from dmcore.results.table_folder import TableFolder

SHRINKAGE = "shrinkage"
"""Stage of the entries."""
VERSION = 1
"""Raised when what is computed changes."""

SCALES = ("scale_x", "scale_recon", "diagonal")
"""Rungs that are shrinkage, one number for all dimensions or one for each. x and Sae(x) together are none: `e = x - Sae(x)`."""
FULL = "full"
OUTLIER_MULTIPLE = 10.0
"""A dimension of x is an outlier if its variance is more than this many times the median variance of the dimensions."""
PC_GROUPS = ((1, 4), (5, 16), (17, 64), (65, None))
"""First and last principal component of x of each group that is ablated; None: to the end."""


def _ends(name: str) -> dict[str, Any]:
    return {name: pl.Float64, f"{name}_low": pl.Float64, f"{name}_high": pl.Float64}


SHRINKAGE_TABLES: dict[str, dict[str, Any]] = {
    # one row a rung, smaller maps first
    "ladder": {
        "rung": pl.String,  # of `SCALES`, rank_<r>, or full
        "title": pl.String,
        "rank": pl.Int32,  # of rank_<r>, and of full
        "n_weights": pl.Int64,  # numbers that are fitted, without the bias
        "alpha": pl.Float64,  # of `SCALES`: the number, mean over folds; of a diagonal the mean over dimensions
        **_ends("r2"),
        **_ends("share"),  # of the linear part: R2 / R2 of full
        "before": pl.String,  # the smaller map that it holds
        **_ends("gain"),  # R2 less R2 of that
        **_ends("left"),  # of `SCALES`: R2 from x of what is left once this is taken away
    },
    # R2 at every rank; `scaled`: with alpha x beside it
    "ranks": {"rank": pl.Int32, **_ends("r2"), **_ends("scaled")},
    # what the map looks like, of all tokens
    "shape": {"fact": pl.String, **_ends("value"), "chance": pl.Float64},
    # singular values, and the share of the variance of what is predicted that each direction holds
    "spectrum": {"direction": pl.Int32, **_ends("singular"), **_ends("predicted")},
    # mean squared cosine of the map's first k directions with the first k of a basis
    "alignment": {
        "side": pl.String,  # reads, writes
        "weighting": pl.String,  # plain: singular vectors; data: by the variance of what is predicted
        "basis": pl.String,  # x: its principal components; decoder: those of its rows
        "k": pl.Int32,
        **_ends("overlap"),
        "chance": pl.Float64,
    },
    # the decoder row nearest to each of the first directions
    "rows": {
        "side": pl.String,
        "weighting": pl.String,
        "direction": pl.Int32,
        "cosine": pl.Float64,  # largest absolute cosine
        "latent": pl.Int64,
        "chance": pl.Float64,  # 95 % quantile of the same for random directions
    },
    # dimensions of x with an outlying variance, and R2 with and without them
    "outliers": {"dimension": pl.Int32, "variance": pl.Float64, "times_median": pl.Float64},
    "without": {"case": pl.String, **_ends("r2"), **_ends("drop")},
    # what goes when a group of principal components of x is ablated; `share` of the variance of x
    "ablations": {
        "first": pl.Int32,
        "last": pl.Int32,
        "variance_share": pl.Float64,
        **_ends("r2"),
        **_ends("drop"),
        **_ends("drop_share"),  # of R2 of the full map
    },
    "remarks": {"topic": pl.String, "text": pl.String},
}
CASES = {
    "all": "every dimension",
    "inputs": "the map does not read the outlying dimensions",
    "targets": "the outlying dimensions of the error do not count",
    "both": "neither read nor counted",
    "only": "the outlying dimensions of the error alone",
}
"""Rows of `without`, in words."""


@dataclass(frozen=True)
class Shrinkage(TableFolder):
    """Whether the linear part of one SAE's error is undone shrinkage; tables are read when they are first asked for."""

    SCHEMAS = SHRINKAGE_TABLES
    UNREADABLE = (
        "How much of this SAE's error is shrinkage cannot be read: `python -m dmcore cache verify` takes damaged entries away, "
        "then `python -m dmcore shrinkage` makes it again."
    )

    def rung(self, name: str) -> dict[str, Any]:
        """The row of a rung; all null where there is none."""
        rows = self["ladder"].filter(pl.col("rung") == name)
        return dict.fromkeys(SHRINKAGE_TABLES["ladder"]) if rows.is_empty() else rows.row(0, named=True)


def shrinkage_spec(summary: str) -> dict[str, Any]:
    """The spec of the entry of the SAE with this summary."""
    return {"stage": SHRINKAGE, "version": VERSION, "summary": summary}


def table_of(schema: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows in a schema; columns that a row lacks, and what is no finite number, become null."""
    content = [{column: row.get(column) for column in schema} for row in rows]
    table = pl.DataFrame(content, schema=dict(schema), strict=False)
    floats = [column for column, dtype in schema.items() if dtype == pl.Float64]
    return table.with_columns(pl.when(pl.col(c).is_finite()).then(pl.col(c)).alias(c) for c in floats)


def shrinkage_table(name: str, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """A table of `SHRINKAGE_TABLES`."""
    return table_of(SHRINKAGE_TABLES[name], rows)
