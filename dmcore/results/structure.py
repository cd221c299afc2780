"""What the structure of one SAE's error leaves behind: the schemas of its tables, and the entry that holds them.

Of x and of each part of the error (whole, linear, nonlinear; out of fold) over the kept tokens: in how many directions its
variance is, whether those come back in another half of the texts, and whether they are those of x or of the decoder. Of the
error and its nonlinear part: whether the tokens with the largest norm fall in clusters. Of the latents: which fire when much
of the squared error is nonlinear. What cannot be had is null, and `remarks` says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from dmcore.results.scaling import PARTS
from dmcore.results.scaling import TABLES as SCALING_TABLES
from dmcore.results.table_folder import TableFolder

STRUCTURE = "structure"
"""Stage of the entries."""
VERSION = 1
"""Raised when what is computed changes."""

SPECTRUM_PARTS = ("x", *PARTS)
"""What has a spectrum."""
CLUSTERED_PARTS = ("error", "nonlinear")
"""Whose tokens with the largest norm are looked at."""
BASES = ("x", "decoder")
"""Directions that parts are compared to: those of x (eigenvectors of its covariance), and of the decoder's rows (right
singular vectors), the largest first."""
N_BEFORE, N_AFTER = 24, 8
"""Most tokens of the same context before and after an example."""
SIDES = ("largest", "smallest")
"""Lifts that are listed."""


def _ends(name: str) -> dict[str, Any]:
    return {name: pl.Float64, f"{name}_low": pl.Float64, f"{name}_high": pl.Float64}


_CLUSTER: dict[str, Any] = {"part": pl.String, "cluster": pl.Int32}
_LIFT: dict[str, Any] = {"n_active": pl.Int64, "n_high": pl.Int64, "n_contexts": pl.Int64, **_ends("lift")}

STRUCTURE_TABLES: dict[str, dict[str, Any]] = {
    # one row a part, of the covariance about the mean. directions_*: how many, the largest first, hold 50, 90, 99 % of the
    # variance; of the last only the share that is needed counts, so the whole number is the ceiling. Intervals: jackknife
    # over groups of contexts, the maps of the split held fixed; null where the part does not vary
    "parts": {
        "part": pl.String,
        "variance_share": pl.Float64,  # sum |v - mean v|^2 over that of x; 0 for a part that is rounding alone
        "rank": pl.Int32,  # eigenvalues above rounding
        **_ends("effective_rank"),
        **_ends("participation_ratio"),
        **_ends("directions_50"),
        **_ends("directions_90"),
        **_ends("directions_99"),
    },
    # every eigenvalue; share: of the part's variance, with its jackknife interval (of the r-th largest of each sample)
    "spectra": {"part": pl.String, "direction": pl.Int32, **_ends("share")},
    # mean squared cosine of the angles between the first k directions of two halves of the contexts: mean, least and most
    # over different splits in halves (which share contexts: they are no independent draws). chance: k / d
    "stability": {
        "part": pl.String,
        "k": pl.Int32,
        "n_splits": pl.Int32,
        "overlap": pl.Float64,
        "overlap_least": pl.Float64,
        "overlap_most": pl.Float64,
        "chance": pl.Float64,
    },
    # share of a part's variance in the first k directions of a basis (held fixed in the jackknife); chance: k / d
    "alignment": {
        "part": pl.String,
        "basis": pl.String,
        "k": pl.Int32,
        **_ends("share"),
        "chance": pl.Float64,
    },
    # k-means of the unit vectors of the tokens with the largest norm, against Gaussian vectors with the part's mean and
    # covariance, chosen by their norm, made units and clustered in the same way. chosen: at most one row a part
    "silhouettes": {
        "part": pl.String,
        "k": pl.Int32,
        "silhouette": pl.Float64,
        "null_mean": pl.Float64,
        "null_most": pl.Float64,
        "null_sd": pl.Float64,  # of one draw; not below the median over k
        "chosen": pl.Boolean,
    },
    # of the chosen k, the largest cluster first; decoder_*: the decoder row with the largest cosine with the centre
    "clusters": {
        **_CLUSTER,
        "n_tokens": pl.Int32,
        "n_contexts": pl.Int32,
        "mean_position": pl.Float64,
        "decoder_latent": pl.Int32,
        "decoder_cosine": pl.Float64,
    },
    # the commonest tokens of each cluster; lift: share of the cluster over share of all tokens that were clustered
    "cluster_tokens": {
        **_CLUSTER,
        "rank": pl.Int32,
        "token": pl.Int32,
        "count": pl.Int32,
        "share": pl.Float64,
        "lift": pl.Float64,
    },
    "cluster_kinds": {**_CLUSTER, "kind": pl.String, "count": pl.Int32, "share": pl.Float64, "lift": pl.Float64},
    # the tokens nearest to the centre, at most two of one context; before and after are token ids
    "examples": {
        **_CLUSTER,
        "rank": pl.Int32,
        "context": pl.Int32,
        "position": pl.Int32,
        "token": pl.Int32,
        "cosine": pl.Float64,  # with the centre
        "before": pl.List(pl.Int32),
        "after": pl.List(pl.Int32),
    },
    # P(active | high) / P(active): high tokens are the tenth of the kept ones with the largest |nonlinear|^2 / |error|^2.
    # Latents whose adjusted p is at most 0.05 and whose interval excludes 1
    "latents": {
        "side": pl.String,  # of `SIDES`
        "rank": pl.Int32,
        "latent": pl.Int32,
        **_LIFT,
        "p": pl.Float64,
        "adjusted_p": pl.Float64,  # Benjamini and Hochberg, over all latents that were tested
    },
    # the same of groups of tokens: by class (kind of the token's text), position (ranges)
    "groups": {"by": pl.String, "group": pl.String, "order": pl.Int32, **_LIFT, "p": pl.Float64},
    # sentences in place of what could not be had; part null where it is of none
    "remarks": {"topic": pl.String, "part": pl.String, "text": pl.String},
    # text of every token id that occurs here
    "vocabulary": SCALING_TABLES["vocabulary"],
}


@dataclass(frozen=True)
class Structure(TableFolder):
    """The structure of one SAE's error; tables are read when they are first asked for."""

    SCHEMAS = STRUCTURE_TABLES
    UNREADABLE = (
        "The structure of this SAE's error cannot be read: run `python -m dmcore structure` again to make it anew."
    )

    about: Mapping[str, Any]
    """d_model, d_sae, n_tokens (kept), n_contexts, n_groups (of the jackknife), n_folds, skip_positions, seed,
    n_shared (tokens whose error is not 0), n_high, least_share (of a high token; null for none), n_tested, n_significant
    (latents), least_active (of a tested latent), clustered (tokens of each part)."""

    def part(self, name: str) -> dict[str, Any]:
        """The row of one of `SPECTRUM_PARTS` in `parts`."""
        return self["parts"].row(SPECTRUM_PARTS.index(name), named=True)

    def chosen_k(self, part: str) -> int | None:
        """Number of clusters of one of `CLUSTERED_PARTS`; None where there are none beyond chance."""
        rows = self["silhouettes"].filter((pl.col("part") == part) & pl.col("chosen"))
        return None if rows.is_empty() else int(rows["k"][0])

    @property
    def compared_k(self) -> int:
        """How many directions sentences and tables compare: of the numbers that were measured, the largest that is at most
        an eighth of the dimensions, so that chance is small; the smallest where none is."""
        ks = sorted(set(self["stability"]["k"]) | set(self["alignment"]["k"])) or [1]
        return max((k for k in ks if 8 * k <= self.about["d_model"]), default=ks[0])

    def overlap(self, part: str, k: int) -> dict[str, Any] | None:
        """The row of a part and k in `stability`; None where it is not there or has no overlap."""
        rows = self["stability"].filter((pl.col("part") == part) & (pl.col("k") == k) & pl.col("overlap").is_not_null())
        return None if rows.is_empty() else rows.row(0, named=True)

    def remark(self, topic: str, part: str | None = None) -> str | None:
        """The sentence on a topic (a table's name), of a part or of none."""
        rows = self["remarks"].filter((pl.col("topic") == topic) & pl.col("part").eq_missing(pl.lit(part, pl.String)))
        return None if rows.is_empty() else str(rows["text"][0])

    @cached_property
    def texts(self) -> dict[int, str]:
        """Text of each token id that can be met here; raw: escape it before it is shown."""
        table = self["vocabulary"]
        return dict(zip(table["token"].to_list(), table["text"].to_list(), strict=True))


def structure_spec(summary: str) -> dict[str, Any]:
    """The spec of an entry, from what pages know; `summary`: key of the SAE's summary."""
    return {"stage": STRUCTURE, "version": VERSION, "summary": summary}


def structure_table(name: str, rows: list[dict[str, Any]] | Mapping[str, Any]) -> pl.DataFrame:
    """A table of `STRUCTURE_TABLES` from rows or columns; what is no finite number becomes null."""
    schema = STRUCTURE_TABLES[name]
    table = pl.DataFrame(rows, schema=schema, strict=False)
    floats = [column for column, dtype in schema.items() if dtype == pl.Float64]
    return table.with_columns(pl.when(pl.col(c).is_finite()).then(pl.col(c)).alias(c) for c in floats)
