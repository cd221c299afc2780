"""The charts of the page *Scaling* are valid Vega-Lite, compile, draw the numbers they were given, and survive gaps."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from itertools import pairwise

import altair as alt
import polars as pl
import pytest

from dmcore.charts import extrapolation, picture
from dmcore.charts.depth import constancy_chart, depth_chart, depth_table, exponents_chart, same_tokens_chart
from dmcore.charts.latents import latents_chart, latents_table
from dmcore.charts.laws import law_chart, law_table
from dmcore.charts.norm_tests import named, norm_tests_chart, norm_tests_table
from dmcore.charts.pairs import pairs_chart, pairs_table
from dmcore.charts.panels import Panel, Panels
from dmcore.charts.slices import slices_chart, slices_table
from dmcore.charts.sparsity import sparsity_chart, sparsity_table
from dmcore.charts.surface import merged, surface_chart, surface_table
from dmcore.charts.theme import ABSENT, ENCODER, LINEAR, NONLINEAR
from dmcore.charts.token_lines import token_lines_chart, token_lines_table
from dmcore.charts.token_strip import token_strip_chart, token_strip_table
from tests.charts import scaling_tables as fake

DEPTH_RESIDUAL = fake.DEPTH.filter(pl.col("stream") == "residual")

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
CHARTS |= {
    "surface": lambda: surface_chart(fake.CELLS, fake.ISOLINES, fake.SITE, fake.SELECTED),
    "surface of one SAE": lambda: surface_chart(
        fake.CELLS.head(0), fake.ISOLINES.head(0), fake.SITE.head(1), fake.SITE["sae"][0], "r2_error"
    ),
    "pairs": lambda: pairs_chart(fake.pairs_table(), fake.MEMBERS),
    "pairs of two widths": lambda: pairs_chart(fake.pairs_table(), fake.MEMBERS.head(2), "closed"),
    "slices": lambda: slices_chart(fake.slices_table()),
    "slices without most numbers": lambda: slices_chart(fake.slices_table(), "position"),
    "norm tests": lambda: norm_tests_chart(named(fake.norm_tests_table(), fake.SITE["sae"]), fake.SITE, fake.SELECTED),
    "norm tests of one SAE": lambda: norm_tests_chart(
        named(fake.norm_tests_table().head(12), fake.SITE["sae"]), fake.SITE, None
    ),
}
CHARTS |= {
    "sparsity": lambda: sparsity_chart(fake.ARCHITECTURES, selected=fake.ARCHITECTURES["sae"][2]),
    "sparsity of one SAE": lambda: sparsity_chart(fake.ARCHITECTURES.head(1), "fvu"),
    "sparsity of R2": lambda: sparsity_chart(fake.ARCHITECTURES, "r2_error"),
    "depth": lambda: depth_chart(depth_table(fake.DEPTH, 60), selected=fake.DEPTH["sae"][13]),
    "depth of one stream": lambda: depth_chart(depth_table(DEPTH_RESIDUAL, 60, "none", "fvu"), "fvu"),
    "depth of one SAE": lambda: depth_chart(depth_table(fake.DEPTH.head(1), 60)),
    "exponents": lambda: exponents_chart(fake.over_sites()),
    "constancy": lambda: constancy_chart(fake.over_sites()),
    "constancy of one site": lambda: constancy_chart(fake.over_sites().tail(1)),
    "same tokens": lambda: same_tokens_chart(fake.over_sites().filter(pl.col("metric") == "fvu")),
    "latents": lambda: latents_chart(fake.latents_table()),
    "latents with negative slopes": lambda: latents_chart(fake.latents_table(negative=True)),
    "latents, one": lambda: latents_chart(fake.latents_table().head(1)),
}


TITLES: dict[str, list[str]] = {
    "laws": ["dictionary width (latents", "FVU (share of the activation's variance)"],
    "budget": ["dictionary width (latents", "FVU (share of the activation's variance)"],
    "strip": ["relative norm of the error"],
    "surface": ["dictionary width (latents", "L0 (active latents per token, log scale)", "FVU (share"],
    "pairs": ["source width (latents)", "target width (latents)", "held-out R² of the target's |e|"],
    "slices": [
        "mean squared norm / average over all",
        "nonlinear share of the squared norm",
        "50 %",
    ],
    "norm tests": ["held-out R² of |quantity|²", "from x", "from itself", "Sae(x) + nonlinear error"],
    "sparsity": ["L0 (active latents per token, log scale)", "nonlinear FVU (share of the variance)"],
    "depth": ["layer", "nonlinear FVU (share of the variance)", "MLP output"],
    "exponents": ["layer", "exponent m of FVU"],
    "constancy": ["layer", "nonlinear FVU, widest / narrowest SAE"],
    "same tokens": ["layer", "held-out R², widest |e| from narrowest |e|"],
    "latents": ["mean value where active × norm of its decoder row", "share of tokens on which the latent is active"],
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


def test_a_click_on_the_surface_picks_an_sae() -> None:
    chart = surface_chart(fake.CELLS, fake.ISOLINES, fake.SITE, fake.SELECTED)
    assert params(chart) == {"pick": ["sae"]}
    spec = chart.to_dict()
    views = spec["params"][0]["views"]
    assert [layer["mark"]["type"] for layer in spec["layer"] if layer.get("name") in views] == ["circle"]


def test_a_cell_of_the_surface_names_the_nearest_sae() -> None:
    spec = surface_chart(fake.CELLS, fake.ISOLINES, fake.SITE, None).to_dict()
    cells = pl.DataFrame(next(rows for rows in spec["datasets"].values() if "width_low" in rows[0]))
    assert len(cells) == len(fake.CELLS)
    first = cells.sort("width_low", "l0_low").row(0, named=True)
    assert first["sae"] == fake.SITE.sort("d_sae", "l0")["sae"][0]
    assert cells.sort("width_low", "l0_low")["sae"][-1] == fake.SITE.sort("d_sae", "l0")["sae"][-1]


def test_the_surface_has_every_sae_with_a_value_and_of_one_metric() -> None:
    table = surface_table(
        fake.SITE.with_columns(r2_error=pl.when(pl.col("d_sae") > 20_000).then("r2_error")), "r2_error"
    )
    assert len(table) == len(fake.SITE) - len(fake.L0S)
    assert set(table["value"]) == set(fake.SITE.filter(pl.col("d_sae") > 20_000)["r2_error"])


def test_many_cells_are_merged_into_fewer_that_cover_the_same_ground() -> None:
    cells, _ = fake.surface_tables(70)
    few = merged(cells)
    assert len(few) == 35 * 35
    for column, end in (("width_low", "min"), ("width_high", "max"), ("l0_low", "min"), ("l0_high", "max")):
        assert getattr(few[column], end)() == getattr(cells[column], end)()
    assert few["value"].mean() == pytest.approx(cells["value"].mean())


def test_pairs_are_of_the_set_and_named_by_their_widths() -> None:
    table = pairs_table(fake.pairs_table(), fake.MEMBERS.head(3), "spearman")
    assert len(table) == 6
    numbers = dict(zip(fake.MEMBERS["d_sae"], fake.MEMBERS["sae"], strict=True))
    for row in table.to_dicts():
        ids = (pl.col("source") == numbers[row["source_width"]]) & (pl.col("target") == numbers[row["target_width"]])
        assert row["value"] == fake.pairs_table().filter(ids)["spearman"][0]


def test_every_cell_of_the_pairs_prints_its_number() -> None:
    drawn = picture.svg(CHARTS["pairs"](), "A question?", "A caption.").decode()
    table = pairs_table(fake.pairs_table(), fake.MEMBERS)
    for value in table["value"].unique():
        assert f">{value:.2f}<" in drawn


def test_slices_keep_their_order_and_their_empty_groups() -> None:
    slices = fake.slices_table()
    table = slices_table(slices, "class")
    own = slices.filter(pl.col("by") == "class")
    assert table["group"].unique(maintain_order=True).to_list() == own.sort("order")["group"].to_list()
    linear = table.filter((pl.col("part") == LINEAR) & (pl.col("measure") == "ratio"))
    assert linear["value"].to_list() == own.sort("order")["linear_ratio"].to_list()
    drawn = picture.svg(CHARTS["slices"](), "A question?", "A caption.").decode()
    assert "line breaks (24,000 tokens)" in drawn


def test_norm_tests_name_their_saes_and_drop_nothing() -> None:
    tests = named(fake.norm_tests_table(), fake.SITE["sae"])
    table = norm_tests_table(tests, fake.SITE)
    assert len(table) == len(tests)
    assert table["r2"].to_list() == tests["r2"].to_list()
    assert table["r2"].min() == -7.0
    widths = dict(zip(fake.SITE["sae"], fake.SITE["d_sae"], strict=True))
    assert all(widths[row["sae"]] == row["d_sae"] for row in table.to_dicts())
    spec = norm_tests_chart(tests, fake.SITE, fake.SELECTED).to_dict()
    dots = [row for rows in spec["datasets"].values() for row in rows if "outside" in row and not row["chosen"]]
    assert len(dots) == len(tests) - 12
    assert sum(row["outside"] for row in dots) == 2


def test_sparsity_draws_every_sae_of_the_width() -> None:
    table = sparsity_table(fake.ARCHITECTURES, "fvu")
    assert sorted(table["value"]) == sorted(fake.ARCHITECTURES["fvu"])


def test_depth_takes_the_nearest_l0_of_each_site_and_width() -> None:
    table = depth_table(fake.DEPTH, 55)
    assert len(table) == len(fake.DEPTH) / 2
    assert (table["l0"] > 40).all()
    assert (depth_table(fake.DEPTH, 3)["l0"] < 30).all()
    row = table.row(0, named=True)
    assert row["value"] == fake.DEPTH.filter(pl.col("sae") == row["sae"])["fvu_nonlinear"][0]


def test_depth_takes_the_asked_architecture_where_a_site_has_it() -> None:
    other = fake.records([fake.record(16_384, 60.0, 9, label="topk"), fake.record(16_384, 60.0, 9)] * 1)
    lone = fake.records([fake.record(16_384, 60.0, 12)])
    table = depth_table(pl.concat([other, lone]), 60, "topk").sort("layer")
    assert table["label"].to_list() == ["topk", "jumprelu"]


def test_numbers_over_layers_are_of_one_law_and_metric_and_gaps_are_left_out() -> None:
    spec = exponents_chart(fake.over_sites()).to_dict()
    drawn = [row for rows in spec["datasets"].values() for row in rows if "text" in row and "y" not in row]
    rows = fake.over_sites().filter((pl.col("metric") == "fvu") & pl.col("m").is_not_null())
    assert sorted(row["value"] for row in drawn) == sorted(rows["m"])


def test_latents_without_numbers_are_left_out() -> None:
    latents = fake.latents_table().with_columns(probe=pl.when(pl.col("latent") > 3).then("probe"))
    table = latents_table(latents)
    assert len(table) == len(latents) - 4
    assert table["frequency"].is_sorted(descending=True)


NULLS = [f"{metric}{end}" for metric in ("fvu", "fvu_nonlinear", "r2_error") for end in ("_low", "_high")]


@pytest.mark.parametrize("gap", [None, math.nan])
def test_charts_of_records_survive_missing_intervals_values_and_long_names(gap: float | None) -> None:
    long = "a/very/long/name/" * 12 + "<b>&amp;"

    def broken(records: pl.DataFrame) -> pl.DataFrame:
        first = pl.int_range(pl.len()) == 0
        return records.with_columns(
            *(pl.lit(gap, dtype=pl.Float64).alias(c) for c in NULLS),
            sae=pl.lit(long) + pl.col("sae"), label=pl.lit(long) + pl.col("label"),
            r2_error=pl.when(first).then(pl.lit(gap, dtype=pl.Float64)).otherwise("r2_error"),
        )  # fmt: skip

    points, site = broken(fake.POINTS), broken(fake.SITE)
    for chart in (
        law_chart(points, fake.CURVES, fake.LAWS, points["sae"][0]),
        extrapolation.budget_chart(points, fake.CURVES, fake.LAWS, points["sae"][0]),
        surface_chart(fake.CELLS, fake.ISOLINES, site, site["sae"][1], "r2_error"),
        sparsity_chart(broken(fake.ARCHITECTURES), "r2_error"),
        depth_chart(depth_table(broken(fake.DEPTH), 60, None, "r2_error"), "r2_error"),
    ):
        chart.to_dict(validate=True)
        assert "NaN" not in picture.svg(chart, "A question?", "A caption.").decode()


def test_charts_of_tables_survive_missing_numbers() -> None:
    def gaps(table: pl.DataFrame, *columns: str) -> pl.DataFrame:
        third = pl.int_range(pl.len()) % 3 == 0
        return table.with_columns(pl.when(third).then(pl.lit(math.nan)).otherwise(pl.col(c)).alias(c) for c in columns)

    for chart in (
        law_chart(
            fake.POINTS, gaps(fake.CURVES, "value", "low", "scatter_low"), gaps(fake.LAWS, "c", "left_out"), None
        ),
        extrapolation.budget_chart(fake.POINTS, gaps(fake.CURVES, "low"), gaps(fake.LAWS, "c"), None),
        surface_chart(gaps(fake.CELLS, "value"), fake.ISOLINES, fake.SITE, None),
        pairs_chart(gaps(fake.pairs_table(), "r2", "r2_low"), fake.MEMBERS),
        slices_chart(gaps(fake.slices_table(), "error_ratio", "nonlinear_ratio_low")),
        norm_tests_chart(named(gaps(fake.norm_tests_table(), "r2", "r2_high"), fake.SITE["sae"]), fake.SITE),
        constancy_chart(gaps(fake.over_sites(), "ratio", "ratio_low")),
        token_lines_chart(gaps(fake.norms_table(), "norm")),
        token_strip_chart(gaps(fake.tokens_table(30), "value")),
        latents_chart(gaps(fake.latents_table(), "frequency")),
    ):
        chart.to_dict(validate=True)
        assert "NaN" not in picture.svg(chart, "A question?", "A caption.").decode()


@pytest.mark.parametrize("floor", [0.02, 0.10, 0.128, 0.14])
def test_every_area_of_the_budget_that_is_not_empty_is_named_once(floor: float) -> None:
    laws = fake.LAWS.with_columns(c=floor)
    table = extrapolation.budget_table(fake.POINTS, fake.CURVES, laws)
    top = table["fvu"].max() * 1.16
    spec = extrapolation.budget_chart(fake.POINTS, fake.CURVES, laws).to_dict()
    rows = [row for data in spec["datasets"].values() for row in data]
    named_parts = [row["text"] for row in rows if "ink" in row] + [row["part"] for row in rows if "foot" in row]
    thick = {
        part: (area["y_high"] - area["y_low"]).max() * extrapolation.HEIGHT / top
        for (part,), area in table.group_by("part")
    }
    assert {part for part, pixels in thick.items() if pixels > 2} <= set(named_parts)
    assert {part for part, pixels in thick.items() if pixels < 1}.isdisjoint(named_parts)
    in_leaders = {(row["part"], row["foot"]) for row in rows if "foot" in row and row["part"] in thick}
    for part, foot in in_leaders:
        area = table.filter(part=part)
        assert area["y_low"].min() <= foot <= area["y_high"].max()


def test_the_budgets_intervals_are_the_wider_of_texts_and_scatter() -> None:
    table = extrapolation.budget_table(fake.POINTS, fake.CURVES, fake.LAWS).filter(~pl.col("measured"))
    curve = fake.CURVES.filter(metric="fvu", space="log", law="power").sort("d_sae").tail(1)
    last = table.sort("d_sae").tail(1)
    assert last["fvu_low"][0] == pytest.approx(min(curve["low"][0], curve["scatter_low"][0]))
    assert last["fvu_high"][0] == pytest.approx(max(curve["high"][0], curve["scatter_high"][0]))


def test_a_picture_has_its_title_and_no_raised_letters() -> None:
    chart = CHARTS["budget"]()
    spec = picture.picture_spec(chart, "What is left?", "c + a·W⁻ᵐ")
    assert spec["title"]["text"] == "What is left?"
    assert spec["title"]["subtitle"] == ["c + a·W^−m"]
