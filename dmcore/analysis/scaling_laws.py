"""How the error of one site's SAEs scales with their width: sets, laws, constancy, and the law of width and L0.

1. Each SAE, taken as the chosen one, has a set: one SAE per width at about its L0. Equal sets are one.
2. For each set and metric: laws of width in log and linear space, their curves, and the prediction of the widest SAE.
3. For each set and metric: is it constant in width?
4. For each label and metric: one law of width and L0.
What the data cannot hold becomes a sentence in `remarks`, and never an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from dmcore.estimate import Estimate
from dmcore.math.bootstrap import MAX_UNITS
from dmcore.math.constancy import constancy
from dmcore.math.joint_law import N_PARAMS as JOINT_PARAMS
from dmcore.math.joint_law import fit_joint_law
from dmcore.math.power_law import SPACES, LawFit
from dmcore.math.rival_laws import N_PARAMS, fit_law, predict_widest
from dmcore.results.compare import over_widths
from dmcore.results.scaling import SCALED_METRICS, TABLES

Array = np.ndarray
Row = dict[str, Any]

LAW_TABLES = ("targets", "members", "laws", "curves", "constancy", "joint", "remarks")
MIN_WIDTHS = 4
"""Fewest widths that laws are fitted to."""
MIN_JOINT_WIDTHS = 3
MIN_REPLICATES = 20
N_CURVE = 33
"""Widths at which curves are drawn, from the narrowest to `REACH` times the widest."""
REACH = 16
L0_FACTOR = 1.5
"""L0s of a set further from its median than this are remarked on."""
WORDS = {"fvu": "FVU", "fvu_nonlinear": "nonlinear FVU"}


@dataclass(frozen=True)
class Points:
    """A metric of some SAEs, those left out for which it is missing."""

    metric: str
    d_sae: Array
    """(n,) latents."""
    l0: Array
    values: Array
    replicates: Array | None
    """(n_replicates, n), the same contexts in a row; None where an SAE has none, or another number of them."""
    missing: list[int]
    """Widths of the SAEs that were left out."""
    n_units: int | None = None
    """Bootstrap units that the replicates redraw: contexts, or bundles of them."""

    @property
    def n_widths(self) -> int:
        """How many different widths there are."""
        return len(np.unique(self.d_sae))


def points_of(members: pl.DataFrame, metric: str, replicates: Mapping[str, pl.DataFrame]) -> Points:
    """The metric of rows of `RECORD`, with the replicates that go with it."""
    values = members[metric].cast(pl.Float64).to_numpy()
    there = np.isfinite(values)
    drawn = [
        replicates[key][metric].cast(pl.Float64).to_numpy() if key in replicates else np.empty(0)
        for key in members.filter(there)["summary_key"]
    ]
    lengths = {len(column) for column in drawn}
    paired = len(lengths) == 1 and min(lengths) >= MIN_REPLICATES
    widths, l0 = (members[name].cast(pl.Float64).to_numpy() for name in ("d_sae", "l0"))
    missing = [int(width) for width in widths[~there]]
    redraws = np.stack(drawn, 1) if paired else None
    n_contexts = members["n_contexts"].min()
    n_units = None if n_contexts is None else min(int(n_contexts), MAX_UNITS)
    return Points(metric, widths[there], l0[there], values[there], redraws, missing, n_units)


def find_sets(records: pl.DataFrame) -> tuple[list[int], list[list[int]]]:
    """The set of each record taken as the chosen one, and the record numbers of each set by width."""
    numbered = records.with_row_index("_number")
    found: dict[tuple[int, ...], int] = {}
    targets = []
    for record in records.iter_rows(named=True):
        numbers = tuple(over_widths(numbered, record)["_number"].to_list())
        targets.append(found.setdefault(numbers, len(found)))
    return targets, [list(numbers) for numbers in found]


def _ends(name: str, value: Estimate, scatter: Estimate | None = None) -> Row:
    row = {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
    if scatter is not None:
        row |= {f"{name}_scatter_low": scatter.low, f"{name}_scatter_high": scatter.high}
    return row


def _law_row(fit: LawFit, points: Points) -> Row:
    """One row of `laws`, without its set."""
    row = {"metric": points.metric, "space": fit.space, "law": fit.law, "n_widths": points.n_widths}
    row |= {"n_params": fit.n_params, "rss": fit.rss, "aic": fit.aic, "at_bound": ",".join(fit.at_bound)}
    if fit.law != "power_zero":
        row |= _ends("c", fit.c, fit.scatter_c)
    if fit.law != "constant":
        row |= _ends("a", fit.a, fit.scatter_a) | _ends("m", fit.m, fit.scatter_m)
    left_out = predict_widest(fit.law, points.d_sae, points.values, replicates=points.replicates, space=fit.space)
    actual = float(points.values[np.argmax(points.d_sae)]) if np.isfinite(left_out) else None
    return row | _ends("left_out", left_out) | {"left_out_actual": actual}


def _curve(fit: LawFit, points: Points) -> Row:
    """Columns of `curves` for one law, without the set."""
    widths = np.geomspace(points.d_sae.min(), REACH * points.d_sae.max(), N_CURVE)
    low, high = fit.band(widths)
    nothing = np.full(N_CURVE, np.nan)
    near, far = fit.band(widths, scatter=True) if fit.law.startswith("power") else (nothing, nothing)
    columns = {"d_sae": widths, "value": fit.predict(widths), "low": low, "high": high}
    names = {"metric": points.metric, "space": fit.space, "law": fit.law}
    return names | columns | {"scatter_low": near, "scatter_high": far}


def _spaces(points: Points) -> list[str]:
    """The spaces in which the values can be fitted."""
    if len(points.values) == 0 or points.values.mean() <= 0:
        return []
    return list(SPACES) if (points.values > 0).all() else ["linear"]


def fit_set(points: Points) -> tuple[list[Row], list[pl.DataFrame]]:
    """Rows of `laws` and frames of `curves` of one set and metric, without the set; none for fewer than 4 widths."""
    laws, curves = [], []
    for space in _spaces(points) if points.n_widths >= MIN_WIDTHS else []:
        for law in N_PARAMS:
            fit = fit_law(law, points.d_sae, points.values, replicates=points.replicates, space=space)
            laws.append(_law_row(fit, points))
            curves.append(pl.DataFrame(_curve(fit, points)))
    return laws, curves


def constancy_row(points: Points) -> Row | None:
    """A row of `constancy`, without its set; None where there are no two widths, or values without a logarithm."""
    if points.n_widths < 2 or not (points.values > 0).all():
        return None
    replicates = np.empty((0, len(points.values))) if points.replicates is None else points.replicates
    found = constancy(points.d_sae, points.values, replicates, points.n_units)
    row = {"metric": points.metric, "n_widths": points.n_widths, "wald": found.wald, "dof": found.dof, "p": found.p}
    return row | _ends("slope", found.slope) | _ends("ratio", found.ratio)


def change_in_words(points: Points) -> str:
    """What two widths or more say without a law."""
    narrow, wide = int(np.argmin(points.d_sae)), int(np.argmax(points.d_sae))
    word = WORDS.get(points.metric, points.metric)
    span = f"From {points.d_sae[narrow]:,.0f} to {points.d_sae[wide]:,.0f} latents {word}"
    if points.values[narrow] <= 0:
        return f"{span} goes from {points.values[narrow]:.3g} to {points.values[wide]:.3g}."
    ratio = points.values[wide] / points.values[narrow]
    if ratio == 1:
        return f"{span} stays the same."
    return f"{span} falls to {ratio:.2f} of itself." if ratio < 1 else f"{span} rises to {ratio:.2f} times itself."


def set_remarks(points: Points, laws: list[Row]) -> Iterator[tuple[str, str]]:
    """(topic, text) of what one set and metric cannot hold."""
    word = WORDS.get(points.metric, points.metric)
    if points.missing:
        widths = ", ".join(f"{width:,}" for width in points.missing)
        yield "missing", f"The SAE with {widths} latents has no {word} and is left out."
    if points.n_widths < MIN_WIDTHS:
        count = f"{points.n_widths} width{'' if points.n_widths == 1 else 's'}"
        tail = change_in_words(points) if points.n_widths > 1 else "How it changes with width cannot be said."
        yield "law", f"{count}: no law with a floor can be fitted to fewer than {MIN_WIDTHS}. {tail}"
    if len(points.values) and not (points.values > 0).all():
        fitted = _spaces(points) and points.n_widths >= MIN_WIDTHS
        rest = "laws are fitted in linear space alone" if fitted else "no law can be fitted"
        yield "space", f"Some {word} is 0 or less and has no logarithm: {rest}."
    flat = sorted({row["space"] for row in laws if row["law"] == "power" and "a" in row["at_bound"].split(",")})
    if flat and np.ptp(points.values) == 0:
        yield (
            "law",
            f"{word[0].upper()}{word[1:]} is the same at all widths: the law is a constant, without an exponent.",
        )
    elif flat:
        spaces = " and ".join(flat)
        yield "law", f"No power law that falls fits {word} better than a constant ({spaces} space): m is not defined."


def l0_remark(members: pl.DataFrame) -> str | None:
    """A sentence where the SAEs of a set differ much in L0."""
    known = members.filter(pl.col("l0").is_finite())
    middle = known["l0"].median()
    if middle is None:
        return None
    low, high = float(middle) / L0_FACTOR, float(middle) * L0_FACTOR
    far = known.filter((pl.col("l0") < low) | (pl.col("l0") > high))
    if not len(far):
        return None
    which = ", ".join(f"{l0:.3g} at {width:,} latents" for width, l0 in far.select("d_sae", "l0").iter_rows())
    return f"L0 differs over these widths: {which}, against a median of {float(middle):.3g}."


def joint_row(points: Points) -> Row | str:
    """A row of `joint`, without its label, or why there is none."""
    word = WORDS.get(points.metric, points.metric)
    keep = np.isfinite(points.l0) & (points.l0 > 0) & (points.values > 0)
    widths, l0s, values = points.d_sae[keep], points.l0[keep], points.values[keep]
    replicates = None if points.replicates is None else points.replicates[:, keep]
    plane = np.stack([np.ones(len(widths)), np.log(widths), np.log(l0s)], 1) if len(widths) else np.empty((0, 3))
    plane = plane - [0, *plane[:, 1:].mean(0)] if len(widths) else plane
    if len(values) <= JOINT_PARAMS or np.linalg.matrix_rank(plane, tol=1e-2) < 3:
        count = f"{len(values)} SAE{'' if len(values) == 1 else 's'}"
        return f"{count} with {word}: a law of width and L0 needs 5 or more, at several widths and L0s."
    if len(np.unique(widths)) < MIN_JOINT_WIDTHS:
        return f"{len(np.unique(widths))} widths with {word}: a law of width and L0 with a floor needs 3 or more."
    fit = fit_joint_law(widths, l0s, values, replicates=replicates)
    row = {"metric": points.metric, "n_saes": len(values), "rss": fit.rss, "aic": fit.aic}
    for name in ("c", "a", "m", "n"):
        row |= _ends(name, getattr(fit, name))
    rest = widths < widths.max()
    row["left_out_error"] = None
    if (
        rest.sum() > JOINT_PARAMS
        and np.linalg.matrix_rank(plane[rest] - plane[rest].mean(0) * [0, 1, 1], tol=1e-2) == 3
    ):
        narrower = fit_joint_law(widths[rest], l0s[rest], values[rest])
        missed = np.log(narrower.predict(widths[~rest], l0s[~rest]) / values[~rest])
        row["left_out_error"] = float(np.sqrt((missed**2).mean()))
    return row


def separate_aic(saes: set[int], members: list[Row], laws: list[Row], metric: str) -> float | None:
    """Akaike's criterion, in log space, of a power law with a floor for each L0 in place of one law for all of a label's SAEs.

    None unless the sets of those SAEs hold each of them once, and each set has its law.
    """
    sets = {row["set"] for row in members if row["sae"] in saes}
    held = [row["sae"] for row in members if row["set"] in sets]
    found = [
        row for row in laws
        if row["set"] in sets and (row["metric"], row["space"], row["law"]) == (metric, "log", "power")
    ]  # fmt: skip
    if sorted(held) != sorted(saes) or len(found) != len(sets) or sum(row["n_widths"] for row in found) != len(saes):
        return None
    rss = sum(row["rss"] for row in found)
    return None if rss <= 0 else len(saes) * math.log(rss / len(saes)) + 2 * sum(row["n_params"] for row in found)


def table(name: str, rows: list[Row]) -> pl.DataFrame:
    """Rows in the schema of a table; what they lack, and what is not finite, is null."""
    return _finite(pl.DataFrame(rows, schema=TABLES[name], infer_schema_length=None))


def _finite(frame: pl.DataFrame) -> pl.DataFrame:
    numbers = pl.selectors.float()
    return frame.with_columns(pl.when(numbers.is_finite()).then(numbers))


def _remark(topic: str, text: str, **where: Any) -> Row:
    return {"set": None, "metric": None, "label": None, **where, "topic": topic, "text": text}


def _set_tables(
    records: pl.DataFrame, sets: list[list[int]], replicates: Mapping[str, pl.DataFrame]
) -> tuple[dict[str, list[Row]], list[pl.DataFrame]]:
    """Rows of members, laws, constancy and remarks of all sets, and frames of curves."""
    rows: dict[str, list[Row]] = {name: [] for name in ("members", "laws", "constancy", "remarks")}
    curves = []
    for number, saes in enumerate(sets):
        members = records[saes]
        rows["members"] += [
            {"set": number, "sae": sae, "d_sae": width, "l0": l0}
            for sae, (width, l0) in zip(saes, members.select("d_sae", "l0").iter_rows(), strict=True)
        ]
        differs = l0_remark(members)
        rows["remarks"] += [_remark("l0", differs, set=number)] if differs else []
        for metric in SCALED_METRICS:
            points = points_of(members, metric, replicates)
            laws, drawn = fit_set(points)
            rows["laws"] += [{"set": number, **row} for row in laws]
            curves += [frame.with_columns(set=pl.lit(number)) for frame in drawn]
            constant = constancy_row(points)
            rows["constancy"] += [{"set": number, **constant}] if constant else []
            where = {"set": number, "metric": metric}
            rows["remarks"] += [_remark(topic, text, **where) for topic, text in set_remarks(points, laws)]
    return rows, curves


def law_tables(
    records: pl.DataFrame,
    replicates: Mapping[str, pl.DataFrame],
    seed: int = 0,  # noqa: ARG001 - nothing here is drawn: the same on every call
) -> dict[str, pl.DataFrame]:
    """Tables targets, members, laws, curves, constancy, joint and remarks of one site.

    Args:
        records: rows of `RECORD` of one site, in the order that numbers the SAEs.
        replicates: by `summary_key`, the `replicates` table; row r has the same context weights for every SAE.
        seed: unused, for nothing is drawn.
    """
    targets, sets = find_sets(records)
    rows, curves = _set_tables(records, sets, replicates)
    joint: list[Row] = []
    for label in records["label"].unique(maintain_order=True):
        for metric in SCALED_METRICS:
            saes = {i for i, other in enumerate(records["label"]) if other == label}
            found = joint_row(points_of(records.filter(pl.col("label") == label), metric, replicates))
            if isinstance(found, str):
                rows["remarks"].append(_remark("joint", found, label=label, metric=metric))
            else:
                separate = separate_aic(saes, rows["members"], rows["laws"], metric)
                joint.append({"label": label, **found, "aic_separate": separate})
    drawn = pl.concat(curves) if curves else pl.DataFrame(schema=TABLES["curves"])
    drawn = drawn.select(pl.col(name).cast(dtype) for name, dtype in TABLES["curves"].items())
    return {
        "targets": table("targets", [{"sae": sae, "set": number} for sae, number in enumerate(targets)]),
        "curves": _finite(drawn),
        "joint": table("joint", joint),
        **{name: table(name, found) for name, found in rows.items()},
    }
