"""What the page Overview says in sentences, made from the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from dmcore.charts.numbers import percent, times
from dmcore.estimate import Estimate
from dmcore.words.chosen import Chosen
from dmcore.words.names import architecture_name, plain
from dmcore.words.paired import paired_ratio


def width_ratio(chosen: Chosen, rows: pl.DataFrame) -> Estimate:
    """Nonlinear FVU of the widest SAE over that of the narrowest."""
    widest, narrowest = (chosen.summary_of(rows.row(k, named=True)) for k in (-1, 0))
    return paired_ratio(widest, narrowest, "fvu_nonlinear")


def width_sentence(chosen: Chosen, rows: pl.DataFrame) -> str:
    """What width does to the nonlinear error, seen from the chosen SAE."""
    record = chosen.record
    if rows.height == 1:
        return "This study has one width here, so what a wider dictionary would leave is not known yet."
    narrowest, widest = rows.row(0, named=True), rows.row(-1, named=True)
    if record["label"] != widest["label"]:
        ratio = width_ratio(chosen, rows)
        return (
            f"Among the {plain(architecture_name(widest['label']))} SAEs here, {times(widest['d_sae'] / narrowest['d_sae'])} "
            f"the width leaves {percent(ratio, ratio.low, ratio.high)} of the nonlinear error."
        )
    if record["d_sae"] < widest["d_sae"]:
        ratio = paired_ratio(chosen.summary_of(widest), chosen.summary, "fvu_nonlinear")
        factor = times(widest["d_sae"] / record["d_sae"])
        return f"A dictionary {factor} wider leaves {percent(ratio, ratio.low, ratio.high)} of the nonlinear error."
    ratio = paired_ratio(chosen.summary, chosen.summary_of(narrowest), "fvu_nonlinear")
    factor = times(record["d_sae"] / narrowest["d_sae"])
    more = ratio.low > 1
    return (
        f"It is {factor} wider than the narrowest dictionary here, {'yet has' if more else 'and leaves'} "
        f"{percent(ratio, ratio.low, ratio.high)} of that one's nonlinear error."
    )


def linear_sentence(record: Mapping[str, Any]) -> str:
    """How much of the error is linear."""
    linear = percent(record["r2_error"], record["r2_error_low"], record["r2_error_high"])
    return f"{linear} of this SAE's error is linear in x."
