"""The tables of what reduces an SAE's error, from sums over bootstrap units.

Every number is held out by context, its interval from the replicates of the bootstrap that every other number of the study has.
A share of the SAE's own error is of its own on the same tokens: of all for affine methods, of the sample for coding methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmcore.analysis.coded_errors import CodedErrors
from dmcore.analysis.coding_methods import OWN, CodingMethod
from dmcore.analysis.reduction_loss import CLEAN, ZERO, LossSums
from dmcore.analysis.reduction_methods import Fitted
from dmcore.analysis.reduction_passes import MethodSums, ReductionSums
from dmcore.analysis.token_kinds import KINDS
from dmcore.math.bootstrap import interval, poisson_weights, ratio
from dmcore.math.joint_moments import TARGETS
from dmcore.math.recovered import share_recovered
from dmcore.math.reduced_rank import skip_parameters
from dmcore.results.reduction import EVERY_KIND, JOINED, method_title

ROUNDING = 1e-11
"""Share of the activations' variance below which a squared error is rounding of float32."""
SOURCES = {
    "shrinkage": "Wright and Sharkey 2024, Addressing Feature Suppression in SAEs",
    "skip": "Izenman 1975, reduced-rank regression",
    "earlier": "Engels et al. 2024, section 5.2",
}
"""Whose the methods are."""

CodedMethod = tuple[CodingMethod, CodedErrors]


@dataclass(frozen=True)
class Found:
    """Everything that the tables are made of."""

    fitted: Fitted
    sums: ReductionSums
    coded: Sequence[CodedMethod]
    own: CodedErrors | None
    """The encoder's own on the sample of the coding methods; None where that is all contexts."""
    sampled: int
    """Contexts of that sample."""
    losses: LossSums | None
    encoder_seconds: float | None
    """To encode 1,000 tokens by the SAE itself."""
    l0: float
    """Of the SAE."""
    components: Sequence[Mapping[str, Any]]
    """Rows of the table `components`."""
    n_contexts: int
    d_model: int
    seed: int


@dataclass(frozen=True)
class Own:
    """The SAE's own sums over some tokens, to which methods are compared; (n_units,) each."""

    n_contexts: int
    n_tokens: np.ndarray
    act_scatter: np.ndarray
    error_sq: np.ndarray
    nonlinear_sq: np.ndarray

    @property
    def floor(self) -> float:
        """Below which a squared error is rounding."""
        return ROUNDING * float(self.act_scatter.sum())


class Intervals:
    """Numbers with their intervals, as columns of a row."""

    def __init__(self, n_units: int, seed: int) -> None:
        self.weights = np.concatenate([np.ones((1, n_units)), poisson_weights(n_units, seed)])

    def row(self, name: str, column: np.ndarray) -> dict[str, float]:
        """`column`: the value, then its replicates."""
        found = interval(float(column[0]), column[1:])
        return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}

    def share(self, name: str, above: np.ndarray, below: np.ndarray, *, of_one: bool = False) -> dict[str, float]:
        """`sum above / sum below` over bootstrap units, or 1 less that."""
        found = ratio(above, below, self.weights)
        return self.row(name, 1.0 - found if of_one else found)


def reduction_rows(found: Found) -> tuple[dict[str, list[dict[str, Any]]], list[tuple[str, str]]]:
    """Rows of the tables of numbers, and remarks."""
    sums = found.sums
    intervals = Intervals(len(sums.n_tokens), found.seed)
    whole = Own(
        found.n_contexts, sums.n_tokens, sums.act_scatter, sums.methods.error_sq[:, 0], sums.methods.nonlinear_sq[:, 0]
    )
    sampled = whole
    if found.own is not None:
        own = found.own
        error, nonlinear = own.sums.error_sq[:, 0], own.sums.nonlinear_sq[:, 0]
        sampled = Own(found.sampled, own.n_tokens, own.act_scatter, error, nonlinear)
    rows = []
    for number, row in enumerate(_linear_rows(found)):
        rows.append(row | _judged(sums.methods, number, whole, intervals))
    for row, (_, one) in zip(_coding_rows(found.coded), found.coded, strict=True):
        rows.append(row | _judged(one.sums, 0, sampled, intervals) | _carried(one.sums, sampled, whole, intervals))
    if found.losses is not None:
        for row in rows:
            row |= _losses(row["method"], found.losses, intervals)
    there = float(whole.error_sq.sum()) > whole.floor
    tables = {"methods": rows, "ranks": _ranks(found, intervals, whole.error_sq if there else None)}
    tables["tasks"] = _tasks(found.losses, intervals) if found.losses is not None else []
    tables["regressions"] = _regressions(found.fitted, sums, intervals, whole.floor)
    remarks = []
    if not there:
        remarks.append(("methods", "This SAE's error is 0 up to rounding: there is nothing to remove."))
    elif not float(whole.nonlinear_sq.sum()) > whole.floor:
        remarks.append(
            ("methods", "This SAE's error is linear in x up to rounding: there is no nonlinear error to remove.")
        )
    return tables, remarks


def _judged(sums: MethodSums, column: int, own: Own, intervals: Intervals) -> dict[str, Any]:
    """The numbers of a method."""
    error, nonlinear, scatter, residual, norm = (
        getattr(sums, name)[:, column]
        for name in ("error_sq", "nonlinear_sq", "error_scatter", "norm_residual", "norm_scatter")
    )
    n_tokens = float(own.n_tokens.sum())
    row: dict[str, Any] = {"n_tokens": int(n_tokens), "n_contexts": own.n_contexts}
    row |= intervals.share("fvu", error, own.act_scatter)
    row |= intervals.share("fvu_nonlinear", nonlinear, own.act_scatter)
    if float(own.error_sq.sum()) > own.floor:
        row |= intervals.share("error_removed", error, own.error_sq, of_one=True)
    if float(own.nonlinear_sq.sum()) > own.floor:
        row |= intervals.share("nonlinear_removed", nonlinear, own.nonlinear_sq, of_one=True)
    if float(scatter.sum()) > own.floor:
        row |= intervals.share("r2_error", nonlinear, scatter, of_one=True)
        # The variance of |e'|^2 has the square of the error's unit.
        if float(norm.sum()) * n_tokens > (ROUNDING * float(error.sum())) ** 2:
            row |= intervals.share("r2_error_norm_sq", residual, norm, of_one=True)
    return row


def _carried(sums: MethodSums, sampled: Own, whole: Own, intervals: Intervals) -> dict[str, Any]:
    """The numbers of a method that ran on a sample carried over to all tokens, and those of the sample itself.

    A map fitted on fewer tokens leaves more, and other tokens are other tokens: beside methods that ran on all, the sample's own
    numbers would mislead. What the method leaves of the SAE's own error there is paired, and taken of that error on all.
    """
    if sampled is whole or not (variance := float(sampled.act_scatter.sum())) > 0:
        return {}
    row: dict[str, Any] = {}
    for name, left, own, of_all in (
        ("fvu", sums.error_sq[:, 0], sampled.error_sq, whole.error_sq),
        ("fvu_nonlinear", sums.nonlinear_sq[:, 0], sampled.nonlinear_sq, whole.nonlinear_sq),
    ):
        row |= {f"sample_{name}": left.sum() / variance, f"own_sample_{name}": own.sum() / variance}
        if float(own.sum()) > sampled.floor:
            kept = ratio(left, own, intervals.weights)
            row |= intervals.row(name, kept * ratio(of_all, whole.act_scatter, intervals.weights))
    return row


def _losses(method: str, losses: LossSums, intervals: Intervals) -> dict[str, Any]:
    """What a method gives back of the loss; nothing for one that was not run."""
    if method not in losses.ce:
        return {}
    one, clean = losses.ce[method], losses.ce[CLEAN]
    row: dict[str, Any] = {"loss_tokens": int(losses.n_tokens.sum()), "loss_contexts": losses.n_contexts}
    row |= intervals.share("ce", one, losses.n_tokens)
    row |= intervals.share("delta", one - clean, losses.n_tokens)
    for name, worst in (("recovered_sae", losses.ce[OWN]), ("recovered_zero", losses.ce[ZERO])):
        row |= intervals.row(name, share_recovered(clean, one, worst, intervals.weights))
    return row


def _tasks(losses: LossSums, intervals: Intervals) -> list[dict[str, Any]]:
    """How often the next token is predicted rightly."""
    rows = []
    for method, right in losses.right.items():
        if method == ZERO:
            continue
        for order, kind in enumerate((EVERY_KIND, *KINDS), start=-1):
            some = slice(None) if order < 0 else slice(order, order + 1)
            n, mine, clean = (sums[:, some].sum(1) for sums in (losses.kinds, right, losses.right[CLEAN]))
            if not n.sum():
                continue
            row: dict[str, Any] = {"method": method, "kind": kind, "order": order, "n_tokens": int(n.sum())}
            rows.append(row | intervals.share("accuracy", mine, n) | intervals.share("accuracy_delta", mine - clean, n))
    return rows


def _linear_rows(found: Found) -> list[dict[str, Any]]:
    l0s = {component["role"]: component["l0"] for component in found.components}
    return [
        {
            "method": method.name,
            "kind": method.kind,
            "title": method_title(method.name, method.kind, method.rank, method.inputs, found.d_model),
            "source": SOURCES.get(method.kind, "the SAE"),
            "rank": method.rank,
            "inputs": JOINED.join(method.inputs) or None,
            "l0": found.l0,
            "extra_l0": float(sum(l0s.get(role, 0.0) for role in method.inputs)),
            "parameters_added": method.parameters,
            "seconds_per_1000": found.encoder_seconds if method.kind == "encoder" else None,
        }
        for method in found.fitted.methods
    ]


def _coding_rows(coded: Sequence[CodedMethod]) -> list[dict[str, Any]]:
    return [
        {
            "method": method.name,
            "kind": "coding",
            "title": method.title,
            "source": method.source,
            "l0": found.l0,
            "extra_l0": 0.0,
            "parameters_added": 0,
            "seconds_per_1000": found.seconds_per_1000,
        }
        for method, found in coded
    ]


def _ranks(found: Found, intervals: Intervals, own: np.ndarray | None) -> list[dict[str, Any]]:
    rows = []
    for rank in range(found.d_model + 1):
        left = found.sums.ranks[:, rank]
        row: dict[str, Any] = {"rank": rank, "parameters_added": skip_parameters(rank, found.d_model)}
        row |= intervals.share("fvu", left, found.sums.act_scatter)
        if own is not None:
            row |= intervals.share("error_removed", left, own, of_one=True)
        rows.append(row)
    return rows


def _regressions(fitted: Fitted, sums: ReductionSums, intervals: Intervals, floor: float) -> list[dict[str, Any]]:
    rows = []
    for number, regression in enumerate(fitted.regressions):
        for target, name in enumerate(TARGETS):
            row: dict[str, Any] = {"inputs": JOINED.join(regression.inputs), "target": name}
            scatter = sums.scatters[:, target]
            if float(scatter.sum()) > floor:
                row |= intervals.share("r2", sums.residuals[:, number, target], scatter, of_one=True)
            rows.append(row)
    return rows
