"""What reducing one SAE's error leaves behind: a league table of methods, and regressions on earlier components.

Every method is judged in the same way: the error that it leaves, x - y with y the new reconstruction, is split anew into the
part that is linear in x and the rest. All held out by context, with 95 % intervals from the bootstrap over contexts; what is
relative to the SAE's own error is paired, replicate by replicate. Coding methods run on a sample of contexts, and are compared
to the SAE's own codes there. What cannot be had is null, and `remarks` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from dmcore.errors import SpecError, StoreError
from dmcore.results.compare import over_widths
from dmcore.results.table_folder import TableFolder

REDUCTION = "reduction"
"""Stage of the entries."""
VERSION = 3
"""Raised when what is computed changes."""

KINDS = ("encoder", "shrinkage", "skip", "earlier", "coding", "wider")
"""Of methods: the SAE as it is; its reconstruction rescaled; an affine skip; earlier components added; other codes of the same
dictionary; an SAE with more latents."""
ON_SUPPORT = "nnls_on_support"
"""The coding method that has the encoder's own latents, so that no other L0 can be asked of it."""
CODING = (
    "gradient_pursuit",
    "gradient_pursuit_refilled",
    "matching_pursuit",
    "orthogonal_matching_pursuit",
    ON_SUPPORT,
)
"""Names of the coding methods that are compared if no others are asked for."""
TARGETS = ("error", "linear", "nonlinear")
"""What is regressed on earlier components."""
JOINED = "+"
"""Between the inputs of a method."""
INPUTS = {
    "previous": "the residual stream before",
    "mlp": "the layer's MLP",
    "attention": "its attention",
    "x": "x itself",
}
"""Inputs in words."""
EVERY_KIND = "all"
"""Kind in the table `tasks` of all tokens together."""
SHARES = {"fvu": "error_removed", "fvu_nonlinear": "nonlinear_removed"}
"""Relative to the SAE's own: 1 - after / before."""


def _ends(name: str) -> dict[str, Any]:
    return {name: pl.Float64, f"{name}_low": pl.Float64, f"{name}_high": pl.Float64}


REDUCTION_TABLES: dict[str, dict[str, Any]] = {
    # one row a method, the SAE's own first. e' is the error that it leaves, n' that less its held-out prediction from x
    "methods": {
        "method": pl.String,
        "kind": pl.String,  # of `KINDS`
        "title": pl.String,
        "source": pl.String,  # whose it is
        "rank": pl.Int32,  # of a skip
        "inputs": pl.String,  # of an earlier_* method, joined by +
        "l0": pl.Float64,  # active latents of the code that the reconstruction is made of
        "extra_l0": pl.Float64,  # active latents of other SAEs that it needs
        "parameters_added": pl.Int64,  # to the SAE; those of other SAEs are not counted
        "n_tokens": pl.Int64,  # that the method ran on: all kept ones, or those of the sample of the coding methods
        "n_contexts": pl.Int64,
        # sum |e'|^2 / sum |x - mean x|^2 and sum |n'|^2 / sum |x - mean x|^2 over all kept tokens. Of methods that ran on a
        # sample: those of the SAE's own codes on all, times what is left of its error on the sample (paired)
        **_ends("fvu"),
        **_ends("fvu_nonlinear"),
        "sample_fvu": pl.Float64,  # the same of the sample's tokens alone, by a map fitted on these; null for the others
        "sample_fvu_nonlinear": pl.Float64,
        "own_sample_fvu": pl.Float64,  # of the SAE's own codes there
        "own_sample_fvu_nonlinear": pl.Float64,
        **_ends("error_removed"),  # 1 - sum |e'|^2 / sum |e|^2
        **_ends("nonlinear_removed"),  # 1 - sum |n'|^2 / sum |n|^2
        **_ends("r2_error"),  # 1 - sum |n'|^2 / sum |e' - mean e'|^2
        **_ends("r2_error_norm_sq"),  # held-out R2 of |e'|^2 from x
        "seconds_per_1000": pl.Float64,  # to code 1,000 tokens, median over chunks; of the encoder and of coding methods
        # the model's loss with the method's reconstruction at the site, on some contexts; null for methods that were not run
        "loss_tokens": pl.Int64,  # scored
        "loss_contexts": pl.Int64,
        **_ends("ce"),  # mean cross-entropy, nats a token
        **_ends("delta"),  # ce less that of the clean model
        **_ends("recovered_sae"),  # 1 - delta / delta of the encoder
        **_ends("recovered_zero"),  # (CE_zero - ce) / (CE_zero - CE_clean), the site holding 0
    },
    # cloze accuracy on the contexts of the loss: of each method that was run, and of the clean model, over kinds of token
    "tasks": {
        "method": pl.String,  # or clean
        "kind": pl.String,  # of `dmcore.analysis.token_kinds`, or all
        "order": pl.Int32,  # -1 for all
        "n_tokens": pl.Int64,  # to be predicted
        **_ends("accuracy"),  # share at which the most probable token is the one that comes
        **_ends("accuracy_delta"),  # less that of the clean model
    },
    # the affine skip at every rank, 0 (a bias) to d_model
    "ranks": {"rank": pl.Int32, "parameters_added": pl.Int64, **_ends("fvu"), **_ends("error_removed")},
    # held-out R2, pooled over tokens and dimensions, of the error and its parts from some inputs by least squares
    "regressions": {"inputs": pl.String, "target": pl.String, **_ends("r2")},
    # the SAEs whose outputs are the inputs
    "components": {
        "role": pl.String,
        "sae": pl.String,
        "site": pl.String,
        "d_sae": pl.Int64,
        "l0": pl.Float64,
        "summary_key": pl.String,
    },
    # sentences in place of what could not be had
    "remarks": {"topic": pl.String, "text": pl.String},
}
METRICS = ("fvu", "fvu_nonlinear", "error_removed", "nonlinear_removed", "r2_error", "r2_error_norm_sq")
"""Columns of `methods` with an interval, about errors."""
LOSS_METRICS = ("ce", "delta", "recovered_sae", "recovered_zero")
"""Columns of `methods` with an interval, about the model's loss."""


@dataclass(frozen=True)
class ReductionSettings:
    """On how many contexts what is slow is run."""

    coding_contexts: int = 24
    """Contexts, at equal steps, that coding methods run on; 0 for all. More where those are too few for the map from x."""
    loss_contexts: int = 16
    """How many of those the model's loss is computed on; 0 for none."""
    target_l0: int | None = None
    """Atoms that a coding method may have a token; None for as many as the encoder has active there."""

    def __post_init__(self) -> None:
        for name in ("coding_contexts", "loss_contexts"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise SpecError(f"{name} is {value!r}: give a whole number, 0 or above.")
        target = self.target_l0
        if target is not None and (not isinstance(target, int) or isinstance(target, bool) or target < 1):
            raise SpecError(f"A target L0 of {target!r} leaves nothing to choose: give a whole number, 1 or above.")

    @property
    def spec(self) -> dict[str, int]:
        """In the spec of an entry."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Reduction(TableFolder):
    """How one SAE's error can be reduced; tables are read when they are first asked for."""

    SCHEMAS = REDUCTION_TABLES
    UNREADABLE = "What reduces this SAE's error cannot be read: `python -m dmcore reduce STUDY SAE` makes it again."

    about: Mapping[str, Any]
    """d_model, d_sae, n_tokens (kept), n_contexts, n_folds, skip_positions, seed, ridge, fit_bias; coding_contexts and
    loss_contexts: how many were run."""

    def method(self, name: str) -> dict[str, Any]:
        """The row of a method.

        Raises:
            StoreError: it is not among them.
        """
        rows = self["methods"].filter(pl.col("method") == name)
        if rows.is_empty():
            raise StoreError(f"There is no method {name!r}: choose one of {', '.join(self['methods']['method'])}.")
        return rows.row(0, named=True)

    def r2(self, inputs: str, target: str) -> dict[str, Any] | None:
        """The row of a regression; None where it was not made."""
        rows = self["regressions"].filter((pl.col("inputs") == inputs) & (pl.col("target") == target))
        return None if rows.is_empty() else rows.row(0, named=True)


def input_names(names: Sequence[str]) -> str:
    """Inputs in words: `the layer's MLP and its attention`."""
    words = [INPUTS.get(name, name) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def method_title(name: str, kind: str, rank: int | None, inputs: Sequence[str], d_model: int) -> str:
    """What a page calls a method that adds something affine."""
    if kind == "skip":
        return "Affine skip, full rank" if rank == d_model else f"Affine skip, rank {rank}"
    if kind == "earlier":
        return f"Regression on {input_names(inputs)}"
    titles = {"shrinkage_scalar": "Rescaled by one number", "shrinkage_diagonal": "Rescaled by one number a dimension"}
    return titles.get(name, "The SAE as it is")


def reduction_spec(
    summary: str,
    earlier: Sequence[tuple[str, str]] = (),
    methods: Sequence[str] = CODING,
    asked: ReductionSettings | None = None,
    versions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The spec of an entry, from what pages know.

    Args:
        summary: key of the SAE's summary.
        earlier: role and key of the summary of each SAE of an earlier component.
        methods: names of the coding methods.
        asked: how much is run; None for the usual.
        versions: of the methods that have one.
    """
    return {
        "stage": REDUCTION,
        "version": VERSION,
        "summary": summary,
        "earlier": [list(one) for one in earlier],
        "methods": list(methods),
        "method_versions": dict(versions or {}),
        **(asked or ReductionSettings()).spec,
    }


def reduction_table(name: str, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """A table of `REDUCTION_TABLES`; columns that a row lacks, and what is no finite number, become null."""
    schema = REDUCTION_TABLES[name]
    table = pl.DataFrame([{column: row.get(column) for column in schema} for row in rows], schema=schema, strict=False)
    floats = [column for column, dtype in schema.items() if dtype == pl.Float64]
    return table.with_columns(pl.when(pl.col(c).is_finite()).then(pl.col(c)).alias(c) for c in floats)


def wider_rows(records: pl.DataFrame, summary: str, replicates: Callable[[str], pl.DataFrame]) -> list[dict[str, Any]]:
    """Rows of `methods` for the wider SAEs of the site with the nearest L0, narrowest first: from what is known of them.

    Args:
        records: rows of `RECORD` of the study.
        summary: key of the SAE's own.
        replicates: the replicates of a summary; those of two SAEs of a study are paired.
    """
    own = records.filter(pl.col("summary_key") == summary).row(0, named=True)
    wider = over_widths(records, own).filter(pl.col("d_sae") > own["d_sae"]).sort("d_sae")
    rows = []
    for record in wider.to_dicts():
        row = {metric: record[metric] for metric in _with_ends(METRICS) if metric in record}
        for metric, share in SHARES.items():
            row |= _share(share, record, own, metric, replicates)
        more = record["d_sae"] - own["d_sae"]
        row |= {
            "method": f"wider_{record['d_sae']}",
            "kind": "wider",
            "title": f"{record['d_sae']:,} latents in place of {own['d_sae']:,}",
            "source": record["sae"],
            "l0": record["l0"],
            "extra_l0": 0.0,
            "parameters_added": more * (2 * record["d_model"] + 1),
        }
        rows.append({column: row.get(column) for column in REDUCTION_TABLES["methods"]})
    return rows


def _with_ends(metrics: Sequence[str]) -> list[str]:
    return [f"{metric}{end}" for metric in metrics for end in ("", "_low", "_high")]


def _share(
    name: str,
    record: Mapping[str, Any],
    own: Mapping[str, Any],
    metric: str,
    replicates: Callable[[str], pl.DataFrame],
) -> dict[str, float | None]:
    """`1 - metric / own metric` with its paired interval; nulls where there is nothing to remove."""
    if not own[metric] or record[metric] is None:
        return dict.fromkeys(_with_ends([name]))
    both = [replicates(one["summary_key"])[metric].to_numpy().astype(np.float64) for one in (record, own)]
    low = high = None
    if both[0].size == both[1].size and both[0].size:
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = 1.0 - both[0] / both[1]
        if np.isfinite(shares).any():
            low, high = (float(v) for v in np.percentile(shares[np.isfinite(shares)], [2.5, 97.5]))
    return {name: 1.0 - record[metric] / own[metric], f"{name}_low": low, f"{name}_high": high}
