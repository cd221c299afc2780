"""The charts of *Synthetic* are valid Vega-Lite, compile, draw their numbers, survive gaps."""

from __future__ import annotations

from collections.abc import Callable

import altair as alt
import polars as pl
import pytest

from dmcore.charts.known_features import (
    COMPONENT_NAMES,
    ESTIMATE,
    TRUTH,
    agreement_chart,
    agreement_table,
    components_chart,
    components_table,
)
from dmcore.charts.planted import correlation_chart, correlation_table, miss_chart, truth_chart, truth_table
from dmcore.charts.theme import LINEAR, NONLINEAR
from dmcore.results.agreement import less_price
from dmcore.words.synthetic import INGREDIENT_NAMES, levels_texts
from tests.charts import synthetic_tables as fake
from tests.charts.test_inspector_charts import drawn, said

CELLS = fake.cells().filter(noise="gaussian", ablated=0.25).with_columns(what=pl.lit("a cell"))
ONE = fake.correlations().filter(noise="gaussian", ablated=0.0)
SETTING = fake.chosen()
COMPONENTS = fake.components_of(SETTING["setting"])
BY_LEVEL = agreement_table(fake.settings(), INGREDIENT_NAMES, levels_texts(fake.settings(), list(INGREDIENT_NAMES)))
NO_ENDS = fake.NO_INTERVAL.with_columns(what=pl.lit("a cell"))

CHARTS: dict[str, Callable[[], alt.LayerChart]] = {
    "truth": lambda: truth_chart(CELLS),
    "truth, one chosen": lambda: truth_chart(CELLS.with_columns(chosen=pl.col("on_acts") == 1)),
    "truth, one": lambda: truth_chart(CELLS.head(1)),
    "truth without intervals": lambda: truth_chart(NO_ENDS),
    "missed": lambda: miss_chart(CELLS),
    "missed without intervals": lambda: miss_chart(NO_ENDS),
    "correlations": lambda: correlation_chart(ONE),
    "correlations, one": lambda: correlation_chart(ONE.head(1).with_columns(r_low=None, r_high=None)),
    "components": lambda: components_chart(SETTING, COMPONENTS),
    "components, none": lambda: components_chart(SETTING, COMPONENTS.clear()),
    "agreement": lambda: agreement_chart(BY_LEVEL),
    "agreement, one": lambda: agreement_chart(BY_LEVEL.head(2)),
}
TITLES = {
    "truth": [
        "truth (share of the variance of x)",
        "estimate (share of the variance of x)",
        "linear error",
        "nonlinear error",
    ],
    "missed": ["estimate less truth (percentage points)"],
    "correlations": ["noise on x", "noise on Sae(x)", "0.978", "(0.968 to 0.988)"],
    "components": [
        "share of the variance of x",
        ESTIMATE,
        TRUTH,
        *COMPONENT_NAMES.values(),
        "20.0 %  linear error",
        "-2.0 %",
    ],
    "agreement": [
        "share of the settings in which the 95 % interval holds the truth",
        "Tokens a dimension: 16",
        "1,024",
    ],
}


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_valid_and_compiles(name: str) -> None:
    chart = CHARTS[name]()
    spec = chart.to_dict(validate=True)
    assert sum(len(rows) for rows in spec["datasets"].values()) < 8000
    assert spec["autosize"]["type"] == "fit-x"
    text = said(chart)
    assert text.startswith("<svg")
    for wrong in ("NaN", "undefined", ">null<"):
        assert wrong not in text


@pytest.mark.parametrize("name", TITLES)
def test_charts_say_what_they_show_and_in_what_unit(name: str) -> None:
    text = said(CHARTS[name]())
    for words in TITLES[name]:
        assert words in text


def test_a_point_outside_its_interval_is_told_apart_until_the_price_is_taken_off() -> None:
    table = truth_table(CELLS)
    assert len(table) == 2 * len(CELLS)
    assert set(table["part"]) == {LINEAR, NONLINEAR}
    assert set(table.filter(part=NONLINEAR)["verdict"]) == {"outside"}, "2 % too large, intervals of 1 %"
    assert set(truth_table(less_price(CELLS))["verdict"]) == {"in the interval"}
    points = drawn(CHARTS["truth"](), "truth", "found", "ring")[0]
    assert points.filter("ring").height == table.filter(verdict="outside").height


def test_what_is_missed_is_the_estimate_less_the_truth() -> None:
    points = drawn(CHARTS["missed"](), "truth", "found", "ring")[0].filter(part=NONLINEAR)
    expected = 100 * fake.PRICE * CELLS["truth_nonlinear"]
    assert sorted(points["found"].to_list()) == pytest.approx(sorted(expected.to_list()))


def test_components_add_up_to_the_truth_that_is_drawn_above_them() -> None:
    table = components_table(SETTING, COMPONENTS)
    assert table["what"].unique(maintain_order=True).to_list() == [ESTIMATE, TRUTH, *COMPONENT_NAMES.values()]
    for part in (LINEAR, NONLINEAR):
        of_part = table.filter(part=part)
        truth = of_part.filter(what=TRUTH)["share"][0]
        assert of_part.filter(pl.col("what").is_in(list(COMPONENT_NAMES.values())))["share"].sum() == pytest.approx(
            truth
        )
    assert table.filter(what=ESTIMATE)["low"].null_count() == 0


def test_the_agreement_counts_every_setting_once_an_ingredient() -> None:
    assert len(BY_LEVEL) == 2 * sum(len(fake.settings()[name].unique()) for name in INGREDIENT_NAMES)
    by_name = BY_LEVEL.filter(part=LINEAR).group_by("ingredient").agg(pl.col("n").sum())
    assert set(by_name["n"]) == {len(fake.settings())}
    tokens = BY_LEVEL.filter(ingredient="Tokens a dimension", part=NONLINEAR)
    assert tokens["inside"].to_list() == [0.0, 0.0, 1.0, 1.0]
    assert tokens["ratio"].to_list() == pytest.approx([1.02] * 4)


def test_the_correlations_are_named() -> None:
    table = correlation_table(ONE)
    assert table.filter(planted="noise on x", found=LINEAR)["r"].to_list() == [0.978]
    assert len(table) == 4
