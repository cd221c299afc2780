"""Made-up tables of *Synthetic*, for tests of its charts and pages. They are no results."""

from __future__ import annotations

from itertools import product
from typing import Any

import polars as pl

from dmcore.results.synthetic import (
    ABLATED,
    COMPONENTS,
    DEFAULTS,
    GROUND_TRUTH_TABLES,
    INGREDIENTS,
    LEVELS,
    NOISES,
    PLANTED_TABLES,
    SPLIT,
    synthetic_table,
)

PRICE = 0.02
COMPONENT_LINEAR = {"absent": 0.06, "dense": 0.1, "shrunk": 0.04, "missed": 0.0, "manifold": 0.0, "introduced": 0.0}
COMPONENT_NONLINEAR = {
    "absent": 0.07,
    "dense": 0.03,
    "shrunk": -0.02,
    "missed": 0.005,
    "manifold": 0.005,
    "introduced": 0.01,
}


def estimated(linear: float, nonlinear: float, half: float = 0.01) -> dict[str, Any]:
    """A split whose nonlinear error is overstated by the price, with intervals of so much of each part."""
    found = {"linear": linear - PRICE * nonlinear, "nonlinear": nonlinear * (1 + PRICE), "fvu": linear + nonlinear}
    ends = {
        f"{k}_{end}": v + sign * half * max(v, 0.01)
        for k, v in found.items()
        for end, sign in (("low", -1), ("high", 1))
    }
    truth = {"truth_fvu": linear + nonlinear, "truth_linear": linear, "truth_nonlinear": nonlinear}
    return {"n_tokens": 15_000, "price": PRICE, **truth, **found, **ends}


def cells() -> pl.DataFrame:
    rows = []
    for noise, ablated, acts, recon in product(NOISES, ABLATED, LEVELS, LEVELS):
        if ablated or acts or recon:
            planted = {"planted_absent": 0.1 * ablated, "planted_acts": 0.1 * acts, "planted_recon": 0.1 * recon}
            split = estimated(0.02 * acts + 0.05 * ablated, 0.08 * acts + 0.1 * recon + 0.05 * ablated)
            rows.append({"noise": noise, "ablated": ablated, "on_acts": acts, "on_recon": recon, **planted, **split})
    return synthetic_table(PLANTED_TABLES["cells"], rows)


def correlations() -> pl.DataFrame:
    rs = {
        ("acts", "linear"): 0.978,
        ("acts", "nonlinear"): 0.43,
        ("recon", "linear"): -0.14,
        ("recon", "nonlinear"): 0.85,
    }
    rows = [
        {
            "noise": noise,
            "ablated": ablated,
            "planted": put,
            "found": part,
            "r": r,
            "r_low": r - 0.01,
            "r_high": r + 0.01,
        }
        for noise, ablated, ((put, part), r) in product(NOISES, ABLATED, rs.items())
    ]
    return synthetic_table(PLANTED_TABLES["correlations"], rows)


def settings() -> pl.DataFrame:
    rows = []
    for k, levels in enumerate(product(*INGREDIENTS.values())):
        named = dict(zip(INGREDIENTS, levels, strict=True))
        linear, nonlinear = (sum(of.values()) for of in (COMPONENT_LINEAR, COMPONENT_NONLINEAR))
        split = estimated(linear, nonlinear, half=0.2 if named["tokens"] > 100 else 0.001)
        rows.append({"setting": k, **named, **split})
    return synthetic_table(GROUND_TRUTH_TABLES["settings"], rows)


def components() -> pl.DataFrame:
    numbers = settings().filter(tokens=DEFAULTS["tokens"])["setting"]
    rows = [
        {"setting": k, "component": c, "size": COMPONENT_LINEAR[c] + COMPONENT_NONLINEAR[c], "linear": COMPONENT_LINEAR[c],
         "nonlinear": COMPONENT_NONLINEAR[c], "r2": 0.5}
        for k in numbers for c in COMPONENTS
    ]  # fmt: skip
    return synthetic_table(GROUND_TRUTH_TABLES["components"], rows)


def trained() -> pl.DataFrame:
    rows = [
        {
            "density": d,
            "dense": 0.25,
            "circles": c,
            "tokens": t,
            "d_sae": 256,
            "l0": d,
            "found": 0.1 * d,
            **estimated(0.05, 0.15),
        }
        for d, c, t in product((2.0, 8.0), (0.0, 1.0), INGREDIENTS["tokens"])
    ]
    return synthetic_table(GROUND_TRUTH_TABLES["trained"], rows)


def chosen(**levels: float) -> dict[str, Any]:
    """The row of a setting."""
    return settings().filter(*(pl.col(k) == v for k, v in (DEFAULTS | levels).items())).row(0, named=True)


def components_of(setting: int) -> pl.DataFrame:
    return components().filter(setting=setting)


NO_INTERVAL = cells().with_columns(
    pl.lit(None, pl.Float64).alias(f"{part}_{end}") for part in SPLIT for end in ("low", "high")
)
