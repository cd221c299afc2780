"""What reduces one SAE's error, and by how much: methods on equal terms.

1. Moments of x and of what SAEs make of earlier components, with the error (`reduction_passes.joint_moments`).
2. Methods that add something affine, fitted from them (`reduction_methods`); their errors summed over contexts.
3. Coding methods, one after the other (`coded_errors`).
4. The table: every number held out by context, its interval from the replicates of the bootstrap that every other number of
   the study has, shares of the SAE's own error paired.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmcore.analysis.coded_errors import CodedErrors, coded_errors
from dmcore.analysis.coding_methods import CodingMethod, DictionaryAtoms
from dmcore.analysis.reduction_methods import Fitted, fit_methods
from dmcore.analysis.reduction_passes import ReductionSums, TokenSources, joint_moments, linear_sums, stacked
from dmcore.errors import DataError
from dmcore.math.bootstrap import interval, poisson_weights, ratio
from dmcore.math.joint_moments import TARGETS
from dmcore.math.moments import InputMoments
from dmcore.math.reduced_rank import skip_parameters
from dmcore.math.split import check_determined
from dmcore.progress import Reporter
from dmcore.results.reduction import JOINED, REDUCTION_TABLES, method_title, reduction_table, write_reduction
from dmcore.specs import Settings

ROUNDING = 1e-11
"""Share of the activations' variance below which a squared error is rounding of float32."""
SOURCES = {
    "shrinkage": "Wright and Sharkey 2024, Addressing feature suppression in SAEs",
    "skip": "Izenman 1975, reduced-rank regression",
    "earlier": "Engels et al. 2024, section 5.2",
}
"""Whose the methods are."""


@dataclass(frozen=True)
class ReductionInputs:
    """What the reduction works from."""

    sources: TokenSources
    """The SAE, and those of earlier components."""
    inputs: InputMoments
    """Gram matrices of the site."""
    settings: Settings
    seed: int
    methods: tuple[CodingMethod, ...]
    components: tuple[dict[str, Any], ...]
    """Rows of the table `components`, in the order of `sources.earlier`."""
    l0: float
    """Of the SAE."""
    remarks: tuple[str, ...] = ()
    """Sentences about earlier components that the study does not have."""


CodedMethod = tuple[CodingMethod, CodedErrors]


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


@torch.inference_mode()
def error_reduction(given: ReductionInputs, folder: Path, reporter: Reporter, name: str) -> None:
    """Write what reduces an SAE's error into `folder`; `read_reduction` opens it.

    The maps of every method have a bias and the study's ridge if the study's have. Numbers are null, with a sentence in
    `remarks`, where there is nothing to reduce: an error, or a nonlinear error, of 0 up to rounding.

    Raises:
        DataError: too few tokens for the map from x, or a method gave NaN.
    """
    settings, sources = given.settings, given.sources
    n_tokens = sources.own.acts.n_tokens
    fit = (settings.ridge, settings.fit_bias)
    remarks = [("earlier", text) for text in given.remarks]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        with reporter.stage(f"joint moments of {name}", n_tokens, "tokens") as stage:
            moments = joint_moments(sources, stage)
        per_fold = [int(moments.n_tokens([fold])) for fold in range(moments.n_folds)]
        check_determined(per_fold, sources.own.acts.d_model + int(settings.fit_bias), settings.ridge)
        fitted = fit_methods(moments, ridge=settings.ridge, fit_bias=settings.fit_bias, dtype=sources.dtype)
        remarks += [("earlier", text) for text in fitted.left_out]
        with reporter.stage(f"linear methods on {name}", 2 * n_tokens, "tokens") as stage:
            sums = linear_sums(sources, moments, fitted, fit, Path(scratch), stage)
        del moments
        coded, why = _coded(given, Path(scratch), reporter)
        remarks += [("coding", text) for text in why]
    tables, more = _tables(given, fitted, sums, coded)
    remarks += more
    tables["components"] = list(given.components)
    tables["remarks"] = [{"topic": topic, "text": text} for topic, text in remarks]
    about = {
        "d_model": sources.own.acts.d_model,
        "d_sae": sources.own.sae.d_sae,
        "n_tokens": int(sums.n_tokens.sum()),
        "n_contexts": sources.own.acts.n_contexts,
        "n_folds": sources.partition.n_folds,
        "skip_positions": settings.skip_positions,
        "seed": given.seed,
        "ridge": settings.ridge,
        "fit_bias": settings.fit_bias,
    }
    write_reduction(folder, about, {table: reduction_table(table, tables[table]) for table in REDUCTION_TABLES})


def _coded(given: ReductionInputs, scratch: Path, reporter: Reporter) -> tuple[list[CodedMethod], list[str]]:
    """Every coding method that can be run, and why others cannot."""
    sources = given.sources
    if not given.methods:
        return [], []
    chunk = next(iter(sources.own.acts.chunks()))
    try:
        atoms = DictionaryAtoms(sources.own.sae, sources.own.acts.read(chunk, sources.device))
    except DataError as error:
        return [], [str(error)]
    found, why = [], []
    for method in given.methods:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            try:
                result = coded_errors(sources, method, atoms, given.inputs, given.settings, Path(folder), reporter)
                found.append((method, result))
            except DataError as error:
                why.append(f"{method.name}: {error}")
    return found, why


def _tables(
    given: ReductionInputs, fitted: Fitted, sums: ReductionSums, coded: list[CodedMethod]
) -> tuple[dict[str, list[dict[str, Any]]], list[tuple[str, str]]]:
    """Rows of the tables of numbers, and remarks."""
    intervals = Intervals(len(sums.n_tokens), given.seed)
    both = stacked([sums.methods, *(result.sums for _, result in coded)])
    rows = [*_linear_rows(given, fitted), *_coding_rows(coded)]
    floor = ROUNDING * sums.act_scatter.sum()
    own = {"error": both.error_sq[:, 0], "nonlinear": both.nonlinear_sq[:, 0]}
    there = {part: float(column.sum()) > floor for part, column in own.items()}
    for number, row in enumerate(rows):
        error, nonlinear, scatter, residual, norm = (
            getattr(both, name)[:, number]
            for name in ("error_sq", "nonlinear_sq", "error_scatter", "norm_residual", "norm_scatter")
        )
        row |= intervals.share("fvu", error, sums.act_scatter)
        row |= intervals.share("fvu_nonlinear", nonlinear, sums.act_scatter)
        if there["error"]:
            row |= intervals.share("error_removed", error, own["error"], of_one=True)
        if there["nonlinear"]:
            row |= intervals.share("nonlinear_removed", nonlinear, own["nonlinear"], of_one=True)
        if float(scatter.sum()) > floor:
            row |= intervals.share("r2_error", nonlinear, scatter, of_one=True)
            # The variance of |e'|^2 has the square of the error's unit.
            if float(norm.sum()) * float(sums.n_tokens.sum()) > (ROUNDING * float(error.sum())) ** 2:
                row |= intervals.share("r2_error_norm_sq", residual, norm, of_one=True)
    tables = {"methods": rows, "ranks": _ranks(given, sums, intervals, own["error"] if there["error"] else None)}
    tables["regressions"] = _regressions(fitted, sums, intervals, floor)
    remarks = []
    if not there["error"]:
        remarks.append(("methods", "This SAE's error is 0 up to rounding: there is nothing to remove."))
    elif not there["nonlinear"]:
        remarks.append(
            ("methods", "This SAE's error is linear in x up to rounding: there is no nonlinear error to remove.")
        )
    return tables, remarks


def _linear_rows(given: ReductionInputs, fitted: Fitted) -> list[dict[str, Any]]:
    l0s = {component["role"]: component["l0"] for component in given.components}
    d_model = given.sources.own.acts.d_model
    return [
        {
            "method": method.name,
            "kind": method.kind,
            "title": method_title(method.name, method.kind, method.rank, method.inputs, d_model),
            "source": SOURCES.get(method.kind, "the SAE"),
            "rank": method.rank,
            "inputs": JOINED.join(method.inputs) or None,
            "l0": given.l0,
            "extra_l0": float(sum(l0s.get(role, 0.0) for role in method.inputs)),
            "parameters_added": method.parameters,
        }
        for method in fitted.methods
    ]


def _coding_rows(coded: list[CodedMethod]) -> list[dict[str, Any]]:
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


def _ranks(
    given: ReductionInputs, sums: ReductionSums, intervals: Intervals, own: np.ndarray | None
) -> list[dict[str, Any]]:
    d_model = given.sources.own.acts.d_model
    rows = []
    for rank in range(d_model + 1):
        left = sums.ranks[:, rank]
        row: dict[str, Any] = {"rank": rank, "parameters_added": skip_parameters(rank, d_model)}
        row |= intervals.share("fvu", left, sums.act_scatter)
        if own is not None:
            row |= intervals.share("error_removed", left, own, of_one=True)
        rows.append(row)
    return rows


def _regressions(fitted: Fitted, sums: ReductionSums, intervals: Intervals, floor: float) -> list[dict[str, Any]]:
    rows = []
    for number, regression in enumerate(fitted.regressions):
        for target, name in enumerate(TARGETS):
            row: dict[str, Any] = {"inputs": _joined(regression.inputs), "target": name}
            scatter = sums.scatters[:, target]
            if float(scatter.sum()) > floor:
                row |= intervals.share("r2", sums.residuals[:, number, target], scatter, of_one=True)
            rows.append(row)
    return rows


def _joined(names: Sequence[str]) -> str:
    return JOINED.join(names)
