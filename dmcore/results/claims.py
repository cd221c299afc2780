"""The paper's statements held against a study: what each says, the range that decides, and the verdict.

1. `dmcore.results.claim_tests` measures a statement on some SAEs: a number with its 95 % interval.
2. The verdict is about the interval: all of it in the range, the statement holds; all of it outside, it fails; else undecided.
3. What cannot be measured is not tested, and the row says why and which command would mend that.

The paper gives few bounds. Where it gives none, the range is ours, and the row says so. A mean over SAEs can be in a range that
few of them are in: the row says how many are, and `dmcore.results.claim_groups` makes the same rows for each group of SAEs.
Ratios are of each SAE, and their mean is taken: no SAE counts more for having more error. The interval is over texts; it says
nothing of other SAEs, so what is said of several SAEs is left undecided where there is but one set, pair or base of them.
Source of the statements: Engels et al. 2024, arXiv 2410.14670; marks as in `Statement.source`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from dmcore.estimate import Estimate

HOLDS, FAILS, UNDECIDED, NOT_TESTED = VERDICTS = ("holds", "fails", "undecided", "not tested")
"""Of a statement."""
LEAST_CONTEXTS = 20
"""A study of fewer contexts has no verdicts: a bootstrap over so few says little of how its numbers vary."""

CLAIMS: dict[str, Any] = {
    # one row a statement; in the table of groups one a statement and group
    "claim": pl.String,  # of `STATEMENTS`
    "statement": pl.String,  # one plain sentence
    "paper": pl.String,  # what the paper reports, in few words of ours
    "source": pl.String,  # how we know that the paper says so
    "test": pl.String,  # formula, aggregate, split
    "by": pl.String,  # of `claim_groups.GROUPINGS`; null in the table of the study
    "group": pl.String,  # name of the group; untrusted; null in the table of the study
    "verdict": pl.String,  # of `VERDICTS`
    "value": pl.Float64,
    "low": pl.Float64,  # 95 % over contexts
    "high": pl.Float64,
    "range_low": pl.Float64,  # the statement holds from here ...
    "range_high": pl.Float64,  # ... to here; null for no bound
    "range_from": pl.String,  # the paper, or ours
    "n": pl.Int64,  # of what the value is the mean
    "n_inside": pl.Int64,  # how many of them have their own value in the range
    "unit": pl.String,  # what they are, in the plural
    "n_contexts": pl.Int64,
    "reason": pl.String,  # why it was not tested, or left undecided whatever the interval
    "command": pl.String,  # of `python -m dmcore`, which would make the missing result
}


@dataclass(frozen=True)
class Statement:
    """Something that the paper says, and the range of a number in which it is so."""

    claim: str
    says: str
    """One plain sentence."""
    short: str
    """A few words, for a chart."""
    paper: str
    """What the paper reports, in few words; no quotation, as its text was not at hand."""
    source: str
    """P: read on a page of or about the paper; C: in its code; 2: quoted by someone else; X: bounded by a plot's axis."""
    test: str
    """Formula, aggregate, split."""
    low: float
    """The statement holds from here; -inf for no bound."""
    high: float
    range_from: str
    """`paper`, or `ours` where the paper gives no bound: with the reason."""
    several: bool = False
    """Whether it is of several SAEs side by side, so that one set of them decides nothing."""

    def holds(self, value: float) -> bool:
        """Whether a number is in the range."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Evidence:
    """What was measured: a mean over SAEs, pairs or sets of them."""

    estimate: Estimate
    values: tuple[float, ...]
    """Of each that the estimate is the mean of."""
    unit: str
    """What they are, in the plural."""

    @property
    def what(self) -> str:
        """What they are, in the plural but for one."""
        first, _, more = self.unit.partition(" ")
        return self.unit if len(self.values) != 1 else f"{first.removesuffix('s')}{' ' if more else ''}{more}"


@dataclass(frozen=True)
class Missing:
    """Why a statement was not tested."""

    reason: str
    command: str | None = None


def verdict(estimate: Estimate, low: float, high: float) -> str:
    """Of `VERDICTS`: whether the interval is in the range, outside, or across a bound."""
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return NOT_TESTED
    if low <= estimate.low and estimate.high <= high:
        return HOLDS
    return FAILS if estimate.high < low or estimate.low > high else UNDECIDED


def claim_row(
    statement: Statement,
    found: Evidence | Missing,
    n_contexts: int,
    group: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """A row of `CLAIMS`."""
    by, name = group or (None, None)
    row: dict[str, Any] = {
        "claim": statement.claim, "statement": statement.says, "paper": statement.paper, "source": statement.source,
        "test": statement.test,
        "by": by, "group": name, "range_low": _bound(statement.low), "range_high": _bound(statement.high),
        "range_from": statement.range_from, "n_contexts": n_contexts,
    }  # fmt: skip
    if isinstance(found, Evidence) and not (math.isfinite(found.estimate.low) and math.isfinite(found.estimate.high)):
        found = Missing("The number has no interval here.")
    if isinstance(found, Missing):
        return row | {"verdict": NOT_TESTED, "reason": found.reason, "command": found.command}
    estimate, said = found.estimate, verdict(found.estimate, statement.low, statement.high)
    if statement.several and len(found.values) == 1:
        row["reason"] = (
            f"Only one {found.what}, and its interval is over texts: of it alone the verdict would be “{said}”."
        )
        said = UNDECIDED
    return row | {
        "verdict": said, "value": estimate.value, "low": estimate.low, "high": estimate.high,
        "n": len(found.values), "n_inside": sum(statement.holds(v) for v in found.values), "unit": found.what,
    }  # fmt: skip


def claims_frame(rows: list[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows in the schema of `CLAIMS`; columns that a row lacks are null."""
    return pl.DataFrame([{column: row.get(column) for column in CLAIMS} for row in rows], schema=CLAIMS)


def _bound(value: float) -> float | None:
    return value if math.isfinite(value) else None


_NONE = math.inf
_HALF = (0.35, 0.65, "ours: 0.15 to either side of one half")
_MEANS = "Mean over the SAEs; intervals: paired bootstrap over contexts; held out by context."
_RATIOS = "Of each SAE; mean of these ratios, not ratio of means; intervals: paired bootstrap over contexts; held out by context."
_ENDS = "Mean over them; ends of the interval: means of theirs, which is not too short however they hang together."
_LOSS = (
    "{part} error: (share of the lost cross-entropy that Sae(x) + it recovers) / (its share of |error|²), of each SAE. "
    + _ENDS
)
STATEMENTS = {
    s.claim: s
    for s in (
        Statement(
            "half_vector", "About half of the error vector can be predicted linearly from the activation.",
            "Error vector: about half is linear", "R² of the error vector: about one half", "P",
            f"R² of the error vector from x, mean over dimensions. {_MEANS}", *_HALF,
        ),
        Statement(
            "half_norm", "About half of the error's squared norm goes when its linear prediction is added.",
            "Squared norm: about half is linear", "the same, by our reading: pooled over dimensions", "P",
            f"1 - nonlinear FVU / FVU. {_RATIOS}", *_HALF,
        ),
        Statement(
            "norm_07", "At middle layers the R² of the error's squared norm from the activation is 0.7 to 0.95.",
            "Size from x, middle layers: R² 0.7 to 0.95", "R² of the squared norm: 0.7 to 0.95 at middle layers", "2",
            "R² of |error|² from x, of SAEs at the middle third of the layers that the study has (the paper's are not named). "
            f"{_MEANS}", 0.7, 0.95, "paper, as quoted",
        ),
        Statement(
            "norm_09", "How large the error is can be predicted linearly from the activation: R² 0.9 or more.",
            "Size of the error from x: R² over 0.9", "R² of the norm: above 0.9, the layer not named", "P",
            f"R² of |error|² from x, of all SAEs. {_MEANS}", 0.9, _NONE, "paper: above 0.9",
        ),
        Statement(
            "norm_order", "The linear error's size is easier to predict from the activation than the nonlinear error's.",
            "Linear error's size is easier to predict", "its code tests both sizes; the order is our reading", "C",
            "R² of |linear error|² from x less R² of |nonlinear error|² from x, held out by context. Mean of the differences "
            "over the SAEs; interval: from the ends of both, which is not too short.", 0.0, _NONE,
            "ours: the sign of the difference",
        ),
        Statement(
            "constant_width", "At fixed L0 the nonlinear FVU is roughly constant in the width of the dictionary.",
            "Nonlinear FVU: constant in width", "nonlinear FVU: roughly constant in width at fixed L0", "2, C",
            "Slope of log nonlinear FVU on log2 width, per doubling, over SAEs of one site, architecture and L0 with three "
            "widths or more. Mean over such sets; intervals: paired bootstrap over contexts.",
            -0.05, 0.05, "ours: 5 % a doubling to either side", several=True,
        ),
        Statement(
            "slower_width", "The nonlinear FVU falls more slowly with width than the FVU.",
            "Nonlinear FVU falls more slowly than FVU", "what its constant nonlinear FVU implies", "2, C",
            "Slope of log nonlinear FVU less that of log FVU on log2 width, per doubling, over the same sets; mean over them; "
            "paired.", 0.0, _NONE, "ours: the sign of the difference", several=True,
        ),
        Statement(
            "same_tokens", "Wide SAEs fail on the same tokens as narrow ones.",
            "Wide SAEs fail on the same tokens", "wider SAEs fail on the same tokens as narrow ones", "P",
            "R² of |error| of the wider SAE from that of the narrower one, with a bias, held out by context, over pairs of one "
            f"site, architecture and L0. {_ENDS}", 0.5, _NONE, "ours: more than half of the variance", several=True,
        ),
        Statement(
            "parts_order", "SAEs trained on the nonlinear error explain it worse than those on the linear error explain that.",
            "SAEs on nonlinear error are worse", "FVU about 0.59 on the nonlinear error, 0.54 on the linear", "2",
            "FVU of SAEs on the nonlinear error less that of SAEs on the linear error, of the same width, L0 and tokens; mean "
            "over seeds, then over the SAEs whose error it is; paired bootstrap over contexts.", 0.0, _NONE,
            "ours: the sign of the difference", several=True,
        ),
        Statement(
            "loss_linear", "The linear error recovers the model's loss in proportion to its share of the squared norm.",
            "Linear error: loss in proportion", "cross-entropy recovered in proportion to each part", "P",
            _LOSS.format(part="Linear"), 0.8, 1.25, "ours: within a quarter",
        ),
        Statement(
            "loss_nonlinear", "The nonlinear error recovers the model's loss in proportion to its share of the squared norm.",
            "Nonlinear error: loss in proportion", "cross-entropy recovered in proportion to each part", "P",
            _LOSS.format(part="Nonlinear"), 0.8, 1.25, "ours: within a quarter",
        ),
        Statement(
            "pursuit_little", "Better codes of the same dictionary hardly help: pursuit lowers the FVU by no more than 5 %.",
            "Pursuit hardly helps: 5 % at most", "pursuit lowers the FVU by 3 to 5 %", "2",
            f"1 - FVU of gradient pursuit / FVU of the encoder, at the encoder's L0, on the same tokens, of each SAE. {_ENDS}",
            -_NONE, 0.05, "paper, as quoted: the upper end of 3 to 5 %",
        ),
        Statement(
            "pursuit_total", "Pursuit lowers the FVU by 3 to 5 %.",
            "Pursuit removes 3 to 5 % of the error", "pursuit lowers the FVU by 3 to 5 %", "2",
            f"1 - FVU of gradient pursuit / FVU of the encoder, at the encoder's L0, on the same tokens, of each SAE. {_ENDS}",
            0.03, 0.05, "paper, as quoted",
        ),
        Statement(
            "pursuit_nonlinear", "Pursuit leaves the nonlinear FVU as it is.",
            "Pursuit leaves the nonlinear error", "pursuit leaves the nonlinear FVU", "2",
            f"1 - nonlinear FVU of gradient pursuit / that of the encoder, on the same tokens, of each SAE. {_ENDS}",
            -0.05, 0.05, "ours: 5 % to either side",
        ),
        Statement(
            "earlier", "SAEs of earlier components explain a good part of the nonlinear error.",
            "Earlier components explain nonlinear error", "up to half of the nonlinear error", "2",
            "R² of the nonlinear error from the reconstructions that SAEs make of the layer before, the layer's MLP and its "
            f"attention, as far as the study has them, held out by context. {_ENDS}",
            0.25, _NONE, "ours: a quarter or more, half of the most that is quoted",
        ),
    )
}  # fmt: skip
"""Every statement, by its id, in the order of the table."""


@dataclass(frozen=True)
class Claims:
    """The statements held against a study, and against groups of its SAEs."""

    study: pl.DataFrame
    """One row a statement; schema `CLAIMS`."""
    groups: pl.DataFrame
    """One row a statement and group; schema `CLAIMS`."""

    def record(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {"claims": self.study.to_dicts(), "groups": self.groups.to_dicts()}
