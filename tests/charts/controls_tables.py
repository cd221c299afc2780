"""Made-up tables of the page *Controls*, in the schemas of `dmcore.results`. They are no results."""

from __future__ import annotations

from typing import Any

import polars as pl

from dmcore.results.controls import (
    AGREES,
    CONTROL_TABLES,
    DIFFERS,
    FAILED,
    GROUPS,
    METRICS,
    PASSED,
    UNDECIDED,
    VERDICTS,
    WITHIN,
)
from tests.charts.inspector_tables import filled
from tests.charts.scaling_tables import ends

D_MODEL, N_TRAIN = 192, 56_000
BIAS = -D_MODEL / (N_TRAIN - D_MODEL - 1)


def control(name: str, group: str, title: str, value: float | None, half: float, between: tuple, **more: Any) -> dict:
    """A row of the table of controls."""
    numbers = {} if value is None else ends("value", value, half)
    return {
        "name": name, "group": group, "title": title, "what": f"What {title} is.", "quantity": "R² of the error vector",
        "expected_low": between[0], "expected_high": between[1], "why": "Because it is known.", "n_tokens": 70_000,
        "n_contexts": 300, "rule": AGREES, "verdict": PASSED, "note": "", **numbers, **more,
    }  # fmt: skip


def controls() -> pl.DataFrame:
    """One of every rule, verdict and kind of range."""
    rows = [
        control("shuffled_vector", "shuffled", "Errors shuffled, least squares", BIAS * 1.001, 2e-5, (BIAS, BIAS), expected=BIAS),
        control("shuffled_vector_ridge", "shuffled", "Errors shuffled, ridge chosen", -3e-5, 1e-5, (-3e-4, 3e-4), expected=0.0),
        control("random_norm", "directions", "Random directions, the norm", 0.0, 0.0, (-1e-4, 1e-4), rule=WITHIN),
        control("random_fvu", "dictionaries", "Random SAE, FVU", 6.1, 0.1, (1.0, None), rule=WITHIN),
        control("dead_linear", "known", "Dead SAE, linear share", 1.0, 0.0, (0.9999, 1.0), expected=1.0),
        control("model_r2_error", "model", "Random model, linear share", 0.2, 0.02, (-0.004, 0.004), rule=DIFFERS),
        control("shuffled_within", "texts", "Errors shuffled within each text", 0.005, 0.001, (None, 0.09), rule=WITHIN),
        control("leak", "split", "Folds of tokens, not of texts", 0.0054, 7e-4, (-0.002, 0.002), rule=WITHIN, verdict=FAILED,
                note="A map learns the text that it is tested on."),
        control("tokens_r2_error", "tokens", "More tokens, linear share", None, 0.0, (-0.002, 0.002), rule=WITHIN,
                verdict=UNDECIDED, note="Too few tokens."),
        control("fold_seeds", "seeds", "Other folds", 0.005, 0.001, (None, 0.09), rule=WITHIN),
    ]  # fmt: skip
    assert {row["group"] for row in rows} == set(GROUPS)
    return filled(CONTROL_TABLES["controls"], rows)


def counts(table: pl.DataFrame) -> dict[str, int]:
    """The verdicts of a table, as `about` has them."""
    return {verdict: table.filter(verdict=verdict).height for verdict in VERDICTS}


def dictionaries() -> pl.DataFrame:
    levels = {"own": (0.12, 0.08), "random": (0.6, 0.2), "dead": (1.0, 0.0), "identity": (0.0, 0.0)}
    return filled(CONTROL_TABLES["dictionaries"], [
        {"name": name, "title": name.capitalize(), "l0": 16.0, "d_sae": 1024, "n_tokens": 70_000, "n_contexts": 300,
         **ends("fvu", fvu, 0.002), **ends("fvu_nonlinear", nonlinear, 0.001),
         **({} if name == "identity" else {k: v for m in METRICS[2:] for k, v in ends(m, 1 - nonlinear / fvu, 0.002).items()})}
        for name, (fvu, nonlinear) in levels.items()
    ])  # fmt: skip


def curve() -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for share in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0):
        n = round(share * N_TRAIN)
        worse = D_MODEL / (n - D_MODEL - 1)
        told = share > 0.1
        numbers = {**ends("r2_error", 0.35 - 0.65 * worse, 0.003), **ends("fvu_nonlinear", 0.08 * (1 + worse), 0.0008)}
        rows.append({"share": share, "n_train": n, "determined": told, **(numbers if told else {})})
    return filled(CONTROL_TABLES["curve"], rows)


def asymptotes() -> pl.DataFrame:
    rows = [{"metric": m, **ends("value", v, 0.001)} for m, v in (("r2_error", 0.35), ("fvu_nonlinear", 0.08))]
    return filled(CONTROL_TABLES["asymptotes"], rows)


def spectra() -> pl.DataFrame:
    rows = [{"rank": k + 1, "own": 0.01 * 0.97**k, "shuffled": 2e-5 * 0.99**k} for k in range(D_MODEL)]
    return filled(CONTROL_TABLES["spectra"], rows)
