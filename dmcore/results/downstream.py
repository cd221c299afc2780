"""What each part of an SAE's error costs the model's own loss: the schemas of its tables, and the entry that holds them.

The activation at the SAE's site is replaced at the kept positions (from `skip_positions` on) of each context, in turn by each
of `VARIANTS`, and the predictions at those positions are compared with the clean model's. Parts of the error are out of fold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import polars as pl

from dmcore.errors import SpecError
from dmcore.results.sae import METRICS
from dmcore.results.scaling import TABLES as SCALING_TABLES
from dmcore.results.table_folder import TableFolder

DOWNSTREAM = "downstream"
"""Stage of the entries."""
VERSION = 1
"""Raised when what is computed changes."""

VARIANTS = {
    "clean": "the model as it is",
    "sae": "Sae(x)",
    "sae_linear": "Sae(x) + linear error",
    "sae_nonlinear": "Sae(x) + nonlinear error",
    "sae_random": "Sae(x) + a random vector of the error's norm",
    "sae_shuffled": "Sae(x) + another token's error, at this one's norm",
    "x_random": "x + a random vector of the error's norm",
    "zero": "0",
    "mean": "the mean of x",
}
"""What the site holds. The other token is any other of about 4,096 consecutive ones, skipped ones left out; the random vector
is isotropic, and the same in both variants."""
TOKEN_VARIANTS = ("sae", "sae_linear", "sae_nonlinear", "sae_random")
"""Of which single tokens are kept."""
KIND_VARIANTS = ("clean", "sae", "sae_linear", "sae_nonlinear")
"""Whose predictions are counted by the kind of the token that was to be predicted."""
PARTS = ("linear", "nonlinear")
DOSES = (0.25, 0.5, 0.75, 1.5)
"""Sae(x) + dose * part is run at these; 0 and 1 are variants already."""
PANELS = ("all", "doses")
"""All contexts; and those on which the doses are run, with what they are compared to."""
EXACT = "exact"
"""Sae(x) + linear + nonlinear error, run with the doses: it should change nothing."""


@dataclass(frozen=True)
class DownstreamSettings:
    """How much is run."""

    contexts: int = 0
    """Contexts, at equal steps; 0 for all."""
    dose_contexts: int = 64
    """How many of those the doses are run on, at equal steps; 0 for none."""

    def __post_init__(self) -> None:
        for name in ("contexts", "dose_contexts"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise SpecError(f"{name} is {value!r}: give a whole number, 0 or above.")


def _ends(name: str) -> dict[str, Any]:
    return {name: pl.Float64, f"{name}_low": pl.Float64, f"{name}_high": pl.Float64}


_COST: dict[str, Any] = {
    "n_tokens": pl.Int64,
    **_ends("ce"),  # mean cross-entropy, nats a token
    **_ends("delta"),  # ce less that of the clean model
    **_ends("kl"),  # mean KL(clean || variant), nats a token
    **_ends("top1"),  # share of tokens at which the most probable token is the clean model's
}

DOWNSTREAM_TABLES: dict[str, dict[str, Any]] = {
    # one row a variant, in their order. Intervals: a bootstrap over contexts, paired between variants. recovered_*: see
    # `dmcore.math.recovered`; null where the increase of which they are shares cannot be told from 0
    "variants": {
        "variant": pl.String,
        **_COST,
        **_ends("accuracy"),  # share of tokens at which the most probable token is the one that comes
        **_ends("recovered_zero"),  # (CE_zero - ce) / (CE_zero - CE_clean)
        **_ends("recovered_mean"),  # (CE_mean - ce) / (CE_mean - CE_clean)
        **_ends("recovered_sae"),  # 1 - (ce - CE_clean) / (CE_sae - CE_clean)
    },
    # one row a part, and `both`: the two shares added up, which is 1 if the parts act each for itself
    "parts": {
        "part": pl.String,
        **_ends("norm_sq_share"),  # sum |part|^2 / sum |error|^2; of both together, not 1 as they are not orthogonal
        **_ends("norm_share"),  # sum |part| / sum |error|
        **_ends("recovered"),  # `recovered_sae` of Sae(x) + part
        **_ends("kl_recovered"),  # 1 - KL of Sae(x) + part / KL of Sae(x)
        **_ends("per_norm_sq"),  # recovered / norm_sq_share: 1 is in proportion
    },
    # Sae(x) + dose * part, on the contexts of the doses; 0 is Sae(x), 1 is Sae(x) + part
    "doses": {"part": pl.String, "dose": pl.Float64, **_COST, **_ends("recovered_sae")},
    # of the tokens to be predicted of each kind (`dmcore.analysis.token_kinds`), in the order in which they are shown
    "kinds": {
        "variant": pl.String,  # of `KIND_VARIANTS`
        "kind": pl.String,
        "order": pl.Int32,
        "n_tokens": pl.Int64,
        **_ends("accuracy"),
        **_ends("accuracy_delta"),  # less that of the clean model
        **_ends("ce"),
        **_ends("delta"),
    },
    # sums over the scored tokens of each bootstrap unit (a context; past 2,000 contexts, a bundle of them), of everything that
    # was run: variants, `exact`, and doses as `linear_0.25`. Units without a scored token have no rows
    "sums": {
        "panel": pl.String,  # of `PANELS`
        "variant": pl.String,
        "unit": pl.Int32,
        "n_tokens": pl.Int64,
        "ce": pl.Float64,
        "kl": pl.Float64,
        "top1": pl.Int64,
        "correct": pl.Int64,
    },
    # sentences in place of what could not be had
    "remarks": {"topic": pl.String, "text": pl.String},
    # single tokens of some contexts: the position where the prediction is made, and the token to be predicted. ce is in full
    # float32; the others are rounded to three digits (float16), in which they are small
    "tokens": {
        "context": pl.Int32,
        "position": pl.Int32,
        "token": pl.Int32,
        "target": pl.Int32,
        "ce": pl.Float32,  # of the clean model
        **{f"delta_{variant}": pl.Float32 for variant in TOKEN_VARIANTS},  # ce of the variant less that
        **{f"kl_{variant}": pl.Float32 for variant in TOKEN_VARIANTS},
    },
    # text of every token id in `tokens`
    "vocabulary": SCALING_TABLES["vocabulary"],
}


@dataclass(frozen=True)
class Downstream(TableFolder):
    """What the parts of one SAE's error cost; tables are read when they are first asked for."""

    SCHEMAS = DOWNSTREAM_TABLES
    UNREADABLE = "What this SAE's error costs cannot be read: `python -m dmcore downstream` makes it anew."

    about: Mapping[str, Any]
    """sae (name), hook, d_sae, l0, n_tokens (scored), n_contexts (run), dose_contexts (run), context_numbers (of the table of
    tokens), skip_positions, n_folds, seed, exact_gap (largest change of a token's loss, in nats, by Sae(x) + the whole error;
    null if it was not run); and, from the SAE's own record as it is now, its metrics (fvu, ..., with _low and _high)."""

    def with_metrics(self, record: Mapping[str, Any]) -> Downstream:
        """The same, with the metrics of an SAE's record."""
        ends = [f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")]
        return replace(self, about={**self.about, **{name: record.get(name) for name in ends}})

    def variant(self, name: str) -> dict[str, Any]:
        """The row of one of `VARIANTS`."""
        return self["variants"].row(list(VARIANTS).index(name), named=True)

    def part(self, name: str) -> dict[str, Any]:
        """The row of one of `PARTS`, or of `both`."""
        return self["parts"].row([*PARTS, "both"].index(name), named=True)

    def of_context(self, context: int) -> pl.DataFrame:
        """The rows of `tokens` of one of the contexts `about["context_numbers"]`, by position."""
        return self["tokens"].filter(pl.col("context") == context)

    def remark(self, topic: str) -> str | None:
        """The sentence on a topic."""
        rows = self["remarks"].filter(pl.col("topic") == topic)
        return None if rows.is_empty() else str(rows["text"][0])

    @cached_property
    def texts(self) -> dict[int, str]:
        """Text of each token id that can be met here; raw: escape it before it is shown."""
        table = self["vocabulary"]
        return dict(zip(table["token"].to_list(), table["text"].to_list(), strict=True))

    def record(self) -> dict[str, Any]:
        """The numbers in a row: of each variant as `ce_sae`, `recovered_zero_sae_linear`; of parts as `norm_sq_share_linear`."""
        found: dict[str, Any] = {}
        for row, keys in ((self.variant(name), name) for name in VARIANTS):
            found |= _named(row, keys, ("variant", "n_tokens"))
        for name in (*PARTS, "both"):
            found |= _named(self.part(name), name, ("part", "recovered", "recovered_low", "recovered_high"))
        return found


def _named(row: Mapping[str, Any], name: str, left_out: tuple[str, ...]) -> dict[str, Any]:
    """`ce_low` of `sae` becomes `ce_sae_low`."""
    found = {}
    for column, value in row.items():
        if column not in left_out:
            stem, end = next(((column[: -len(e)], e) for e in ("_low", "_high") if column.endswith(e)), (column, ""))
            found[f"{stem}_{name}{end}"] = value
    return found


def downstream_spec(summary: str, settings: DownstreamSettings) -> dict[str, Any]:
    """The spec of an entry, from what pages know; `summary`: key of the SAE's summary."""
    made = {"doses": list(DOSES), **asdict(settings)}
    return {"stage": DOWNSTREAM, "version": VERSION, "summary": summary, **made}


def downstream_table(name: str, rows: list[dict[str, Any]] | Mapping[str, Any]) -> pl.DataFrame:
    """A table of `DOWNSTREAM_TABLES` from rows or columns; what is no finite number becomes null."""
    schema = DOWNSTREAM_TABLES[name]
    table = pl.DataFrame(rows, schema=schema, strict=False)
    floats = [column for column, dtype in schema.items() if dtype == pl.Float64]
    return table.with_columns(pl.when(pl.col(c).is_finite()).then(pl.col(c)).alias(c) for c in floats)
