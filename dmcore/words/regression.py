"""What the page Regression says in sentences, made from the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from dmcore.charts.baselines import PREDICTOR_NAMES
from dmcore.charts.numbers import percent, times
from dmcore.charts.positions import sink


def baseline_sentence(baselines: pl.DataFrame) -> str:
    """The simple quantity that predicts most of the squared norm, and whether a map of all of x does better."""
    known = baselines.filter(pl.col("r2").is_finite())
    simple, of_x = known.filter(pl.col("predictor") != "x").sort("r2"), known.filter(pl.col("predictor") == "x")
    if not len(simple):
        return ""
    best = simple.row(-1, named=True)
    name, share = (
        PREDICTOR_NAMES.get(best["predictor"], "another"),
        percent(best["r2"], best["r2_low"], best["r2_high"]),
    )
    if len(of_x) and of_x["r2"][0] < best["r2"]:
        return f"The {name} alone predicts more of the squared norm: {share}."
    return f"Of the simple baselines, {name} predicts most of the squared norm: {share}."


def sink_sentence(positions: pl.DataFrame) -> str:
    """What position 0 does, from the numbers."""
    ratios = sink(positions)
    act, error = ratios.get("act_norm_sq"), ratios.get("error_sq")
    if act is None or error is None:
        return ""
    if act < 2:
        return (
            f"Position 0 is no outlier here: its mean squared norm is {times(act)} that of a typical later position, and its "
            f"squared error {times(error)}."
        )
    kind = (
        "an **attention sink**: attention goes there when it has nowhere to go, and its activation is"
        if act > 5
        else "unlike the rest:"
    )
    return (
        f"Position 0 is {kind} {times(act)} as large in squared norm as a typical later one. Its squared error is "
        f"{times(error)} as large, so a few tokens like it can dominate a pooled number: that is why first positions are skipped."
    )


def prediction_sentence(shown: Mapping[str, Any]) -> str:
    """How much of the error a linear map predicts; `shown`: has the metrics and their ends."""
    vector, norm = (
        percent(*(shown[f"{metric}{end}"] for end in ("", "_low", "_high")))
        for metric in ("r2_error", "r2_error_norm_sq")
    )
    return (
        f"On contexts that it never saw, a linear map of x predicts {vector} of the variance of this SAE's error vector and "
        f"{norm} of that of its squared norm."
    )
