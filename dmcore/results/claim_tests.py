"""What the results of a study say of each of the paper's statements: pure functions of tables, for any choice of SAEs.

Where replicates are kept the mean over SAEs is taken in each replicate, so that what the SAEs share (the texts) is counted once.
Where only intervals are kept, the ends of the mean are the means of the ends: exact if all move together, too wide if not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl

from dmcore.estimate import Estimate
from dmcore.results.claim_sets import middle_layers, span_words, width_sets
from dmcore.results.claims import LEAST_CONTEXTS, STATEMENTS, Evidence, Missing, claim_row, claims_frame
from dmcore.results.downstream import Downstream
from dmcore.results.parts import Parts
from dmcore.results.reduction import JOINED, Reduction
from dmcore.results.scaling import Scaling
from dmcore.specs import stack_of

Array = np.ndarray
LEAST_WIDTHS = 3
PURSUIT = "gradient_pursuit"


@dataclass(frozen=True)
class ClaimInputs:
    """What a study has, by key of summary where it is of an SAE."""

    records: pl.DataFrame
    file: str
    """What a command is given for the study."""
    replicates: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    scaling: Mapping[str, Scaling] = field(default_factory=dict)
    """By site."""
    parts: Mapping[str, Parts] = field(default_factory=dict)
    downstream: Mapping[str, Downstream] = field(default_factory=dict)
    reduction: Mapping[str, Reduction] = field(default_factory=dict)

    @cached_property
    def norms(self) -> dict[str, dict[str, dict]]:
        """Rows of the tests of norms from x, by key of summary and quantity."""
        found: dict[str, dict[str, dict]] = {}
        for scaling in self.scaling.values():
            keys = {number: key for key, number in scaling.number.items()}
            for row in scaling["norm_tests"].filter(pl.col("predictor") == "x").to_dicts():
                found.setdefault(keys[row["sae"]], {})[row["quantity"]] = row
        return found

    @cached_property
    def pursuits(self) -> dict[str, list[dict]]:
        """The rows of `PURSUIT` in the tables of methods, by key of summary."""
        return {
            key: [row for row in found["methods"].to_dicts() if row["method"] == PURSUIT]
            for key, found in self.reduction.items()
        }

    @cached_property
    def regressions(self) -> dict[str, list[dict]]:
        """The rows of the nonlinear error in the tables of regressions, by key of summary."""
        return {
            key: [row for row in found["regressions"].to_dicts() if row["target"] == "nonlinear"]
            for key, found in self.reduction.items()
        }

    @cached_property
    def costs(self) -> dict[str, dict[str, dict]]:
        """The rows of the parts of the error in the tables of what they cost, by key of summary and part."""
        return {key: {row["part"]: row for row in found["parts"].to_dicts()} for key, found in self.downstream.items()}

    @cached_property
    def draws(self) -> dict[str, dict[str, Array]]:
        """The replicates of each number, by key of summary."""
        return {
            key: {name: table[name].to_numpy().astype(np.float64) for name in table.columns}
            for key, table in self.replicates.items()
        }

    @cached_property
    def pairs(self) -> dict[str, list[dict]]:
        """The pairs of SAEs, by site."""
        return {site: scaling["pairs"].to_dicts() for site, scaling in self.scaling.items()}

    @cached_property
    def n_contexts(self) -> int:
        """The fewest of any SAE."""
        return int(self.records["n_contexts"].min() or 0)  # pyright: ignore[reportArgumentType]


def study_claims(given: ClaimInputs) -> pl.DataFrame:
    """A row of `CLAIMS` for each statement, over all SAEs of the study."""
    return claims_frame([measured(claim, given, given.records) for claim in STATEMENTS])


def measured(claim: str, given: ClaimInputs, records: pl.DataFrame, group: tuple[str, str] | None = None) -> dict:
    """The row of a statement over some of the study's SAEs."""
    found = too_small(given) or TESTS[claim](given, records)
    return claim_row(STATEMENTS[claim], found, given.n_contexts, group)


def too_small(given: ClaimInputs) -> Missing | None:
    """Why nothing can be said of a study at all."""
    if given.n_contexts >= LEAST_CONTEXTS:
        return None
    return Missing(
        f"The study has {given.n_contexts} contexts, and an interval over fewer than {LEAST_CONTEXTS} says little: give it more "
        "texts, and sweep it again.",
        f"sweep {given.file}",
    )


def _from_replicates(values: Sequence[float], replicates: Sequence[Array], unit: str) -> Evidence:
    """The mean of some numbers, with the interval of the mean of their replicates."""
    together = np.mean(replicates, axis=0)
    finite = together[np.isfinite(together)]
    ends = np.percentile(finite, [2.5, 97.5]) if len(finite) else (np.nan, np.nan)
    return Evidence(Estimate(float(np.mean(values)), *map(float, ends)), tuple(values), unit)


def from_ends(rows: Sequence[tuple[float | None, float | None, float | None]], unit: str) -> Evidence | None:
    """The mean of some numbers, with the means of their ends; None if none has an interval."""
    whole = [row for row in rows if None not in row]
    if not whole:
        return None
    mean, low, high = (float(v) for v in np.mean(np.array(whole, dtype=float), axis=0))
    return Evidence(Estimate(mean, low, high), tuple(float(row[0]) for row in whole if row[0] is not None), unit)


def _triple(row: Mapping[str, float | None], name: str) -> tuple[float | None, float | None, float | None]:
    return row[name], row[f"{name}_low"], row[f"{name}_high"]


def _known(given: ClaimInputs, records: pl.DataFrame, *metrics: str) -> list[dict]:
    """Rows of SAEs that have these numbers and their replicates."""
    there = [row for row in records.to_dicts() if row["summary_key"] in given.replicates]
    return [row for row in there if all(row[metric] is not None for metric in metrics)]


def _column(given: ClaimInputs, row: Mapping, metric: str) -> Array:
    return given.draws[row["summary_key"]][metric]


def _metric(metric: str) -> Callable[[ClaimInputs, pl.DataFrame], Evidence | Missing]:
    def test(given: ClaimInputs, records: pl.DataFrame) -> Evidence | Missing:
        rows = _known(given, records, metric)
        if not rows:
            return Missing("No SAE has this number.", f"sweep {given.file}")
        return _from_replicates([row[metric] for row in rows], [_column(given, row, metric) for row in rows], "SAEs")

    return test


def _at_middle_layers(metric: str) -> Callable[[ClaimInputs, pl.DataFrame], Evidence | Missing]:
    def test(given: ClaimInputs, records: pl.DataFrame) -> Evidence | Missing:
        middle = middle_layers(given.records)
        if not middle:
            return Missing(
                "Which layers are middle ones cannot be told: the study has SAEs at fewer than three. Add some at earlier and "
                "later layers, and sweep it.",
                f"sweep {given.file}",
            )
        chosen = [
            row["summary_key"] for row in records.to_dicts() if row["layer"] in middle.get(stack_of(row["site"]), [])
        ]
        if not chosen:
            told = span_words(sorted({v for layers in middle.values() for v in layers}))
            return Missing(f"None of these SAEs is at a middle layer of the study ({told}).")
        return _metric(metric)(given, records.filter(pl.col("summary_key").is_in(chosen)))

    return test


def _half_norm(given: ClaimInputs, records: pl.DataFrame) -> Evidence | Missing:
    rows = [row for row in _known(given, records, "fvu", "fvu_nonlinear") if row["fvu"] > 0]
    if not rows:
        return Missing("No SAE has an error to take apart.", f"sweep {given.file}")
    return _from_replicates(
        [1 - row["fvu_nonlinear"] / row["fvu"] for row in rows],
        [1 - _column(given, row, "fvu_nonlinear") / _column(given, row, "fvu") for row in rows],
        "SAEs",
    )


def _slopes(logs: Array, widths: Array) -> Array:
    """Least-squares slope on log2 width of (..., n_widths) logs."""
    doublings = np.log2(widths) - np.log2(widths).mean()
    return logs @ doublings / (doublings @ doublings)


def _width(relative: bool) -> Callable[[ClaimInputs, pl.DataFrame], Evidence | Missing]:
    def test(given: ClaimInputs, records: pl.DataFrame) -> Evidence | Missing:
        known = _known(given, records.filter(pl.col("fvu_nonlinear") > 0), "fvu", "fvu_nonlinear")
        keys = [row["summary_key"] for row in known]
        sets = [s for s in width_sets(records.filter(pl.col("summary_key").is_in(keys))) if len(s) >= LEAST_WIDTHS]
        if not sets:
            return Missing(
                f"No {LEAST_WIDTHS} SAEs here are of one site, architecture and L0 and of different widths: add some to the "
                "study and sweep it.",
                f"sweep {given.file}",
            )
        values, replicates = [], []
        for rows in sets:
            widths = np.array([row["d_sae"] for row in rows], dtype=float)
            value, draws = (0.0, np.zeros(1))
            for metric, sign in (("fvu_nonlinear", 1.0), ("fvu", -1.0)) if relative else (("fvu_nonlinear", 1.0),):
                value = value + sign * float(_slopes(np.log([row[metric] for row in rows]), widths))
                with np.errstate(divide="ignore", invalid="ignore"):
                    logs = np.log(np.stack([_column(given, row, metric) for row in rows], axis=1))
                draws = draws + sign * _slopes(logs, widths)
            values.append(value)
            replicates.append(draws)
        return _from_replicates(values, replicates, "sets of widths")

    return test


def _same_tokens(given: ClaimInputs, records: pl.DataFrame) -> Evidence | Missing:
    sets = width_sets(records)
    if not sets:
        return Missing(
            "No two SAEs here are of one site, architecture and L0 and of different widths: add some to the study and sweep it.",
            f"sweep {given.file}",
        )
    rows = []
    for members in sets:
        scaling = given.scaling.get(members[0]["site"])
        numbers = [scaling.number.get(row["summary_key"], -1) for row in members] if scaling is not None else []
        if scaling is not None and numbers:
            order = {number: place for place, number in enumerate(numbers)}
            pairs = [p for p in given.pairs[members[0]["site"]] if p["source"] in order and p["target"] in order]
            rows += [_triple(p, "r2") for p in pairs if order[p["source"]] < order[p["target"]]]
    return from_ends(rows, "pairs of SAEs") or Missing(
        "The SAEs of a site have not been compared yet.", f"scaling {given.file}"
    )


def _norm_order(given: ClaimInputs, records: pl.DataFrame) -> Evidence | Missing:
    rows = []
    for key in records["summary_key"]:
        both = [given.norms.get(key, {}).get(part) for part in ("linear", "nonlinear")]
        if both[0] is not None and both[1] is not None:
            linear, nonlinear = (_triple(row, "r2") for row in (both[0], both[1]))
            if None not in (*linear, *nonlinear):
                # The lowest of one less the highest of the other: the two are of the same tokens, so it is too wide.
                rows.append((linear[0] - nonlinear[0], linear[1] - nonlinear[2], linear[2] - nonlinear[1]))  # pyright: ignore
    return from_ends(rows, "SAEs") or Missing(
        "The sizes of the parts of the error have not been predicted yet.", f"scaling {given.file}"
    )


def _parts_order(given: ClaimInputs, records: pl.DataFrame) -> Evidence | Missing:
    rows = []
    for key in records["summary_key"]:
        found = given.parts.get(key)
        if found is not None:
            here = (pl.col("part") == "nonlinear") & (pl.col("other") == "linear")
            rows += [_triple(row, "difference") for row in found["differences"].filter(here).to_dicts()]
    return from_ends(rows, "SAEs whose error's parts have SAEs of their own") or Missing(
        "No SAEs were trained on the linear and the nonlinear error of an SAE: give the study a [parts] table, train them and "
        "sweep again.",
        f"train-saes {given.file} --parts",
    )


def _loss(part: str) -> Callable[[ClaimInputs, pl.DataFrame], Evidence | Missing]:
    def test(given: ClaimInputs, records: pl.DataFrame) -> Evidence | Missing:
        keys = [key for key in records["summary_key"] if key in given.costs]
        rows = [_triple(given.costs[key][part], "per_norm_sq") for key in keys]
        return from_ends(rows, "SAEs") or Missing(
            "The model's loss has not been run with the parts of an error, or they cost it nothing that can be told from 0.",
            f"downstream {given.file}",
        )

    return test


def _pursuit(column: str) -> Callable[[ClaimInputs, pl.DataFrame], Evidence | Missing]:
    def test(given: ClaimInputs, records: pl.DataFrame) -> Evidence | Missing:
        rows = [_triple(row, column) for key in records["summary_key"] for row in given.pursuits.get(key, [])]
        return from_ends(rows, "SAEs") or Missing("No SAE's codes were chosen anew.", f"reduce {given.file}")

    return test


def _earlier(given: ClaimInputs, records: pl.DataFrame) -> Evidence | Missing:
    rows = []
    for key in records["summary_key"]:
        without_x = [row for row in given.regressions.get(key, []) if "x" not in row["inputs"].split(JOINED)]
        if without_x:
            rows.append(_triple(max(without_x, key=lambda row: row["inputs"].count(JOINED)), "r2"))
    return from_ends(rows, "SAEs") or Missing(
        "No SAE's error was regressed on earlier components: the study needs SAEs of the layer before, or of the layer's MLP or "
        "attention, and reduce.",
        f"reduce {given.file}",
    )


TESTS: dict[str, Callable[[ClaimInputs, pl.DataFrame], Evidence | Missing]] = {
    "half_vector": _metric("r2_error_mean_dims"),
    "half_norm": _half_norm,
    "norm_07": _at_middle_layers("r2_error_norm_sq"),
    "norm_09": _metric("r2_error_norm_sq"),
    "norm_order": _norm_order,
    "constant_width": _width(relative=False),
    "slower_width": _width(relative=True),
    "same_tokens": _same_tokens,
    "parts_order": _parts_order,
    "loss_linear": _loss("linear"),
    "loss_nonlinear": _loss("nonlinear"),
    "pursuit_little": _pursuit("error_removed"),
    "pursuit_total": _pursuit("error_removed"),
    "pursuit_nonlinear": _pursuit("nonlinear_removed"),
    "earlier": _earlier,
}
"""How each statement is measured."""
