"""One law of width and L0 for all SAEs of a label, and what a law for each L0 would do instead."""

from __future__ import annotations

import math

import numpy as np

from dmcore.analysis.law_points import WORDS, Points, Row, ends
from dmcore.math.joint_law import N_PARAMS, fit_joint_law

MIN_WIDTHS = 3


def joint_row(points: Points) -> Row | str:
    """A row of `joint`, without its label, or why there is none."""
    word = WORDS.get(points.metric, points.metric)
    keep = np.isfinite(points.l0) & (points.l0 > 0) & (points.values > 0)
    widths, l0s, values = points.d_sae[keep], points.l0[keep], points.values[keep]
    replicates = None if points.replicates is None else points.replicates[:, keep]
    plane = np.stack([np.ones(len(widths)), np.log(widths), np.log(l0s)], 1) if len(widths) else np.empty((0, 3))
    plane = plane - [0, *plane[:, 1:].mean(0)] if len(widths) else plane
    if len(values) <= N_PARAMS or np.linalg.matrix_rank(plane, tol=1e-2) < 3:
        count = f"{len(values)} SAE{'' if len(values) == 1 else 's'}"
        return f"{count} with {word}: a law of width and L0 needs 5 or more, at several widths and L0s."
    if len(np.unique(widths)) < MIN_WIDTHS:
        return f"{len(np.unique(widths))} widths with {word}: a law of width and L0 with a floor needs 3 or more."
    fit = fit_joint_law(widths, l0s, values, replicates=replicates)
    row = {"metric": points.metric, "n_saes": len(values), "rss": fit.rss, "aic": fit.aic}
    for name in ("c", "a", "m", "n"):
        row |= ends(name, getattr(fit, name))
    rest = widths < widths.max()
    row["left_out_error"] = None
    if rest.sum() > N_PARAMS and np.linalg.matrix_rank(plane[rest] - plane[rest].mean(0) * [0, 1, 1], tol=1e-2) == 3:
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
