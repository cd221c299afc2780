"""Controls of one SAE's numbers: cases whose answer is known, what they should be, what they are, and a verdict on each.

All held out by context. Where a row is about texts its interval is a bootstrap over contexts, paired with the SAE's own
numbers; where it is about chance (shuffling, random directions) it is a t-interval over draws, because the expectation that
it is compared with holds for these very texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from dmcore.errors import SpecError
from dmcore.results.table_folder import TableFolder

CONTROLS = "controls"
"""Stage of the entries."""
VERSION = 3
"""Raised when what is computed changes."""

PASSED, FAILED, UNDECIDED = VERDICTS = ("passed", "failed", "undecided")
METHOD, SAE = KINDS = ("method", "SAE")
"""What a control is a check of: of the method, whose answer is known whatever the SAE, so that a failure is a defect of the
computation; or of this SAE and its study, where a failure is something to know about them."""
KIND_WORDS = {METHOD: "the method", SAE: "this SAE and its study"}
GROUPS = {
    "shuffled": "The method: shuffled targets",
    "directions": "The method: random directions",
    "known": "The method: dictionaries whose answer is known",
    "dictionaries": "This SAE: a dictionary that knows nothing",
    "model": "This SAE: a model that has learned nothing",
    "texts": "This SAE: what the tokens of a text share",
    "split": "This study: how tokens are held out",
    "tokens": "This study: number of tokens",
    "seeds": "This study: seeds",
}
"""Of controls, in the order in which they are shown: first those of the method."""
METHOD_GROUPS = ("shuffled", "directions", "known")
AGREES, WITHIN, DIFFERS = RULES = ("agrees", "within", "differs")
"""How a row is judged, see `RULE_WORDS`."""
RULE_WORDS = {
    AGREES: "passed if the interval meets the expected range, and not if one twice as wide does not",
    WITHIN: "passed if the interval lies inside the expected range, and not if it lies outside",
    DIFFERS: "passed if the interval lies outside the range, and not if it lies inside",
}
"""After `It has`; anything in between is undecided."""


def _ends(name: str) -> dict[str, Any]:
    return {name: pl.Float64, f"{name}_low": pl.Float64, f"{name}_high": pl.Float64}


METRICS = ("fvu", "fvu_nonlinear", "r2_error", "r2_error_norm_sq")
"""Of dictionaries, curves and seeds."""

CONTROL_TABLES: dict[str, dict[str, Any]] = {
    # one row a control, in the order of `GROUPS`
    "controls": {
        "name": pl.String,
        "group": pl.String,  # of `GROUPS`
        "title": pl.String,
        "what": pl.String,  # what is done, in words
        "quantity": pl.String,  # what the number is
        "expected": pl.Float64,  # null where a range alone is expected
        "expected_low": pl.Float64,  # null: no bound on this side
        "expected_high": pl.Float64,
        "why": pl.String,  # why it should be that
        **_ends("value"),
        "n_tokens": pl.Int64,
        "n_contexts": pl.Int64,
        "rule": pl.String,  # of `RULES`
        "verdict": pl.String,  # of `VERDICTS`
        "note": pl.String,  # what the verdict means, or why there is none
    },
    # the SAE itself and the dictionaries that it is compared with
    "dictionaries": {
        "name": pl.String,
        "title": pl.String,
        "l0": pl.Float64,  # active latents a token
        "d_sae": pl.Int64,
        **{column: dtype for metric in METRICS for column, dtype in _ends(metric).items()},
        "n_tokens": pl.Int64,
        "n_contexts": pl.Int64,
    },
    # the SAE's numbers by maps that were fitted on some of the training contexts
    "curve": {
        "share": pl.Float64,  # of the training contexts
        "n_train": pl.Int64,  # training tokens, mean over folds
        "determined": pl.Boolean,  # whether least squares has one answer; else nulls
        **{column: dtype for metric in METRICS[1:3] for column, dtype in _ends(metric).items()},
    },
    # where the curves tend to with more and more tokens: the intercept over d / (n - d - 1), by the largest three
    "asymptotes": {"metric": pl.String, **_ends("value")},
    # single draws of what is random
    "draws": {"name": pl.String, "draw": pl.Int32, "value": pl.Float64},
    # the SAE's numbers with other folds, and SAEs of other training seeds
    "seeds": {
        "kind": pl.String,  # folds, training
        "seed": pl.Int64,
        "title": pl.String,
        **dict.fromkeys(METRICS, pl.Float64),
    },
    # variance of the predicted error in each direction, as a share of the error's, descending: the SAE's, and of shuffled errors
    "spectra": {"rank": pl.Int32, "own": pl.Float64, "shuffled": pl.Float64},
    # sentences in place of what could not be had
    "remarks": {"topic": pl.String, "text": pl.String},
}


@dataclass(frozen=True)
class ControlSettings:
    """How much is run."""

    contexts: int = 0
    """Contexts, at equal steps; 0 for as many as fit in `MOST_FLOATS`."""
    draws: int = 20
    """Shuffles, and draws of random directions."""
    fold_seeds: int = 5
    """Other ways to cut the contexts into folds."""
    training_tokens: int = 400_000
    """That the small SAEs on the model and on its randomly initialised copy are trained on; 0 for none."""

    def __post_init__(self) -> None:
        for name, least in (("contexts", 0), ("draws", 8), ("fold_seeds", 2), ("training_tokens", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise SpecError(f"{name} is {value!r}: give a whole number, {least} or above.")


@dataclass(frozen=True)
class Controls(TableFolder):
    """The controls of one SAE; tables are read when they are first asked for."""

    SCHEMAS = CONTROL_TABLES
    UNREADABLE = "The controls of this SAE cannot be read: `python -m dmcore controls STUDY SAE` makes them again."

    about: Mapping[str, Any]
    """sae (name), hook, d_model, d_sae, l0, n_tokens (kept), n_contexts, all_contexts (of the study), n_train (training tokens
    of a fold), n_folds, skip_positions, seed, ridge, fit_bias, draws; verdicts: how many controls passed, failed, are open."""

    def control(self, name: str) -> dict[str, Any]:
        """The row of one control."""
        return self["controls"].row(by_predicate=pl.col("name") == name, named=True)

    def counts_of(self, kind: str) -> dict[str, int]:
        """How many controls of a kind (`KINDS`) have each verdict."""
        of_method = pl.col("group").is_in(METHOD_GROUPS)
        rows = self["controls"].filter(of_method if kind == METHOD else ~of_method)
        return {verdict: int((rows["verdict"] == verdict).sum()) for verdict in VERDICTS}

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many controls passed, failed, and are undecided."""
        passed, failed, undecided = (int(self.about["verdicts"][verdict]) for verdict in VERDICTS)
        return passed, failed, undecided


def controls_spec(summary: str, asked: ControlSettings | None = None, parts: str | None = None) -> dict[str, Any]:
    """The spec of an entry, from what pages know.

    Args:
        summary: key of the SAE's summary.
        asked: how much is run; None for the usual.
        parts: key of the entry of the SAEs on the parts of its error, which are of several training seeds; None for none.
    """
    return {
        "stage": CONTROLS,
        "version": VERSION,
        "summary": summary,
        "parts": parts,
        **asdict(asked or ControlSettings()),
    }


def control_table(name: str, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """A table of `CONTROL_TABLES`; columns that a row lacks, and what is no finite number, become null."""
    schema = CONTROL_TABLES[name]
    table = pl.DataFrame([{column: row.get(column) for column in schema} for row in rows], schema=schema, strict=False)
    floats = [column for column, dtype in schema.items() if dtype == pl.Float64]
    return table.with_columns(pl.when(pl.col(c).is_finite()).then(pl.col(c)).alias(c) for c in floats)
