"""The charts of detection scores are valid Vega-Lite, compile, and draw the numbers they were given, of parts and of one SAE."""

from __future__ import annotations

import html
import math
from pathlib import Path

import altair as alt
import polars as pl
import pytest

from dmcore.charts import picture
from dmcore.charts.detection import deciles_chart, deciles_table, means_chart, means_table
from dmcore.charts.theme import LINEAR, NEUTRAL, NONLINEAR, TOTAL
from dmcore.explain.compare import beside, difference
from tests.pages.fake_detection import LEVELS, N, detection_of, parts_detections


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    return beside(parts_detections(tmp_path_factory.mktemp("detections")))


def said(chart: alt.LayerChart) -> str:
    return html.unescape(picture.svg(chart, "A question?", "A caption.").decode())


@pytest.mark.parametrize("draw", [deciles_chart, means_chart])
def test_every_chart_is_valid_compiles_and_says_what_it_shows(draw, table: pl.DataFrame, tmp_path: Path) -> None:
    one = beside([detection_of(tmp_path / "one", "nonlinear", 0)])
    asked = beside([detection_of(tmp_path / "asked", "linear", 0, "a model")])
    for shown in (table, one, asked, table.filter(pl.col("seed").is_null())):
        chart = draw(shown)
        spec = chart.to_dict(validate=True)
        assert spec["autosize"]["type"] == "fit-x"
        text = said(chart)
        assert text.startswith("<svg")
        for word in ("NaN", "undefined", ">null<"):
            assert word not in text
    text = said(draw(table))
    for name in ("activation x", TOTAL, LINEAR, NONLINEAR):
        assert name in text
    words = {deciles_chart: ["guessing", "silent", "windows told rightly", "50%"],
             means_chart: ["balanced accuracy", "AUC", "silent windows", "50 %"]}  # fmt: skip
    assert all(word in text for word in words[draw])


def test_a_line_a_part_and_seed_and_a_dashed_one_where_guessing_is(table: pl.DataFrame) -> None:
    rows = deciles_table(table)
    assert rows["part"].unique(maintain_order=True).to_list() == ["activation x", TOTAL, LINEAR, NONLINEAR]
    assert len(rows) == 4 * (1 + 3) * 11
    first = rows.filter((pl.col("part") == LINEAR) & pl.col("seed").is_null())
    assert first["windows"].to_list() == ["silent", *(f"decile {k}" for k in range(1, 11))]
    assert first["n"].to_list() == [3 * (N - 1)] * 11
    layers = deciles_chart(table).to_dict()["layer"]
    dashed = [layer["mark"] for layer in layers if "strokeDash" in layer["mark"]]
    assert dashed[0]["color"] == NEUTRAL


def test_means_are_those_of_the_seeds(table: pl.DataFrame) -> None:
    rows = means_table(table).filter((pl.col("part") == NONLINEAR) & (pl.col("measure") == "balanced_accuracy"))
    mean = rows.filter(pl.col("seed").is_null()).row(0, named=True)
    assert mean["value"] == pytest.approx(rows.drop_nulls("seed")["value"].mean())
    assert mean["low"] < mean["value"] < mean["high"]


def test_scores_without_a_curve_have_no_such_panel(tmp_path: Path) -> None:
    shown = beside([detection_of(tmp_path, "linear", 0, "a model")])
    assert "auc" not in set(means_table(shown)["measure"])
    assert "AUC" not in said(means_chart(shown))


def test_the_difference_of_two_parts_is_over_seeds_and_needs_two(tmp_path: Path) -> None:
    found = parts_detections(tmp_path)
    gap = difference(found, "linear", "nonlinear")
    assert gap.low < LEVELS["linear"] - LEVELS["nonlinear"] < gap.high
    assert gap.low > 0
    one = [each for each in found if each.about["train_seed"] == 0]
    assert math.isnan(difference(one, "linear", "nonlinear").low)
    assert math.isnan(difference(found[:3], "linear", "nonlinear"))
    assert len(beside([])) == 0
