"""The charts of the page *Nonlinear error* are valid Vega-Lite, compile, draw the numbers they were given, survive gaps."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable

import altair as alt
import polars as pl
import pytest

from dmcore.charts import picture
from dmcore.charts.clusters import clusters_chart, clusters_table, silhouettes_chart, silhouettes_table
from dmcore.charts.example_windows import COLUMNS, LEFT, PEAK_AT, RIGHT, example_tokens, windows_chart, windows_table
from dmcore.charts.histogram import deciles_table, histogram_chart, histogram_table
from dmcore.charts.latent_scatter import scatter_chart, scatter_table
from dmcore.charts.learned import above_table, learned_chart, learned_table
from dmcore.charts.lift import group_lift_chart, group_lift_table, lift_chart, lift_table
from dmcore.charts.parts import DEAD, FVU, parts_chart, parts_table, training_chart, training_table
from dmcore.charts.seeds import seeds_chart, seeds_table
from dmcore.charts.spectrum import overlap_chart, overlap_table, ranks_table, spectrum_chart, spectrum_table
from dmcore.charts.theme import LINEAR, NEUTRAL, NONLINEAR, TOTAL
from tests.charts import inspector_tables as fake

TOKENS = example_tokens(fake.examples(), fake.TEXTS)

CHARTS: dict[str, Callable[[], alt.LayerChart]] = {
    "parts": lambda: parts_chart(fake.saes(), fake.means(), fake.differences()),
    "parts of one SAE": lambda: parts_chart(fake.saes((0,)).head(1), fake.means().head(1), fake.differences().head(0)),
    "training": lambda: training_chart(fake.curves()),
    "training, one point": lambda: training_chart(fake.curves((0,)).filter(pl.col("tokens") > 9e6).head(1)),
    "seeds": lambda: seeds_chart(fake.stability()),
    "seeds, one pair of one part": lambda: seeds_chart(fake.stability((0, 1)).tail(1)),
    "histogram": lambda: histogram_chart(fake.EDGES, fake.COUNTS),
    "histogram of one token": lambda: histogram_chart(fake.EDGES, [0] * 19 + [1]),
    "windows": lambda: windows_chart(TOKENS),
    "windows of one example": lambda: windows_chart(example_tokens(fake.examples(1, 0, 0), fake.TEXTS)),
    "learned": lambda: learned_chart(fake.not_learned()),
    "learned, one latent": lambda: learned_chart(fake.not_learned(2, ("nonlinear",))),
    "scatter": lambda: scatter_chart(fake.latents(), 40),
    "scatter in cells": lambda: scatter_chart(fake.latents(30_000), 40),
    "scatter of one": lambda: scatter_chart(fake.latents(2), 1),
}
NAMED = {1: "quotes after a colon", 978: " \u202eevil and a label that is far longer than a row has room for"}
CLUSTERED = (fake.cluster_tokens(), fake.vocabulary(), "error")
CHARTS |= {
    "spectrum": lambda: spectrum_chart(fake.spectra(), fake.structure_parts()),
    "spectrum of one direction": lambda: spectrum_chart(fake.spectra().head(1), fake.structure_parts().head(0)),
    "overlap": lambda: overlap_chart(fake.overlaps()),
    "overlap at one k": lambda: overlap_chart(fake.overlaps().head(1)),
    "silhouettes": lambda: silhouettes_chart(fake.silhouettes()),
    "silhouettes at one k": lambda: silhouettes_chart(fake.silhouettes().head(1)),
    "clusters": lambda: clusters_chart(fake.clusters(), *CLUSTERED),
    "clusters, one without tokens": lambda: clusters_chart(
        fake.clusters().head(1), CLUSTERED[0].head(0), *CLUSTERED[1:]
    ),
    "lift": lambda: lift_chart(fake.lifted(), NAMED),
    "lift of one": lambda: lift_chart(fake.lifted(1).head(1)),
    "lift of groups": lambda: group_lift_chart(fake.groups()),
    "lift of one group": lambda: group_lift_chart(fake.groups(), "position"),
}


TITLES: dict[str, list[str]] = {
    "parts": ["FVU (share of the part's variance that is left)", "dead latents (share)", "50 %"],
    "training": ["training tokens (log scale)", "FVU on held-out texts (share of the part's variance, log scale)", "10M"],
    "seeds": ["mean cosine of matched latents", "latents matched above 0.9", "random directions", "second moments"],
    "histogram": ["activation of the latent", "tokens (log scale)", "a tenth is beyond"],
    "windows": ["activation of the latent", "largest", "decile 9", "decile 1"],
    "learned": ["share of latents with at least this cosine", "largest cosine with a direction", "random, 95 %", "base"],
    "scatter": ["share of tokens on which the latent is active (log scale)", "mean activation where active", "latent 40"],
    "scatter in cells": ["latents (log scale)", "mean activation where active (log scale)", "latent 40"],
    "spectrum": ["number of directions, the largest first (log scale)", "share of the part's variance", "effective rank"],
    "overlap": ["number of directions k (log scale)", "overlap of two halves of the texts", "chance, k / d"],
    "silhouettes": ["number of clusters k", "mean silhouette", "k = 6", "without clusters"],
    "clusters": ["tokens of the cluster", "812 (44 %)", "commonest tokens"],
    "lift": ["lift where the error is most nonlinear (log scale)", "latent 1955", "as often as anywhere"],
}  # fmt: skip
"""Words that a chart must say."""


def drawn(chart: alt.LayerChart, *columns: str) -> list[pl.DataFrame]:
    """The data sets of a chart's spec that have all of some columns."""
    sets = chart.to_dict()["datasets"].values()
    return [pl.DataFrame(rows, infer_schema_length=None) for rows in sets if rows and set(columns) <= set(rows[0])]


def said(chart: alt.LayerChart) -> str:
    """All that is written on a chart."""
    return html.unescape(picture.svg(chart, "A question?", "A caption.").decode())


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_valid_and_compiles(name: str) -> None:
    chart = CHARTS[name]()
    spec = chart.to_dict(validate=True)
    assert sum(len(rows) for rows in spec["datasets"].values()) < 8000
    assert spec["autosize"]["type"] == "fit-x"
    text = said(chart)
    assert text.startswith("<svg")
    assert "NaN" not in text
    assert "undefined" not in text
    assert ">null<" not in text


@pytest.mark.parametrize("name", TITLES)
def test_charts_say_what_they_show_and_in_what_unit(name: str) -> None:
    text = said(CHARTS[name]())
    for words in TITLES[name]:
        assert words in text


def test_parts_have_a_bar_of_the_mean_and_a_dot_a_seed_and_measure() -> None:
    table = parts_table(fake.saes(), fake.means())
    means = table.filter(pl.col("seed").is_null())
    assert means["part"].to_list() == ["activation x", TOTAL, LINEAR, NONLINEAR]
    assert means["value"].to_list() == fake.means()["fvu"].to_list()
    own = table.filter(pl.col("seed").is_not_null())
    assert sorted(own.filter(measure=FVU)["value"]) == sorted(fake.saes()["fvu"])
    assert sorted(own.filter(measure=DEAD)["value"]) == sorted(fake.saes()["dead_share"])
    bars, dots = drawn(CHARTS["parts"](), "against")[0], drawn(CHARTS["parts"](), "seed", "measure", "at")
    assert (bars["x"] / bars["value"]).to_list() == pytest.approx([1.0] * 4)
    assert any(sorted(d["value"]) == sorted(own["value"]) for d in dots)


def test_paired_differences_are_told_from_both_sides() -> None:
    rows = fake.differences().filter((pl.col("part") == "nonlinear") & (pl.col("other") == "x"))
    bars = drawn(parts_chart(fake.saes(), fake.means(), rows), "against")[0]
    told = dict(zip(bars["part"], bars["against"], strict=True))
    assert told[NONLINEAR] == "0.500 (0.490 to 0.510) above activation x"
    assert told["activation x"] == f"-0.500 (-0.510 to -0.490) above {NONLINEAR}"
    assert told[LINEAR] == "none"


def test_training_leaves_out_what_a_log_axis_cannot_show() -> None:
    table = training_table(fake.curves())
    kept = fake.curves().filter(pl.col("tokens") > 0)
    assert sorted(table["fvu"]) == sorted(kept["fvu"])
    assert len(kept) < len(fake.curves())
    lines = drawn(CHARTS["training"](), "l0", "seed")[0]
    assert len(lines.select("part", "seed").unique()) == 12


def test_seeds_draw_every_pair_and_every_baseline() -> None:
    table = seeds_table(fake.stability())
    for measure in ("mean_cosine", "share_above_07", "share_above_09"):
        for kind, prefix in (("matched", ""), ("random", "random_"), ("shaped", "shaped_")):
            own = table.filter(measure=measure, kind=kind)["value"]
            assert own.to_list() == fake.stability()[f"{prefix}{measure}"].to_list()
    dots = [d for d in drawn(CHARTS["seeds"](), "first", "second", "at", "x") if "kind" in d.columns]
    assert [len(d) for d in dots] == [3 * 3 * 4]


def test_a_histogram_has_its_counts_and_the_deciles_split_them() -> None:
    table = histogram_table(fake.EDGES, fake.COUNTS)
    assert table["tokens"].to_list() == fake.COUNTS.tolist()
    assert table["high"][:-1].to_list() == table["low"][1:].to_list()
    even = deciles_table(histogram_table([0.0, 1.0, 2.0], [50, 50]))
    assert even["activation"].to_list() == pytest.approx([0.2 * k for k in range(1, 10)])
    gap = deciles_table(histogram_table([0.0, 1.0, 2.0, 3.0], [90, 0, 10]))
    assert gap["activation"].to_list() == pytest.approx([k / 9 for k in range(1, 10)])
    bars = drawn(CHARTS["histogram of one token"](), "foot", "tokens")[0]
    assert bars["tokens"].to_list() == [1]


def test_windows_line_up_at_the_token_of_the_example() -> None:
    table = windows_table(TOKENS)
    peaks = table.filter("peak")
    assert set(peaks["start"]) == {PEAK_AT}
    assert peaks["line"].n_unique() == len(peaks) == 12 + 9 * 2
    assert peaks["activation"][0] == pytest.approx(7.3)
    assert table["start"].min() >= LEFT
    assert table["end"].max() <= COLUMNS - RIGHT
    for line in table.partition_by("line"):
        assert (line["start"][1:] == line["end"][:-1]).all()
        assert line["position"].to_list() == list(range(line["position"][0], line["position"][0] + len(line)))
        assert line["example"].n_unique() == 1
    groups = [g for g in table["group"].unique(maintain_order=True) if g]
    assert groups == ["largest", *(f"decile {k}" for k in range(9, 0, -1))]


def test_windows_where_only_the_tokens_of_the_examples_have_a_value_have_no_legend() -> None:
    alone = TOKENS.with_columns(activation=pl.when("peak").then("activation"))
    chart = windows_chart(alone, title="cosine", first="nearest")
    assert "nearest" in said(chart) and "largest" not in said(chart)
    legends = {
        name: '"legend": {' in json.dumps(one.to_dict())
        for name, one in (("all", CHARTS["windows"]()), ("alone", chart))
    }
    assert legends == {"all": True, "alone": False}
    shown = [set(rows["token"]) for rows in drawn(chart, "token", "middle")]
    assert set(windows_table(TOKENS)["token"]) == set().union(*shown), "tokens without a value are written too"


def test_the_tokens_of_windows_keep_their_text_place_and_activation() -> None:
    example = fake.examples()[1]
    own = TOKENS.filter(pl.col("example") == 1)
    assert own["text"].to_list() == [fake.TEXTS[t] for t in example.tokens.tolist()]
    assert own["activation"].to_list() == pytest.approx(example.activations.tolist())
    assert own.filter("peak")["position"].to_list() == [example.position]
    assert TOKENS.filter("peak")["activation"].to_list() == [e.activation for e in fake.examples()]
    boxes = drawn(CHARTS["windows"](), "token", "value", "middle")[0]
    assert "·the" in set(boxes["token"])
    assert not any("\u202e" in t or "\n" in t for t in boxes["token"])


def test_the_lines_of_what_is_learned_are_shares_of_latents_at_least_so_near() -> None:
    rows = fake.not_learned()
    table = learned_table(rows)
    for (part, against), line in table.group_by("part", "against"):
        raw = {v: k for k, v in {"error": TOTAL, "linear": LINEAR, "nonlinear": NONLINEAR}.items()}[part]
        cosine = rows.filter(part=raw, against=against)["cosine"].drop_nulls().cast(pl.Float64)
        for value, share in line.select("cosine", "share").rows()[::17]:
            assert share == pytest.approx((cosine >= value).mean(), abs=1e-9)
    lines = drawn(CHARTS["learned"](), "cosine", "share", "x")[0].group_by("part", "against").agg(pl.col("share"))
    assert all(shares[0] == 1 and shares[-1] == 0 for shares in lines["share"].to_list())
    above = above_table(rows)
    one = rows.filter(part="linear", against="base").drop_nulls("cosine")
    share = above.filter(part=LINEAR, against="base")["share"][0]
    assert share == (one["cosine"] > one["baseline_95"]).mean()
    assert f"linear {100 * share:.0f} %" in said(CHARTS["learned"]())


def test_many_latents_are_counted_in_cells_and_each_once() -> None:
    many = fake.latents(30_000)
    table = scatter_table(many)
    assert table["latents"].sum() == 30_000 - 1
    assert len(table) < 2560
    inside = pl.col("frequency").is_between(pl.col("left") * 0.999, pl.col("right") * 1.001)
    assert table.select(inside.all()).item()
    assert scatter_table(fake.latents())["latent"].to_list() == list(range(2999))


@pytest.mark.parametrize("n", [3000, 30_000])
def test_a_click_on_the_scatter_picks_a_latent_and_the_chosen_one_is_ringed(n: int) -> None:
    chart = scatter_chart(fake.latents(n), 40)
    picks = {p["name"]: p["select"]["fields"] for p in chart.to_dict()["params"]}
    assert picks == {"pick": ["latent"]}
    ring = drawn(chart, "text", "frequency")[0]
    row = fake.latents(n).row(40, named=True)
    assert (ring["latent"][0], ring["frequency"][0]) == (40, pytest.approx(row["frequency"]))
    assert not drawn(scatter_chart(fake.latents(n), n - 1), "text", "frequency")


def test_a_spectrum_adds_up_and_its_ranks_lie_on_their_lines() -> None:
    table = spectrum_table(fake.spectra())
    for line in table.partition_by("part"):
        assert line["direction"][0] == 1
        assert line["direction"][-1] == fake.D_MODEL
        assert line["cumulative"][-1] == pytest.approx(1.0)
    whole = fake.spectra().filter(part="error").sort("direction")["share"]
    tenth = table.filter(part=TOTAL, direction=10)["cumulative"][0]
    assert tenth == pytest.approx(whole.head(10).sum())
    for row in ranks_table(fake.spectra(), fake.structure_parts()).to_dicts():
        line = table.filter(part=row["part"])
        below = line.filter(pl.col("direction") <= row["effective_rank"])["cumulative"].max()
        above = line.filter(pl.col("direction") >= row["effective_rank"])["cumulative"].min()
        assert below <= row["cumulative"] <= above


def test_overlaps_silhouettes_and_clusters_are_those_of_their_tables() -> None:
    assert sorted(overlap_table(fake.overlaps())["overlap"]) == sorted(fake.overlaps()["overlap"])
    table = silhouettes_table(fake.silhouettes())
    assert sorted(table["silhouette"]) == sorted(fake.silhouettes()["silhouette"])
    assert (table["null_high"] - table["null_low"]).to_list() == pytest.approx([4 * 0.006] * len(table))
    assert drawn(CHARTS["silhouettes"](), "text", "chosen")[0].select("part", "k").rows() == [(TOTAL, 6)]
    shuffled = fake.clusters().sample(fraction=1.0, shuffle=True, seed=3)
    bars = clusters_table(shuffled, *CLUSTERED)
    assert bars["n_tokens"].to_list() == sorted(fake.SIZES, reverse=True)
    assert bars["share"].sum() == pytest.approx(1.0)
    assert bars["words"][0] == "·the ·cat ↵ ·sat"
    assert clusters_table(shuffled, *CLUSTERED[:2], "nonlinear").is_empty()


def test_lifts_run_from_the_largest_to_the_smallest_and_name_their_latents() -> None:
    table = lift_table(fake.lifted(), NAMED, 5)
    rows = fake.lifted()
    assert table["lift"].is_sorted(descending=True)
    assert table["lift"].max() == rows["lift"].max()
    assert table["lift"].min() == rows["lift"].min()
    assert len(table) == 10
    assert table["name"][0] == "latent 1: quotes·after·a·colon"
    assert "\u202e" not in "".join(table["name"])
    dots = next(d for d in drawn(CHARTS["lift"](), "x_lift", "latent") if len(d) == 24)
    assert dots["x_lift"].to_list() == dots["lift"].to_list()
    assert {p["name"]: p["select"]["fields"] for p in CHARTS["lift"]().to_dict()["params"]} == {"pick": ["latent"]}


def test_a_lift_of_zero_is_drawn_at_the_end_of_its_axis() -> None:
    assert group_lift_table(fake.groups())["lift"].min() == 0
    rows = drawn(CHARTS["lift of groups"](), "x_lift")[0]
    zero = rows.filter(pl.col("lift") == 0)
    assert zero["x_lift"][0] == rows["x_lift"].min() > 0


@pytest.mark.parametrize("gap", [None, math.nan])
def test_charts_survive_missing_numbers_and_long_names(gap: float | None) -> None:
    def gaps(table: pl.DataFrame, *columns: str) -> pl.DataFrame:
        third = pl.int_range(pl.len()) % 3 == 0
        hole = pl.lit(gap, dtype=pl.Float64)
        return table.with_columns(pl.when(third).then(hole).otherwise(pl.col(c)).alias(c) for c in columns)

    fvus = ["fvu", "fvu_low", "fvu_high"]
    long = pl.lit("a/very/long/name/" * 12 + "<b>&amp;")
    for chart in (
        parts_chart(
            gaps(fake.saes(), *fvus, "dead_share"), gaps(fake.means(), *fvus), gaps(fake.differences(), "difference")
        ),
        parts_chart(gaps(fake.saes(), "fvu_low"), gaps(fake.means(), "fvu_low"), fake.differences()),
        training_chart(gaps(fake.curves(), "fvu", "l0")),
        seeds_chart(gaps(fake.stability(), "mean_cosine", "random_mean_cosine", "shaped_share_above_07")),
        windows_chart(gaps(TOKENS, "activation")),
        learned_chart(gaps(fake.not_learned(), "cosine").with_columns(against=long + pl.col("against"))),
        scatter_chart(gaps(fake.latents(), "frequency", "mean_active"), 1),
        scatter_chart(gaps(fake.latents(9000), "frequency", "mean_active"), 1),
        spectrum_chart(gaps(fake.spectra(), "share_low"), gaps(fake.structure_parts(), "effective_rank")),
        overlap_chart(gaps(fake.overlaps(), "overlap", "overlap_least", "chance")),
        silhouettes_chart(gaps(fake.silhouettes(), "silhouette", "null_sd", "null_most")),
        clusters_chart(gaps(fake.clusters(), "mean_position", "decoder_cosine"), *CLUSTERED),
        lift_chart(gaps(fake.lifted(), "lift", "lift_low"), {0: "long " * 50}),
        group_lift_chart(gaps(fake.groups(), "lift_low", "lift_high")),
    ):
        chart.to_dict(validate=True)
        assert "NaN" not in said(chart)


def test_charts_of_rows_without_any_number_are_empty_but_drawn() -> None:
    def none(table: pl.DataFrame, *columns: str) -> pl.DataFrame:
        return table.with_columns(pl.lit(None, dtype=table.schema[c]).alias(c) for c in columns)

    floats = [c for c, dtype in fake.stability().schema.items() if dtype == pl.Float64]
    for chart in (
        parts_chart(
            none(fake.saes(), "fvu", "dead_share"), none(fake.means(), "fvu"), none(fake.differences(), "difference")
        ),
        training_chart(none(fake.curves(), "fvu")),
        seeds_chart(none(fake.stability(), *floats)),
        histogram_chart([0.0] * 21, [0] * 20),
        windows_chart(none(TOKENS, "activation")),
        learned_chart(none(fake.not_learned(), "cosine")),
        scatter_chart(none(fake.latents(), "mean_active"), 3),
        spectrum_chart(none(fake.spectra(), "share"), none(fake.structure_parts(), "effective_rank")),
        overlap_chart(none(fake.overlaps(), "overlap")),
        silhouettes_chart(none(fake.silhouettes(), "silhouette")),
        lift_chart(none(fake.lifted(), "lift")),
        group_lift_chart(none(fake.groups(), "lift")),
    ):
        chart.to_dict(validate=True)
        assert "NaN" not in said(chart)


def test_x_is_neutral_and_parts_have_the_colours_of_the_theme() -> None:
    text = said(CHARTS["parts"]())
    for colour in ("#858585", "#222222", "#0072B2", "#D55E00"):
        assert colour.lower() in text.lower()
    only_x = said(parts_chart(fake.saes().head(3), fake.means().head(1), fake.differences()))
    assert "#D55E00".lower() not in only_x.lower()
    dots = re.findall(r'aria-roledescription="point"[^>]*fill="([^"]*)"', only_x)
    assert len(dots) == 6
    assert {fill.lower() for fill in dots} == {NEUTRAL.lower()}
