"""The charts of *Controls* are valid Vega-Lite, compile, draw their numbers, survive gaps."""

from __future__ import annotations

from collections.abc import Callable

import altair as alt
import polars as pl
import pytest
import vl_convert

from dmcore.charts.controls import (
    ICONS,
    controls_chart,
    controls_table,
    curve_chart,
    curve_table,
    expected_text,
    fine,
    spectra_chart,
    spectra_table,
    value_text,
)
from dmcore.results.controls import GROUPS, VERDICTS
from tests.charts import controls_tables as fake
from tests.charts.test_inspector_charts import drawn, said

CHARTS: dict[str, Callable[[], alt.LayerChart]] = {
    "controls": lambda: controls_chart(fake.controls()),
    "one control": lambda: controls_chart(fake.controls().head(1)),
    "a control without numbers": lambda: controls_chart(fake.controls().filter(name="tokens_r2_error")),
    "curve": lambda: curve_chart(fake.curve(), fake.asymptotes(), "r2_error"),
    "curve of the nonlinear FVU": lambda: curve_chart(fake.curve(), fake.asymptotes(), "fvu_nonlinear"),
    "curve of one point": lambda: curve_chart(fake.curve().tail(1), fake.asymptotes().clear(), "r2_error"),
    "spectra": lambda: spectra_chart(fake.spectra()),
    "spectra of two": lambda: spectra_chart(fake.spectra().head(2)),
}


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_valid_and_compiles(name: str) -> None:
    spec = CHARTS[name]().to_dict()
    vl_convert.vegalite_to_vega(spec)


def test_every_control_is_drawn_with_its_verdict_in_words() -> None:
    table, chart = fake.controls(), controls_chart(fake.controls())
    words = said(chart)
    for row in controls_table(table).to_dicts():
        assert row["title"] in words
        assert row["verdict_text"] == f"{ICONS[row['verdict']]} {row['verdict']}"
    assert all(head in words for head in GROUPS.values())
    shown = {text for data in drawn(chart, "verdict_text") for text in data["verdict_text"]}
    assert shown == {f"{ICONS[v]} {v}" for v in VERDICTS}, "a verdict is not told by colour alone"


def test_band_and_value_are_on_the_scale_of_their_row() -> None:
    data = drawn(controls_chart(fake.controls()), "right", "place", "name")[0]
    rows = {row["name"]: row for row in data.to_dicts()}
    assert len(rows) == len(fake.controls())
    for row in rows.values():
        assert 0 <= row["left"] < row["right"] <= 1
        if row["value"] is None:
            continue
        assert 0 <= row["place_low"] <= row["place"] <= row["place_high"] <= 1
        low = row["expected_low"] if row["expected_low"] is not None else -9
        high = row["expected_high"] if row["expected_high"] is not None else 9
        outside = row["place"] > row["right"] or row["place"] < row["left"]
        assert outside == (not low <= row["value"] <= high) or row["expected_low"] == row["expected_high"], row["name"]
    assert rows["random_fvu"]["right"] == 1 and rows["shuffled_within"]["left"] == 0


@pytest.mark.parametrize(
    ("row", "is_text", "should"),
    [
        (
            (-0.0025, -0.00252, -0.00248, -0.00251, -0.00251, -0.00251, "agrees"),
            "−0.002500 (−0.002520 to −0.002480)",
            "−0.00251",
        ),
        ((1.0, 1.0, 1.0, 1.0, 0.9999, 1.0, "agrees"), "1", "1"),
        ((-1.5e-9, -3e-9, 1e-9, 0.0, -1e-4, 1e-4, "within"), "0", "0 ± 0.0001"),
        ((6.088, 6.004, 6.173, None, 1.0, None, "within"), "6.088 (6.004 to 6.173)", "above 1"),
        ((0.2, 0.18, 0.22, None, -0.004, 0.004, "differs"), "0.200 (0.180 to 0.220)", "not 0 ± 0.004"),
        ((0.2, 0.18, 0.22, None, None, 0.1, "within"), "0.200 (0.180 to 0.220)", "below 0.1"),
        ((7e-5, 7e-5, 7e-5, 0.0, 0.0, 0.00096, "within"), "0.00007", "0 to 0.00096"),
        ((None, None, None, 0.0, -0.00028, 0.00025, "agrees"), "not computed", "−0.00028 to 0.00025"),
    ],
)
def test_numbers_are_rounded_to_what_they_support(row: tuple, is_text: str, should: str) -> None:
    names = ("value", "value_low", "value_high", "expected", "expected_low", "expected_high", "rule")
    given = dict(zip(names, row, strict=True))
    assert (value_text(given), expected_text(given)) == (is_text, should)


def test_a_number_needs_no_sign_at_zero() -> None:
    assert fine(-0.000001, -0.0002, 0.0002) == "0.00000"
    assert fine(None) == "not computed"


def test_points_that_could_not_be_had_are_left_out() -> None:
    assert len(curve_table(fake.curve(), "r2_error")) == 4
    spectra = fake.spectra().with_columns(own=pl.when(pl.col("rank") > 10).then(None).otherwise("own"))
    assert len(spectra_table(spectra)) == 10
