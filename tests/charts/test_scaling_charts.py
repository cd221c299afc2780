"""The charts of the page *Scaling* are valid Vega-Lite, compile, draw the numbers they were given, and survive gaps."""

from __future__ import annotations

import html
from collections.abc import Callable
from itertools import pairwise

import altair as alt
import polars as pl
import pytest

from dmcore.charts import extrapolation, picture
from dmcore.charts.laws import law_chart, law_table
from dmcore.charts.panels import Panel, Panels
from dmcore.charts.theme import ABSENT, ENCODER, LINEAR, NONLINEAR
from dmcore.charts.token_lines import token_lines_chart, token_lines_table
from dmcore.charts.token_strip import token_strip_chart, token_strip_table
from tests.charts import scaling_tables as fake

CHARTS: dict[str, Callable[[], alt.LayerChart]] = {
    "laws": lambda: law_chart(fake.POINTS, fake.CURVES, fake.LAWS, fake.SELECTED),
    "laws of nonlinear, linear axis": lambda: law_chart(
        fake.POINTS, fake.CURVES, fake.LAWS, fake.SELECTED, "fvu_nonlinear", log=False
    ),
    "laws of two widths": lambda: law_chart(fake.POINTS.head(2), fake.NO_CURVES, fake.NO_LAWS, fake.SELECTED),
    "laws of one width": lambda: law_chart(fake.POINTS.head(1), fake.NO_CURVES, fake.NO_LAWS, None),
    "laws, floor at zero": lambda: law_chart(
        fake.POINTS, fake.CURVES, fake.LAWS.with_columns(c=1e-5, c_low=0.0, c_high=None), fake.SELECTED
    ),
}
CHARTS |= {
    "budget": lambda: extrapolation.budget_chart(fake.POINTS, fake.CURVES, fake.LAWS, fake.SELECTED),
    "budget, floor below nonlinear": lambda: extrapolation.budget_chart(
        fake.POINTS, fake.CURVES, fake.LAWS.with_columns(c=0.10), fake.SELECTED
    ),
    "budget with pursuit": lambda: extrapolation.budget_chart(
        fake.POINTS,
        fake.CURVES,
        fake.LAWS.with_columns(c=0.135),
        fake.SELECTED,
        fake.POINTS.select("d_sae", fvu=pl.col("fvu_nonlinear") * 0.75),
    ),
    "budget of three widths": lambda: extrapolation.budget_chart(fake.POINTS.head(3), fake.NO_CURVES, fake.NO_LAWS),
    "budget of one width": lambda: extrapolation.budget_chart(fake.POINTS.head(1), fake.NO_CURVES, fake.NO_LAWS),
}
CHARTS |= {
    "strip": lambda: token_strip_chart(fake.tokens_table(), 17, title="relative norm of the error"),
    "strip of one token": lambda: token_strip_chart(fake.tokens_table(1)),
    "strip without values": lambda: token_strip_chart(fake.tokens_table(8).with_columns(value=pl.lit(None))),
    "strip of 1024 tokens": lambda: token_strip_chart(fake.tokens_table(1024), 3),
}
CHARTS |= {
    "lines": lambda: token_lines_chart(fake.norms_table(), selected=120),
    "lines of a window of one width": lambda: token_lines_chart(fake.norms_table(fake.WIDTHS[:1]), 110, 130, 120),
    "lines of one token": lambda: token_lines_chart(fake.norms_table(), 110, 110),
}


TITLES: dict[str, list[str]] = {
    "laws": ["dictionary width (latents", "share of the activation's variance (FVU)"],
    "budget": ["dictionary width (latents", "share of the activation's variance (FVU)"],
    "strip": ["relative norm of the error"],
    "lines": ["position in the context (tokens)", "relative to the activation's spread"],
}
"""Words that the axes and legends of a chart must say."""


def params(chart: alt.LayerChart) -> dict[str, list[str]]:
    """Fields of every point selection of a chart, by its name."""
    return {p["name"]: p["select"]["fields"] for p in chart.to_dict().get("params", [])}


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_valid_and_compiles(name: str) -> None:
    spec = CHARTS[name]().to_dict(validate=True)
    assert sum(len(rows) for rows in spec["datasets"].values()) < 8000
    drawn = picture.svg(CHARTS[name](), "A question?", "A caption.").decode()
    assert drawn.startswith("<svg")
    assert "NaN" not in drawn
    assert "undefined" not in drawn


@pytest.mark.parametrize("name", TITLES)
def test_axes_say_what_they_show_and_in_what_unit(name: str) -> None:
    drawn = html.unescape(picture.svg(CHARTS[name](), "A question?", "A caption.").decode())
    for words in TITLES[name]:
        assert words in drawn


def test_a_laws_table_has_the_points_and_both_ends_of_the_laws() -> None:
    table = law_table(fake.POINTS, fake.CURVES, fake.LAWS, "fvu")
    measured = table.filter(pl.col("kind") == "measured")
    assert measured["value"].to_list() == fake.POINTS["fvu"].to_list()
    assert measured["low"].to_list() == fake.POINTS["fvu_low"].to_list()
    lines = table.filter(pl.col("kind") == "law")
    assert set(lines["law"]) == {"power", "power_zero", "exponential", "constant"}
    assert lines["d_sae"].min() == fake.WIDTHS[0]
    assert fake.WIDTHS[-1] * 3 < lines["d_sae"].max() <= fake.WIDTHS[-1] * 4.01
    assert table.filter(pl.col("kind") == "floor")["value"].to_list() == [fake.FLOOR]
    assert set(table.filter(pl.col("kind") == "left out")["d_sae"]) == {float(fake.WIDTHS[-1])}


def test_a_laws_table_is_of_one_metric_and_space() -> None:
    other = fake.CURVES.with_columns(space=pl.lit("linear"), value=pl.lit(9.0))
    table = law_table(fake.POINTS, pl.concat([fake.CURVES, other]), fake.LAWS, "fvu_nonlinear")
    assert table["value"].max() < 1
    assert table.filter(pl.col("kind") == "measured")["value"].to_list() == fake.POINTS["fvu_nonlinear"].to_list()


def areas(table: pl.DataFrame, width: float, measured: bool = True) -> dict[str, tuple[float, float]]:
    here = table.filter((pl.col("d_sae") == width) & (pl.col("measured") == measured))
    return {row["part"]: (row["y_low"], row["y_high"]) for row in here.to_dicts()}


@pytest.mark.parametrize("floor", [0.05, 0.11, 0.125, 0.135, 0.5])
@pytest.mark.parametrize("pursuit", [None, 0.75, 1.4])
def test_the_areas_of_the_budget_never_overlap_and_add_up_to_fvu(floor: float, pursuit: float | None) -> None:
    codes = None if pursuit is None else fake.POINTS.select("d_sae", fvu=pl.col("fvu_nonlinear") * pursuit)
    laws = fake.LAWS.with_columns(c=floor)
    table = extrapolation.budget_table(fake.POINTS, fake.CURVES, laws, codes)
    for (width, measured), rows in table.group_by("d_sae", "measured"):
        stack = rows.sort("y_low", "y_high").to_dicts()
        assert stack[0]["y_low"] == 0
        assert stack[-1]["y_high"] == pytest.approx(rows["fvu"][0]), (width, measured)
        assert all(b["y_low"] == pytest.approx(a["y_high"]) for a, b in pairwise(stack))
        assert rows["share_of_variance"].min() >= 0
        assert rows["share_of_variance"].sum() == pytest.approx(rows["fvu"][0])


def test_the_linear_area_is_what_is_left_between_the_floor_and_nonlinear_fvu() -> None:
    row = fake.POINTS.row(1, named=True)
    at = {c: areas(extrapolation.budget_table(fake.POINTS, fake.CURVES, fake.LAWS.with_columns(c=c)), row["d_sae"])
          for c in (0.05, 0.15)}  # fmt: skip
    assert at[0.15][LINEAR] == pytest.approx((row["fvu_nonlinear"], 0.15))
    assert at[0.15][ABSENT] == pytest.approx((0.15, row["fvu"]))
    assert at[0.05][LINEAR] == pytest.approx((row["fvu_nonlinear"], row["fvu_nonlinear"]))
    assert at[0.05][ABSENT] == pytest.approx((row["fvu_nonlinear"], row["fvu"]))


def test_the_budget_follows_the_points_up_to_the_widest_and_the_laws_beyond() -> None:
    table = extrapolation.budget_table(fake.POINTS, fake.CURVES, fake.LAWS)
    measured, beyond = table.filter("measured"), table.filter(~pl.col("measured"))
    assert sorted(set(measured["d_sae"])) == list(fake.WIDTHS)
    assert sorted(set(measured["fvu"])) == sorted(fake.POINTS["fvu"])
    assert beyond["d_sae"].min() == fake.WIDTHS[-1]
    assert beyond["d_sae"].max() == pytest.approx(16 * fake.WIDTHS[-1])
    last = beyond.filter(pl.col("d_sae") == beyond["d_sae"].max()).row(0, named=True)
    assert last["fvu"] == pytest.approx(fake.fvu(16 * fake.WIDTHS[-1]))


def test_without_laws_the_budget_has_no_floor_and_no_extrapolation() -> None:
    table = extrapolation.budget_table(fake.POINTS, fake.NO_CURVES, fake.NO_LAWS)
    assert table["measured"].all()
    assert set(table["part"]) == {LINEAR, NONLINEAR}


def test_pursuit_codes_split_the_nonlinear_area() -> None:
    codes = fake.POINTS.select("d_sae", fvu=pl.col("fvu_nonlinear") * 0.75)
    row = fake.POINTS.row(3, named=True)
    here = areas(extrapolation.budget_table(fake.POINTS, fake.CURVES, fake.LAWS, codes), row["d_sae"])
    assert here[NONLINEAR] == pytest.approx((0.0, 0.75 * row["fvu_nonlinear"]))
    assert here[ENCODER] == pytest.approx((0.75 * row["fvu_nonlinear"], row["fvu_nonlinear"]))


def test_tokens_are_laid_out_in_lines_that_are_not_too_long() -> None:
    tokens = fake.tokens_table(300)
    table = token_strip_table(tokens, 60)
    assert table["position"].to_list() == tokens["position"].to_list()
    assert table["value"].to_list() == tokens["value"].to_list()
    assert table["end"].max() <= 60
    for line in table.partition_by("line"):
        assert line["start"][0] == 0
        assert (line["start"][1:] == line["end"][:-1]).all()
    breaks = tokens.filter(pl.col("text") == "\n")["position"].to_list()
    lines = dict(zip(table["position"], table["line"], strict=True))
    assert breaks
    assert all(lines[at + 1] == lines[at] + 1 for at in breaks if at + 1 in lines)


def test_a_click_on_a_token_can_be_heard() -> None:
    assert params(token_strip_chart(fake.tokens_table(9), 3)) == {"token": ["position"]}
    assert params(token_lines_chart(fake.norms_table(), 110, 130)) == {"token": ["position"]}


def test_one_sink_does_not_leave_all_other_tokens_pale() -> None:
    spec = token_strip_chart(fake.tokens_table(256)).to_dict()
    colours = [layer["encoding"].get("color", {}) for layer in spec["layer"]]
    low, high = next(colour["scale"]["domain"] for colour in colours if colour.get("field") == "value")
    assert low == 0
    assert high < 2


def test_a_window_of_lines_keeps_its_positions_and_norms() -> None:
    norms = fake.norms_table()
    table = token_lines_table(norms, 110, 119)
    assert sorted(set(table["position"])) == list(range(110, 120))
    assert len(table) == 10 * 3 * len(fake.WIDTHS)
    row = table.filter((pl.col("position") == 113) & (pl.col("part") == "linear") & (pl.col("d_sae") == 65_536))
    same = norms.filter((pl.col("position") == 113) & (pl.col("part") == "linear") & (pl.col("d_sae") == 65_536))
    assert row["norm"].to_list() == same["norm"].to_list()


def test_panels_keep_values_inside_their_own_places_and_say_their_own_numbers() -> None:
    panels = Panels([Panel("a", 0.0, 2.0), Panel("b", 1.0, 100.0, log=True)], gap=0.5)
    a, b = panels.panels
    assert (panels.at(a, 0.5), panels.at(a, 9.0)) == pytest.approx((0.25, 1.0))
    assert (panels.at(b, 10.0), panels.at(b, 0.0)) == pytest.approx((2.0, 1.5))
    down = Panels([a, b], downwards=True, gap=0.5)
    assert down.at(a, 0.0) == pytest.approx(1.5)
    table = pl.DataFrame({"panel": ["a", "b", "b"], "v": [1.0, 10.0, None]})
    assert panels.place(table, "panel", at="v")["at"].to_list() == pytest.approx([0.5, 2.0, None])
