"""The tables of laws: their schemas, planted laws in them, and a sentence wherever the data cannot hold a law."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from dmcore.analysis.scaling_laws import LAW_TABLES, constancy_row, law_tables, points_of
from dmcore.analysis.surfaces import surface_tables
from dmcore.math.rival_laws import N_PARAMS, fit_law
from dmcore.results.sae import METRICS
from dmcore.results.scaling import SURFACE_METRICS, TABLES

Tables = dict[str, pl.DataFrame]
WIDTHS = (256, 512, 1024, 2048, 4096)


def fvu(width: float, l0: float) -> float:
    return (0.1 + 2.0 * width**-0.4) * (l0 / 16) ** -0.3


def build_records(points: list[tuple[int, float]], label: str = "topk", **columns: list[Any]) -> pl.DataFrame:
    """Records of one site with a planted law, SAEs by (width, L0); `columns` replace what they name."""
    values = [fvu(width, l0) for width, l0 in points]
    data = {
        "site": ["blocks.2.hook_resid_post"] * len(points),
        "label": [label] * len(points),
        "d_sae": [width for width, _ in points],
        "l0": [l0 for _, l0 in points],
        "fvu": values,
        "fvu_nonlinear": [0.6 * value for value in values],
        "n_contexts": [500] * len(points),
        "r2_error": [0.4] * len(points),
        "r2_error_norm_sq": [0.7 + 0.01 * np.log2(width) for width, _ in points],
        "summary_key": [f"{label}-{width}-{l0}" for width, l0 in points],
    }
    return pl.DataFrame(data | columns)


def build_replicates(records: pl.DataFrame, n: int = 300) -> dict[str, pl.DataFrame]:
    shared, found = np.random.default_rng(0).normal(size=n), {}
    for number, record in enumerate(records.iter_rows(named=True)):
        own = np.random.default_rng([1, number]).normal(size=n)
        noise = np.exp(0.01 * (shared - shared.mean()) + 0.003 * (own - own.mean()))
        columns = {
            metric: pl.Series(record.get(metric, 0.5) * noise if record.get(metric, 0.5) is not None else [None] * n)
            for metric in METRICS
        }
        found[record["summary_key"]] = pl.DataFrame(columns).cast(pl.Float32)
    return found


def tables_of(records: pl.DataFrame) -> Tables:
    found = law_tables(records, build_replicates(records), seed=0)
    assert set(found) == set(LAW_TABLES)
    for name, frame in found.items():
        assert dict(frame.schema) == TABLES[name], name
        for column in frame.select(pl.selectors.float()):
            assert not column.is_nan().any(), f"{name}.{column.name}: what is not there is null"
    return found


def remarks(tables: Tables, topic: str) -> list[str]:
    return tables["remarks"].filter(pl.col("topic") == topic)["text"].to_list()


@pytest.fixture(scope="module")
def grid() -> Tables:
    return tables_of(build_records([(width, l0) for width in WIDTHS for l0 in (8.0, 16.0)]))


def test_saes_at_one_l0_share_a_set_of_one_sae_per_width(grid: Tables) -> None:
    assert grid["targets"]["sae"].to_list() == list(range(10))
    assert grid["targets"]["set"].to_list() == [0, 1] * 5
    for number, l0 in ((0, 8.0), (1, 16.0)):
        members = grid["members"].filter(pl.col("set") == number)
        assert members["d_sae"].to_list() == list(WIDTHS)
        assert members["l0"].unique().to_list() == [l0]
        assert members["sae"].to_list() == list(range(number, 10, 2))


def test_of_twins_of_one_width_and_l0_each_is_in_its_own_set() -> None:
    records = build_records([(width, 16.0) for width in (*WIDTHS[:2], *WIDTHS[1:])])
    twins = records.with_columns(summary_key=pl.Series([f"{i}" for i in range(6)]))
    found = tables_of(twins)
    members = {number: of["sae"].to_list() for (number,), of in found["members"].group_by("set", maintain_order=True)}
    sets = [members[number] for number in found["targets"].sort("sae")["set"]]
    assert sets == [[0, 1, 3, 4, 5], [0, 1, 3, 4, 5], [0, 2, 3, 4, 5], *[[0, 1, 3, 4, 5]] * 3]


def test_with_fewer_contexts_the_same_spread_says_less_against_constancy() -> None:
    points = [(width, 16.0) for width in WIDTHS]
    p = []
    for n_contexts in (8, 500, 100_000):
        records = build_records(points, fvu=[0.2, 0.203, 0.2, 0.198, 0.2], n_contexts=[n_contexts] * 5)
        row = constancy_row(points_of(records, "fvu", build_replicates(records)))
        assert row is not None
        p.append(row["p"])
    assert p[0] > 2 * p[1] > 2 * p[2]


def test_planted_laws_are_in_the_tables(grid: Tables) -> None:
    laws = grid["laws"]
    assert len(laws) == 2 * 2 * 2 * 4
    assert laws.select("set", "metric", "space", "law").is_duplicated().sum() == 0
    for row in laws.filter((pl.col("law") == "power") & (pl.col("metric") == "fvu")).iter_rows(named=True):
        factor = 2**0.3 if row["set"] == 0 else 1.0
        np.testing.assert_allclose([row["c"], row["a"], row["m"]], [0.1 * factor, 2 * factor, 0.4], rtol=1e-6)
        assert row["c_low"] < row["c"] < row["c_high"]
        assert row["m_low"] < row["m"] < row["m_high"]
        assert row["left_out"] == pytest.approx(fvu(4096, 16) * factor, rel=1e-6)
        assert row["left_out_actual"] == pytest.approx(fvu(4096, 16) * factor)
        assert row["left_out_low"] < row["left_out"] < row["left_out_high"]
    assert laws.filter(pl.col("law") == "power_zero")["c"].null_count() == 8
    assert laws.filter(pl.col("law") == "constant")["m"].null_count() == 8
    assert dict(laws.select("law", "n_params").iter_rows()) == N_PARAMS
    assert not remarks(grid, "law")
    assert not remarks(grid, "l0")


def test_curves_are_the_laws_with_their_bands(grid: Tables) -> None:
    curves = grid["curves"]
    assert len(curves) == 33 * len(grid["laws"])
    values = np.array([fvu(width, 16.0) for width in WIDTHS])
    for law in N_PARAMS:
        own = curves.filter(
            (pl.col("set") == 1) & (pl.col("law") == law) & (pl.col("space") == "log") & (pl.col("metric") == "fvu")
        )
        np.testing.assert_allclose(own["d_sae"].to_numpy()[[0, -1]], [256, 16 * 4096])
        expected = fit_law(law, np.array(WIDTHS), values).predict(own["d_sae"].to_numpy())
        np.testing.assert_allclose(own["value"], expected, rtol=1e-6)
        assert (own["low"] <= own["value"]).all()
        assert (own["high"] >= own["value"]).all()
        assert own["scatter_low"].null_count() == (0 if law.startswith("power") else 33)


def test_constancy_and_the_joint_law_are_in_the_tables(grid: Tables) -> None:
    constancy = grid["constancy"]
    assert len(constancy) == 4
    ratio = fvu(4096, 16) / fvu(256, 16)
    np.testing.assert_allclose(constancy["ratio"], ratio, rtol=1e-9)
    assert (constancy["slope"] < 0).all()
    assert (constancy["p"] < 1e-6).all()
    assert (constancy["slope_low"] < constancy["slope"]).all()
    assert (constancy["slope"] < constancy["slope_high"]).all()
    records = build_records([(width, l0) for width in WIDTHS for l0 in (4.0, 8.0, 16.0)])
    records = records.with_columns(fvu=0.04 + 3 * pl.col("d_sae") ** -0.5 * pl.col("l0") ** -0.3)
    joint = tables_of(records)["joint"].row(0, named=True)
    assert (joint["label"], joint["metric"], joint["n_saes"]) == ("topk", "fvu", 15)
    np.testing.assert_allclose([joint[name] for name in "camn"], [0.04, 3, 0.5, 0.3], rtol=1e-5)
    assert joint["left_out_error"] == pytest.approx(0, abs=1e-6)


def test_one_law_is_compared_with_a_law_for_each_l0(grid: Tables) -> None:
    joint = grid["joint"].filter(metric="fvu").row(0, named=True)
    laws = grid["laws"].filter(metric="fvu", space="log", law="power")
    assert joint["n_saes"] == len(grid["targets"]) == int(laws["n_widths"].sum())
    by_hand = len(grid["targets"]) * math.log(laws["rss"].sum() / len(grid["targets"])) + 2 * int(
        laws["n_params"].sum()
    )
    assert joint["aic_separate"] == pytest.approx(by_hand, rel=1e-12)
    # An SAE that no stop holds: the two say nothing of the same points.
    odd = build_records([(w, l0) for w in (256, 512, 1024, 2048, 4096) for l0 in (8.0, 16.0)] + [(512, 12.0)])
    assert tables_of(odd)["joint"]["aic_separate"].null_count() == 2


def test_fewer_than_four_widths_give_a_sentence_that_says_what_can_be_said() -> None:
    records = build_records([(256, 16.0), (1024, 16.0), (4096, 16.0)], fvu=[0.5, 0.3, 0.205], fvu_nonlinear=[0.1] * 3)
    tables = tables_of(records)
    assert tables["laws"].is_empty()
    assert tables["curves"].is_empty()
    assert len(tables["constancy"]) == 2
    assert remarks(tables, "law") == [
        "3 widths: no law with a floor can be fitted to fewer than 4. From 256 to 4,096 latents FVU falls to 0.41 of itself.",
        "3 widths: no law with a floor can be fitted to fewer than 4. From 256 to 4,096 latents nonlinear FVU stays the same.",
    ]
    assert len(remarks(tables, "joint")) == 2
    nought = tables_of(build_records([(256, 16.0), (1024, 16.0)], fvu=[0.5, 0.0]))
    assert remarks(nought, "space") == ["Some FVU is 0 or less and has no logarithm: no law can be fitted."]


def test_one_sae_and_no_sae_give_tables_and_sentences() -> None:
    tables = tables_of(build_records([(256, 16.0)]))
    assert len(tables["members"]) == 1
    assert tables["constancy"].is_empty()
    assert "1 width: no law" in remarks(tables, "law")[0]
    empty = build_records([(256, 16.0)]).clear()
    assert all(frame.is_empty() for frame in tables_of(empty).values())
    assert surface_tables(empty)["surfaces"].is_empty()


def test_four_widths_leave_out_only_what_three_points_can_hold() -> None:
    laws = tables_of(build_records([(width, 16.0) for width in WIDTHS[:4]]))["laws"]
    held = laws.filter(pl.col("left_out").is_not_null())["law"].unique().to_list()
    assert sorted(held) == ["constant", "power_zero"]
    assert laws.filter(pl.col("left_out").is_null())["left_out_actual"].null_count() == 8
    assert laws.filter(pl.col("law") == "power")["m"].null_count() == 0


def test_a_missing_metric_leaves_its_sae_out_and_says_so() -> None:
    for missing in (None, float("nan")):
        points = [(width, 16.0) for width in WIDTHS]
        values = [0.3, missing, 0.26, 0.25, 0.245]
        tables = tables_of(build_records(points, fvu=values))
        assert remarks(tables, "missing") == ["The SAE with 512 latents has no FVU and is left out."]
        counts = dict(tables["laws"].select("metric", "n_widths").unique().iter_rows())
        assert counts == {"fvu": 4, "fvu_nonlinear": 5}


def test_equal_values_and_values_of_nought_are_remarked_on() -> None:
    points = [(width, 16.0) for width in WIDTHS]
    flat = tables_of(build_records(points, fvu=[0.3] * 5))
    assert "FVU is the same at all widths: the law is a constant, without an exponent." in remarks(flat, "law")
    power = flat["laws"].filter((pl.col("law") == "power") & (pl.col("metric") == "fvu"))
    assert power["m"].null_count() == 2
    np.testing.assert_allclose(power["c"], 0.3)
    nought = tables_of(build_records(points, fvu=[0.3, 0.2, 0.1, 0.05, 0.0]))
    assert nought["laws"].filter(pl.col("metric") == "fvu")["space"].unique().to_list() == ["linear"]
    assert remarks(nought, "space") == [
        "Some FVU is 0 or less and has no logarithm: laws are fitted in linear space alone."
    ]
    nothing = tables_of(build_records(points, fvu=[0.0] * 5))
    assert nothing["laws"].filter(pl.col("metric") == "fvu").is_empty()
    negative = tables_of(build_records(points, fvu=[0.3, 0.2, 0.1, -0.1, -0.2]))
    assert len(negative["laws"].filter(pl.col("metric") == "fvu")) == 4


def test_a_set_whose_l0s_differ_is_remarked_on() -> None:
    points = list(zip(WIDTHS, (16.0, 16.0, 17.0, 40.0, 16.0), strict=True))
    assert remarks(tables_of(build_records(points)), "l0") == [
        "L0 differs over these widths: 40 at 2,048 latents, against a median of 16."
    ]


def test_saes_without_paired_replicates_have_intervals_of_the_scatter() -> None:
    records = build_records([(width, 16.0) for width in WIDTHS], fvu=[0.32, 0.27, 0.225, 0.195, 0.17])
    replicates = build_replicates(records)
    replicates["topk-512-16.0"] = replicates["topk-512-16.0"].head(100)
    power = law_tables(records, replicates, seed=0)["laws"].filter(pl.col("law") == "power")
    assert power["m_low"].to_list() == power["m_scatter_low"].to_list()
    assert power["m_low"].null_count() == 0
    assert law_tables(records, {}, seed=0)["constancy"]["p"].null_count() == 2


def test_surfaces_stay_inside_what_was_measured() -> None:
    records = pl.concat(
        [
            build_records([(width, l0) for width in WIDTHS for l0 in (8.0, 16.0, 32.0)]),
            build_records([(256, 16.0), (512, 16.0), (1024, 16.0)], label="gated"),
        ]
    )
    tables = surface_tables(records)
    for name in ("surfaces", "isolines", "remarks"):
        assert dict(tables[name].schema) == TABLES[name]
    surfaces = tables["surfaces"]
    assert surfaces["label"].unique().to_list() == ["topk"]
    assert set(surfaces["metric"]) == set(SURFACE_METRICS)
    assert len(surfaces) == 4 * 40 * 40
    assert surfaces["width_low"].min() == pytest.approx(256)
    assert surfaces["l0_high"].max() == pytest.approx(32, rel=1e-6)
    plane = surfaces.filter(pl.col("metric") == "r2_error_norm_sq")
    centre = (plane["width_low"].log(2) + plane["width_high"].log(2)) / 2
    np.testing.assert_allclose(plane["value"], 0.7 + 0.01 * centre, rtol=1e-5)
    lines = tables["isolines"].filter(pl.col("metric") == "r2_error_norm_sq")
    np.testing.assert_allclose(lines["level"], 0.7 + 0.01 * lines["width"].log(2), rtol=1e-5)
    assert 6 <= lines["level"].n_unique() <= 9
    for (_,), line in lines.group_by("line"):
        assert line["order"].to_list() == list(range(len(line)))
        assert line["level"].n_unique() == 1
    assert tables["isolines"].filter(pl.col("metric") == "r2_error").is_empty()
    assert tables["remarks"].select("label", "topic").rows() == [("gated", "surface")]
