"""What the scaling analysis of one site leaves behind: the schemas of its tables, and the entry that holds them.

One `scaling` entry per site. SAEs are named by their number in the list of the entry (`about.json`: `saes`), which is the
order of the study's records at that site. A *set* is a choice of one SAE per width at about one L0 (`over_widths`): every
SAE of the site, taken as the chosen one, has a set, and many share one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from dmcore.results.table_folder import TableFolder

SCALING = "scaling"
"""Stage of the entries."""
VERSION = 2
"""Raised when what is computed changes, here or in the tests of norms of each SAE."""

PARTS = ("error", "linear", "nonlinear")
"""Parts of the error whose norm is kept for each token, in the order of the last axis of `norms.npy`."""
SCALED_METRICS = ("fvu", "fvu_nonlinear")
"""What laws are fitted to."""
SURFACE_METRICS = ("fvu", "fvu_nonlinear", "r2_error", "r2_error_norm_sq")
"""What is drawn over width and L0."""
QUANTITIES = ("x", "recon", "recon_plus_nonlinear", "error", "linear", "nonlinear")
"""Of the norm tests: x, Sae(x), Sae(x) + nonlinear error, and the error and its parts."""


def _ends(name: str) -> dict[str, Any]:
    return {name: pl.Float64, f"{name}_low": pl.Float64, f"{name}_high": pl.Float64}


def _law(name: str) -> dict[str, Any]:
    """A parameter: `_low`, `_high` say how it moves with the texts, `_scatter_low`, `_scatter_high` with the SAEs."""
    return _ends(name) | {f"{name}_scatter_low": pl.Float64, f"{name}_scatter_high": pl.Float64}


TABLES: dict[str, dict[str, Any]] = {
    # the set of each SAE, taken as the chosen one
    "targets": {"sae": pl.Int32, "set": pl.Int32},
    # the SAEs of each set, by width
    "members": {"set": pl.Int32, "sae": pl.Int32, "d_sae": pl.Int64, "l0": pl.Float64},
    # laws of FVU over width, for each set with at least 4 widths. law: power (c + a W^-m), power_zero (a W^-m),
    # exponential (c + a exp(-W / m): m is a width), constant (c). space: log or linear, where the squares are least.
    # rss, aic in that space (aic compares laws of one set, metric and space); left_out: the widest SAE, predicted from the
    # others, with the interval of the replicates; null where it cannot be had
    "laws": {
        "set": pl.Int32,
        "metric": pl.String,
        "space": pl.String,
        "law": pl.String,
        "n_widths": pl.Int32,
        "n_params": pl.Int32,
        **_law("c"),
        **_law("a"),
        **_law("m"),
        "rss": pl.Float64,
        "aic": pl.Float64,
        "at_bound": pl.String,  # names of parameters that ended at a bound, comma-separated; empty for none
        "left_out": pl.Float64,
        "left_out_low": pl.Float64,
        "left_out_high": pl.Float64,
        "left_out_actual": pl.Float64,
    },
    # each law along width, from the narrowest to 16 times the widest; low, high: bootstrap over contexts;
    # scatter_low, scatter_high: from how the SAEs scatter about the law (power laws only, else null)
    "curves": {
        "set": pl.Int32,
        "metric": pl.String,
        "space": pl.String,
        "law": pl.String,
        "d_sae": pl.Float64,
        "value": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "scatter_low": pl.Float64,
        "scatter_high": pl.Float64,
    },
    # is the metric constant in width? slope of log metric on log2 width (per doubling), the ratio of widest to narrowest,
    # and the Wald test that all widths have one mean (covariance from the replicates; p by Hotelling, for as many contexts as
    # there are); for sets of at least 2 widths
    "constancy": {
        "set": pl.Int32,
        "metric": pl.String,
        "n_widths": pl.Int32,
        **_ends("slope"),
        **_ends("ratio"),
        "wald": pl.Float64,
        "dof": pl.Int32,
        "p": pl.Float64,
    },
    # c + a W^-m L0^-n over all SAEs of a label, least squares in log space; aic_separate: of a power law for each L0 stop
    # instead, over the same SAEs; null where those stops do not hold every SAE once
    "joint": {
        "label": pl.String,
        "metric": pl.String,
        "n_saes": pl.Int32,
        **_ends("c"),
        **_ends("a"),
        **_ends("m"),
        **_ends("n"),
        "rss": pl.Float64,
        "aic": pl.Float64,
        "aic_separate": pl.Float64,
        "left_out_error": pl.Float64,  # root mean square of log(predicted / actual) over the SAEs of the widest width, left out
    },
    # sentences in place of what could not be computed; set, metric or label null where it holds for all
    "remarks": {"set": pl.Int32, "metric": pl.String, "label": pl.String, "topic": pl.String, "text": pl.String},
    # cells of a metric over log2 width and log10 L0, inside the hull of the measured points of a label
    "surfaces": {
        "label": pl.String,
        "metric": pl.String,
        "width_low": pl.Float32,  # latents
        "width_high": pl.Float32,
        "l0_low": pl.Float32,
        "l0_high": pl.Float32,
        "value": pl.Float32,
    },
    # segments of the lines of equal value
    "isolines": {
        "label": pl.String,
        "metric": pl.String,
        "level": pl.Float64,
        "line": pl.Int32,  # segments of one line, in order, share a number
        "order": pl.Int32,
        "width": pl.Float32,
        "l0": pl.Float32,
    },
    # for each ordered pair of SAEs of the site: |e| of `target` from |e| of `source` (with a bias, held out by context),
    # then from that and the source's |nonlinear error|; closed = (r2_both - r2) / (1 - r2); f, p: classical nested F test
    # with dof2 = n - 3; z: the added coefficient over its standard error clustered by context
    "pairs": {
        "source": pl.Int32,
        "target": pl.Int32,
        **_ends("r2"),
        **_ends("spearman"),
        **_ends("r2_both"),
        **_ends("closed"),
        "f": pl.Float64,
        "p": pl.Float64,
        "z": pl.Float64,
    },
    # the tokens with the largest norm of each part; before and after are token ids
    "worst": {
        "sae": pl.Int32,
        "part": pl.String,
        "rank": pl.Int32,
        "context": pl.Int32,
        "position": pl.Int32,
        "token": pl.Int32,
        "norm": pl.Float32,  # relative, as in norms.npy
        "share": pl.Float64,  # of the part's squared norm over all kept tokens
        "before": pl.List(pl.Int32),
        "after": pl.List(pl.Int32),
    },
    # kept tokens by class (of the token's text), position (ranges) and domain; *_ratio: mean squared norm of the part in the
    # group over that of all kept tokens; nonlinear_share: nonlinear squared norm over total squared norm in the group
    "slices": {
        "sae": pl.Int32,
        "by": pl.String,  # class, position, domain
        "group": pl.String,
        "order": pl.Int32,
        "n_tokens": pl.Int64,
        **_ends("error_ratio"),
        **_ends("linear_ratio"),
        **_ends("nonlinear_ratio"),
        **_ends("nonlinear_share"),
    },
    # held-out R2 of |quantity|^2, by a linear map (with bias) of x or of the quantity itself
    "norm_tests": {"sae": pl.Int32, "quantity": pl.String, "predictor": pl.String, **_ends("r2")},
    # probe for |Sae(x) - b_dec|^2 from Sae(x) - b_dec, against the latents
    "latent_checks": {
        "sae": pl.Int32,
        "n_latents": pl.Int32,  # that are active on at least 10 kept tokens
        "pearson": pl.Float64,
        "spearman": pl.Float64,
        "probe_r2": pl.Float64,  # held-out R2 of the probe
    },
    # at most 400 latents an SAE, at equal steps of frequency
    "latents": {
        "sae": pl.Int32,
        "latent": pl.Int32,
        "frequency": pl.Float32,  # share of kept tokens on which it is active
        "mean_active": pl.Float32,  # mean value where active, times the norm of its decoder row
        "probe": pl.Float32,  # probe's slope along the decoder row, over that row's norm
    },
    # text of every token id that occurs in the browsed contexts or in `worst`
    "vocabulary": {"token": pl.Int32, "text": pl.String, "kind": pl.String},
}

NORMS, TOKENS = "norms.npy", "tokens.npy"
"""(n_browsed, length, n_saes, 3) float16 norms over the root mean square of |x - mean x|; (n_browsed, length) int32 ids."""


def scaling_spec(site: str, records: pl.DataFrame) -> dict[str, Any]:
    """The spec of a site's entry: it is named by the summaries that it compares, so that a page can find it.

    Args:
        site: hook name.
        records: rows of `RECORD`; those of other sites are left out.
    """
    keys = records.filter(pl.col("site") == site)["summary_key"].to_list()
    return {"stage": SCALING, "version": VERSION, "site": site, "summaries": keys}


@dataclass(frozen=True)
class Scaling(TableFolder):
    """The scaling analysis of one site; tables and arrays are read when they are first asked for."""

    SCHEMAS = TABLES
    UNREADABLE = "The comparison of this site cannot be read: sweep the study again to make it anew."

    about: Mapping[str, Any]
    """site, saes (names, by number), summaries (keys, by number), n_tokens, n_contexts, length, skip_positions, n_folds,
    seed, act_scale (the root mean square of |x - mean x|), browsed (numbers of the contexts whose tokens are kept)."""

    @cached_property
    def number(self) -> dict[str, int]:
        """Number of each SAE, by the key of its summary."""
        return {key: number for number, key in enumerate(self.about["summaries"])}

    def set_of(self, summary_key: str) -> int:
        """The set of an SAE, taken as the chosen one."""
        return int(self["targets"].filter(pl.col("sae") == self.number[summary_key])["set"][0])

    def members(self, number: int) -> pl.DataFrame:
        """The SAEs of a set, by width."""
        return self["members"].filter(pl.col("set") == number).sort("d_sae")

    def norms(self, context: int) -> np.ndarray:
        """(length, n_saes, 3) float32 relative norms of one browsed context."""
        return self._of_context(NORMS, context).astype(np.float32)

    def token_ids(self, context: int) -> np.ndarray:
        """(length,) token ids of one browsed context."""
        return self._of_context(TOKENS, context)

    def _of_context(self, name: str, context: int) -> np.ndarray:
        row = list(self.about["browsed"]).index(context)
        with self.readable():
            return np.array(np.load(self.folder / name, mmap_mode="r", allow_pickle=False)[row])

    @cached_property
    def texts(self) -> dict[int, str]:
        """Text of each token id that can be met here; raw: escape it before it is shown."""
        table = self["vocabulary"]
        return dict(zip(table["token"].to_list(), table["text"].to_list(), strict=True))
