"""The charts of the paper's claims are valid Vega-Lite, compile, and draw each row on its own scale, survive gaps."""

from __future__ import annotations

import math
from collections.abc import Callable

import altair as alt
import polars as pl
import pytest

from dmcore.charts.claims import (
    SYMBOLS,
    VERDICT_COLOURS,
    claims_chart,
    claims_table,
    matrix_chart,
    matrix_table,
    range_words,
)
from dmcore.charts.theme import LIGHT_COLOURS
from dmcore.estimate import Estimate
from dmcore.results.claims import (
    FAILS,
    HOLDS,
    NOT_TESTED,
    STATEMENTS,
    UNDECIDED,
    VERDICTS,
    Evidence,
    Missing,
    claim_row,
    claims_frame,
)
from tests.charts.test_inspector_charts import drawn, said


def study(lost: bool = False) -> pl.DataFrame:
    rows = []
    for place, (_, statement) in enumerate(STATEMENTS.items()):
        low = statement.low if math.isfinite(statement.low) else statement.high - 0.2
        value = low + (-0.2, 0.1, 0.0)[place % 3]
        found = Evidence(Estimate(value, value - 0.01, value + 0.02), (value, value), "SAEs")
        missing = lost or place % 4 == 3
        rows.append(claim_row(statement, Missing("It was not made.", "sweep demo") if missing else found, 100))
    return claims_frame(rows)


def groups(names: tuple[str, ...] = ("topk", "gated")) -> pl.DataFrame:
    parts = [
        study().with_columns(by=pl.lit(by), group=pl.lit(name)) for by in ("architecture", "site") for name in names
    ]
    return pl.concat(parts)


CHARTS: dict[str, Callable[[], alt.LayerChart]] = {
    "claims": lambda: claims_chart(study()),
    "claims, none tested": lambda: claims_chart(study(lost=True)),
    "claims, one": lambda: claims_chart(study().head(1)),
    "matrix": lambda: matrix_chart(groups()),
    "matrix with names": lambda: matrix_chart(groups(), ["A", "B", "C", "D"]),
    "matrix, one group": lambda: matrix_chart(groups(("topk",))),
}


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_valid_and_compiles(name: str) -> None:
    spec = CHARTS[name]().to_dict(validate=True)
    assert spec["autosize"]["type"] == "fit-x"
    text = said(CHARTS[name]())
    assert text.startswith("<svg")
    for wrong in ("NaN", "undefined", ">null<"):
        assert wrong not in text


def test_a_verdict_is_said_in_words_and_by_a_symbol_not_by_colour_alone() -> None:
    text = said(claims_chart(study()))
    for verdict in (HOLDS, FAILS, UNDECIDED, NOT_TESTED):
        assert f"{SYMBOLS[verdict]} {verdict}" in text
    assert len(set(SYMBOLS.values())) == len(VERDICTS)
    assert not set(VERDICT_COLOURS.values()) & set(LIGHT_COLOURS.values())


def test_each_row_is_on_a_scale_of_its_own_with_the_interval_where_the_verdict_says() -> None:
    (rows,) = drawn(claims_chart(study()), "from_at", "verdict_at", "numbers_at")[:1]
    assert len(rows) == len(STATEMENTS)
    for row in rows.to_dicts():
        assert 0 <= row["from_at"] < row["to_at"] <= 1
        if row["verdict"] == HOLDS:
            assert row["from_at"] <= row["low_at"] <= row["value_at"] <= row["high_at"] <= row["to_at"]
        if row["verdict"] == FAILS:
            assert row["high_at"] < row["from_at"] or row["low_at"] > row["to_at"]
        if row["verdict"] == UNDECIDED:
            assert row["low_at"] < row["from_at"] < row["high_at"] or row["low_at"] < row["to_at"] < row["high_at"]


def test_the_matrix_leaves_out_what_was_tested_nowhere() -> None:
    tested = [claim for place, claim in enumerate(STATEMENTS) if place % 4 != 3]
    assert matrix_table(groups())["claim"].unique(maintain_order=True).to_list() == tested
    text = said(matrix_chart(groups(), ["A", "B", "C", "D"]))
    for words in ("A", "D", STATEMENTS[tested[0]].short):
        assert f">{words}<" in text
    assert STATEMENTS["norm_09"].short not in text


def test_ranges_in_words() -> None:
    assert range_words(0.35, 0.65) == "0.35 to 0.65"
    assert range_words(0.7, None) == "0.7 or more"
    assert range_words(0.0, None) == "above 0"
    assert range_words(None, 2.0) == "2 or less"
    assert claims_table(study())["range"].to_list()[0] == "0.35 to 0.65"
