"""Every chart is valid Vega-Lite that compiles, and draws the numbers it was given."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import altair as alt
import polars as pl
import pytest

from dmcore.charts import picture
from dmcore.charts.baselines import baselines_by_layer_chart, baselines_chart, baselines_table
from dmcore.charts.budget import budget_chart, budget_table
from dmcore.charts.catalogue import catalogue_chart
from dmcore.charts.density import MOST_CELLS, density_chart, frame_cells, mean_actual, panel_table
from dmcore.charts.dimensions import MOST_POINTS, dimensions_chart, dimensions_table
from dmcore.charts.labels import decade_ticks, spread
from dmcore.charts.layers import layers_chart
from dmcore.charts.positions import positions_chart, positions_table, sink
from dmcore.charts.ridge import ridge_chart, ridge_table
from dmcore.charts.schematic import schematic_chart, schematic_table
from dmcore.charts.theme import LINEAR, NONLINEAR, PARTS
from dmcore.charts.variants import variants_chart, variants_table
from dmcore.results import Summary, over_layers, over_widths
from tests.pages.fake_results import fake_published

PUBLISHED = fake_published()
RECORD = PUBLISHED.records.filter((pl.col("layer") == 2) & (pl.col("d_sae") == 1024) & (pl.col("label") == "topk")).row(
    2, named=True
)
SUMMARY: Summary = PUBLISHED.summary(RECORD["summary_key"])
WIDTHS = over_widths(PUBLISHED.records, RECORD)
LAYERS = over_layers(PUBLISHED.records, RECORD)
MANY_DIMS = pl.concat([SUMMARY.dims] * (MOST_POINTS // len(SUMMARY.dims) + 2))
CATALOGUE = pl.DataFrame(
    [("a", 16_384, 20.0), ("a", 16_384, 20.4), ("b", 65_536, 150.0), ("b", None, 8.0), ("c", 1_048_576, None)],
    schema={"release": pl.String, "d_sae": pl.Int64, "l0": pl.Float64},
    orient="row",
)
NEGATIVE = SUMMARY.baselines.with_columns(r2=pl.col("r2") - 0.2)


def by_layer() -> pl.DataFrame:
    return pl.concat(
        PUBLISHED.summary(row["summary_key"]).baselines.with_columns(layer=pl.lit(row["layer"]))
        for row in LAYERS.to_dicts()
    )


CHARTS: dict[str, Callable[[], alt.LayerChart]] = {
    "schematic": lambda: schematic_chart(0.14, 0.1),
    "schematic of a perfect SAE": lambda: schematic_chart(0.0, 0.0),
    "schematic of a dead SAE": lambda: schematic_chart(1.2, 0.0),
    "budget": lambda: budget_chart(WIDTHS, RECORD),
    "budget of one width": lambda: budget_chart(WIDTHS.head(1), WIDTHS.row(0, named=True)),
    "budget without intervals": lambda: budget_chart(
        WIDTHS.with_columns(fvu_low=math.nan, fvu_high=math.nan), RECORD | {"fvu_low": math.nan}
    ),
    "density of norms": lambda: density_chart(SUMMARY.density, "norm_sq"),
    "density of coordinates": lambda: density_chart(SUMMARY.density, "vector"),
    "dimensions": lambda: dimensions_chart(SUMMARY.dims, 0.3, 0.28),
    "many dimensions": lambda: dimensions_chart(MANY_DIMS, 0.3, 0.28),
    "ridge": lambda: ridge_chart(SUMMARY.ridge, 0.0),
    "ridge of a positive penalty": lambda: ridge_chart(SUMMARY.ridge.filter(pl.col("ridge") > 0), 37.0),
    "ridge of one penalty": lambda: ridge_chart(SUMMARY.ridge.filter(pl.col("ridge") == 0), 0.0),
    "variants": lambda: variants_chart(SUMMARY.variants, "skip 8, bias"),
    "positions": lambda: positions_chart(SUMMARY.positions, 8),
    "positions, none skipped": lambda: positions_chart(SUMMARY.positions, 0),
    "baselines": lambda: baselines_chart(SUMMARY.baselines),
    "baselines below zero": lambda: baselines_chart(NEGATIVE),
    "baselines by layer": lambda: baselines_by_layer_chart(by_layer()),
    "layers": lambda: layers_chart(LAYERS, RECORD),
    "one layer": lambda: layers_chart(LAYERS.head(1), LAYERS.row(0, named=True)),
    "catalogue": lambda: catalogue_chart(CATALOGUE),
    "catalogue of one SAE": lambda: catalogue_chart(CATALOGUE.head(1)),
}


def colour_domains(node: Any) -> list[list[str]]:
    """The domain of every nominal colour scale in a spec."""
    if isinstance(node, list):
        return [domain for item in node for domain in colour_domains(item)]
    if not isinstance(node, dict):
        return []
    found = [domain for value in node.values() for domain in colour_domains(value)]
    colour = node.get("color")
    if isinstance(colour, dict) and colour.get("type") == "nominal":
        found.append(colour.get("scale", {}).get("domain"))
    return found


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_valid_compiles_and_is_light(name: str) -> None:
    spec = CHARTS[name]().to_dict(validate=True)
    assert sum(len(rows) for rows in spec["datasets"].values()) < 8000
    drawn = picture.svg(CHARTS[name](), "A question?", "A caption.").decode()
    assert drawn.startswith("<svg")
    assert "A question?" in drawn
    assert "NaN" not in drawn


@pytest.mark.parametrize("name", CHARTS)
def test_a_part_of_the_error_has_its_own_colour_in_every_chart(name: str) -> None:
    for domain in colour_domains(CHARTS[name]().to_dict()):
        assert domain == list(PARTS)


def test_the_budget_stacks_nonlinear_below_linear_up_to_fvu() -> None:
    table = budget_table(WIDTHS)
    for row in WIDTHS.to_dicts():
        here = {r["part"]: r for r in table.filter(pl.col("d_sae") == row["d_sae"]).to_dicts()}
        assert (here[NONLINEAR]["y_low"], here[NONLINEAR]["y_high"]) == (0.0, row["fvu_nonlinear"])
        assert (here[LINEAR]["y_low"], here[LINEAR]["y_high"]) == (row["fvu_nonlinear"], row["fvu"])
    assert set(table["part"]) == {LINEAR, NONLINEAR}


def test_the_schematic_is_to_scale() -> None:
    table = schematic_table(0.2, 0.05)
    shares = {(r["bar"], r["part"]): r["end"] - r["start"] for r in table.to_dicts()}
    assert shares["upper", "kept"] == pytest.approx(0.8)
    assert shares["upper", LINEAR] == pytest.approx(0.15)
    assert shares["lower", LINEAR] == pytest.approx(0.75)
    assert shares["lower", NONLINEAR] == pytest.approx(0.25)


def test_the_ridge_path_is_the_mean_over_folds_and_zero_is_drawn_left_of_the_rest() -> None:
    table = ridge_table(SUMMARY.ridge)
    vector = table.filter(pl.col("metric").str.starts_with("error vector"))
    at_zero = SUMMARY.ridge.filter(pl.col("ridge") == 0)["r2_error"]
    zero = vector.filter(pl.col("ridge") == 0).row(0, named=True)
    assert zero["mean"] == pytest.approx(at_zero.mean())
    assert (zero["low"], zero["high"]) == (at_zero.min(), at_zero.max())
    assert 0 < zero["x"] < vector.filter(pl.col("ridge") > 0)["x"].min()


def test_dimensions_whose_error_is_constant_are_left_out_and_shares_add_up() -> None:
    table = dimensions_table(SUMMARY.dims)
    assert len(table) == len(SUMMARY.dims) - 1
    assert table["share"].sum() == pytest.approx(1.0)
    assert table["r2"].is_sorted(descending=True)


def test_the_mean_actual_value_is_taken_in_linear_space_on_log_axes() -> None:
    cells = pl.DataFrame(
        {
            "predicted_low": [0.0, 0.0],
            "predicted_high": [0.1, 0.1],
            "actual_low": [-0.05, 0.95],
            "actual_high": [0.05, 1.05],
            "count": [90, 10],
        }
    )
    assert mean_actual(cells, log10=True)["actual"][0] == pytest.approx(math.log10(0.9 * 1 + 0.1 * 10))
    assert mean_actual(cells, log10=False)["actual"][0] == pytest.approx(0.1)


def test_framing_a_density_keeps_every_count_and_few_cells() -> None:
    for panel in ("norm_sq", "vector"):
        cells = panel_table(SUMMARY.density, panel)
        frame = frame_cells(cells)
        assert frame.cells["count"].sum() == cells["count"].sum()
        assert len(frame.cells) <= MOST_CELLS
        assert frame.cells["actual_low"].min() >= frame.low - 1e-6
        assert frame.cells["predicted_high"].max() <= frame.high + 1e-6


def test_an_overflow_bin_far_from_the_rest_does_not_stretch_the_axes() -> None:
    edges = pl.DataFrame({"predicted_low": [0.0, 0.1, 0.2], "actual_low": [0.0, 0.1, 0.2], "count": [500, 900, 400]})
    far = pl.DataFrame({"predicted_low": [-2.5], "actual_low": [0.1], "count": [300]})
    cells = pl.concat([edges, far]).with_columns(
        predicted_high=pl.col("predicted_low") + 0.1, actual_high=pl.col("actual_low") + 0.1
    )
    frame = frame_cells(cells)
    assert (frame.low, frame.high) == pytest.approx((0.0, 0.3))
    assert frame.cells["count"].sum() == 2100


def test_panels_are_told_apart() -> None:
    counts = {panel: panel_table(SUMMARY.density, panel)["count"].sum() for panel in ("norm_sq", "vector")}
    assert counts["norm_sq"] + counts["vector"] == SUMMARY.density["count"].sum()
    assert all(counts.values())


def test_positions_keep_the_first_ones_exactly_and_pool_late_ones_by_tokens() -> None:
    table = positions_table(SUMMARY.positions)
    assert table["position"][:32].to_list() == list(range(32))
    assert table["act_norm_sq"][0] == SUMMARY.positions["act_norm_sq"][0]
    assert table["n_tokens"].sum() == SUMMARY.positions["n_tokens"].sum()
    total = (table["error_sq"] * table["n_tokens"]).sum()
    assert total == pytest.approx((SUMMARY.positions["error_sq"] * SUMMARY.positions["n_tokens"]).sum())


def test_position_zero_is_compared_with_a_typical_later_one() -> None:
    assert sink(SUMMARY.positions)["act_norm_sq"] == pytest.approx(220, rel=0.1)
    assert sink(SUMMARY.positions.filter(pl.col("position") > 0)) == {}


def test_every_setting_and_predictor_has_its_row() -> None:
    table = variants_table(SUMMARY.variants)
    assert len(table) == 2 * len(SUMMARY.variants)
    own = table.filter((pl.col("setting") == "skip 8, bias") & (pl.col("metric") == "squared norm")).row(0, named=True)
    assert own["r2"] == pytest.approx(RECORD["r2_error_norm_sq"])
    assert baselines_table(SUMMARY.baselines)["predictor"][0] == "x"


@pytest.mark.parametrize("positions", [[0.0, 0.0, 0.0], [1.0, 0.98, 0.2], [0.1, 0.5, 0.9], [0.5]])
def test_labels_are_moved_apart_in_their_order_and_no_further_than_needed(positions: list[float]) -> None:
    moved = spread(positions, 0.1)
    order = sorted(range(len(positions)), key=lambda k: positions[k])
    gaps = [moved[b] - moved[a] for a, b in pairwise(order)]
    assert all(gap >= 0.1 - 1e-9 for gap in gaps)
    assert sum(moved) == pytest.approx(sum(positions))
    if positions == [0.1, 0.5, 0.9]:
        assert moved == pytest.approx(positions)


def test_ticks_of_a_log_axis_stay_within_its_ends() -> None:
    assert decade_ticks(0.1, 10) == pytest.approx([0.1, 0.2, 0.5, 1, 2, 5, 10])
    assert decade_ticks(0.03, 3e4) == pytest.approx([0.1, 1, 10, 100, 1000, 10000])
