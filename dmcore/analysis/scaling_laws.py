"""How the error of one site's SAEs scales with their width: sets, laws, constancy, and the law of width and L0.

1. Each SAE, taken as the chosen one, has a set: one SAE per width at about its L0. Equal sets are one.
2. For each set and metric: laws of width in log and linear space, their curves, and the prediction of the widest SAE.
3. For each set and metric: is it constant in width?
4. For each label and metric: one law of width and L0.
What the data cannot hold becomes a sentence in `remarks`, and never an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from dmcore.analysis.joint_laws import joint_row, separate_aic
from dmcore.analysis.law_points import WORDS, Points, Row, ends, points_of
from dmcore.math.constancy import constancy
from dmcore.math.power_law import SPACES, LawFit
from dmcore.math.rival_laws import N_PARAMS, fit_law, predict_widest
from dmcore.results.compare import over_widths
from dmcore.results.scaling import SCALED_METRICS, TABLES

LAW_TABLES = ("targets", "members", "laws", "curves", "constancy", "joint", "remarks")
MIN_WIDTHS = 4
"""Fewest widths that laws are fitted to."""
N_CURVE = 33
"""Widths at which curves are drawn, from the narrowest to `REACH` times the widest."""
REACH = 16
L0_FACTOR = 1.5
"""L0s of a set further from its median than this are remarked on."""


def find_sets(records: pl.DataFrame) -> tuple[list[int], list[list[int]]]:
    """The set of each record taken as the chosen one, and the record numbers of each set by width."""
    numbered = records.with_row_index("_number")
    found: dict[tuple[int, ...], int] = {}
    targets = []
    for record in records.iter_rows(named=True):
        numbers = tuple(over_widths(numbered, record)["_number"].to_list())
        targets.append(found.setdefault(numbers, len(found)))
    return targets, [list(numbers) for numbers in found]


def _law_row(fit: LawFit, points: Points) -> Row:
    """One row of `laws`, without its set."""
    row = {"metric": points.metric, "space": fit.space, "law": fit.law, "n_widths": points.n_widths}
    row |= {"n_params": fit.n_params, "rss": fit.rss, "aic": fit.aic, "at_bound": ",".join(fit.at_bound)}
    if fit.law != "power_zero":
        row |= ends("c", fit.c, fit.scatter_c)
    if fit.law != "constant":
        row |= ends("a", fit.a, fit.scatter_a) | ends("m", fit.m, fit.scatter_m)
    left_out = predict_widest(fit.law, points.d_sae, points.values, replicates=points.replicates, space=fit.space)
    actual = float(points.values[np.argmax(points.d_sae)]) if np.isfinite(left_out) else None
    return row | ends("left_out", left_out) | {"left_out_actual": actual}


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
    return row | ends("slope", found.slope) | ends("ratio", found.ratio)


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
