"""The charts of shrinkage and transfer: valid specs that draw what the tables hold, whatever they lack."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import altair as alt
import polars as pl
import pytest

from dmcore.charts.map_shape import (
    alignment_chart,
    alignment_table,
    facts_chart,
    facts_table,
    rows_chart,
    rows_table,
    singular_chart,
    singular_table,
)
from dmcore.charts.shrinkage import ablation_chart, ablation_table, ladder_chart, ladder_table, rank_chart, rank_table
from dmcore.charts.transfer import SHOWN, cell_text, matrix_chart, matrix_table
from dmcore.results.transfer import KEPT
from tests.charts import map_tables as fake

LABELS = ["one", "two <b>x</b>", "three"]
CHARTS: dict[str, tuple[Callable[[pl.DataFrame], alt.LayerChart], Callable[[], pl.DataFrame]]] = {
    "ladder": (ladder_chart, fake.ladder),
    "ranks": (rank_chart, fake.ranks),
    "ablations": (ablation_chart, fake.ablations),
    "facts": (facts_chart, fake.shape),
    "singular": (lambda table: singular_chart(table, 0.05), fake.spectrum),
    "alignment": (lambda table: alignment_chart(table, "data"), fake.alignment),
    "rows": (lambda table: rows_chart(table, "plain"), fake.rows),
    "matrix": (lambda table: matrix_chart(table, LABELS, "map", "r2"), lambda: fake.cells(3)),
}


def drawn(chart: alt.LayerChart) -> dict[str, list[dict[str, Any]]]:
    return chart.to_dict()["datasets"]


def texts(chart: alt.LayerChart) -> str:
    return json.dumps(drawn(chart), ensure_ascii=False)


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_valid_with_all_rows_with_one_and_without_intervals(name: str) -> None:
    chart, table = CHARTS[name]
    whole = table()
    chart(whole).to_dict()
    chart(whole.head(1)).to_dict()
    lost = [pl.lit(None, dtype=pl.Float64).alias(c) for c in whole.columns if c.endswith(("_low", "_high"))]
    chart(whole.with_columns(lost)).to_dict()


def test_the_ladder_says_r2_and_share_of_every_rung() -> None:
    table = ladder_table(fake.ladder())
    assert table["rung"].to_list()[0] == "scale_x" and table["rung"].to_list()[-1] == "full"
    told = texts(ladder_chart(fake.ladder()))
    assert "0.35 (0.33 to 0.37)" in told and "9 % (7 to 11)" in told and '"short": "100 %"' in told


def test_a_rung_without_a_share_has_no_words_for_it() -> None:
    nothing = fake.ladder().with_columns(
        pl.lit(None, dtype=pl.Float64).alias(c) for c in ("share", "share_low", "share_high")
    )
    rows = [row for data in drawn(ladder_chart(nothing)).values() for row in data if "short" in row]
    assert {row["short"] for row in rows} == {""}


def test_rank_zero_is_in_the_table_and_not_on_the_log_axis() -> None:
    assert rank_table(fake.ranks())["rank"].min() == 0
    rows = [row for data in drawn(rank_chart(fake.ranks())).values() for row in data]
    assert min(row["rank"] for row in rows) == 1
    assert {row["line"] for row in rows} == {"rank", "scaled"}


def test_groups_stand_beside_their_share_of_the_variance() -> None:
    table = ablation_table(fake.ablations())
    assert table["group"].unique(maintain_order=True).to_list() == ["1 to 4", "5 to 16", "17 to 64", "65 to 192"]
    assert table.filter(pl.col("what") == "variance")["value"].to_list() == [0.5, 0.2, 0.2, 0.1]
    told = texts(ablation_chart(fake.ablations()))
    assert "10 % (8 to 12)  of the linear part goes" in told and "50.0 %  of x's variance is there" in told


def test_shares_of_the_map_stand_beside_chance() -> None:
    table = facts_table(fake.shape())
    assert table["fact"][0] == "α I: pure shrinkage" and table["chance"].to_list() == [0.01] * 4
    assert "0.10 (0.08 to 0.12)" in texts(facts_chart(fake.shape()))
    assert len(singular_table(fake.spectrum())) == fake.D_MODEL
    assert "pure shrinkage of the same mean slope" in texts(singular_chart(fake.spectrum(), 0.05))
    assert "pure shrinkage" not in texts(singular_chart(fake.spectrum(), None))


def test_alignment_has_a_line_a_side_and_basis_and_chance() -> None:
    assert alignment_table(fake.alignment(), "plain")["line"].n_unique() == 4
    told = texts(alignment_chart(fake.alignment(), "data"))
    assert "read, along x" in told and "written, along decoder rows" in told and "chance, k / d" in told
    assert "decoder" not in texts(alignment_chart(fake.alignment(("x",)), "data"))
    assert rows_table(fake.rows(), "data")["latent"].to_list()[:2] == [7, 14]
    assert "5 % of random ones" in texts(rows_chart(fake.rows(), "data"))


@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize("kept", KEPT)
def test_a_matrix_has_a_number_in_every_cell_and_marks_its_diagonal(kept: str, shown: str) -> None:
    table = matrix_table(fake.cells(3), LABELS, kept, shown)
    assert len(table) == 9 and table.filter(pl.col("own")).select("fitted", "tested").rows() == [(n, n) for n in LABELS]
    chart = matrix_chart(fake.cells(3), LABELS, kept, shown)
    rows = [row for data in drawn(chart).values() for row in data]
    own = {row["words"] for row in rows if row["own"]}
    assert own == {"0.30" if shown == "r2" else "100 %"}
    assert any(row["text"] == ("0.30 (0.28 to 0.32)" if shown == "r2" else "100 % (98 to 102)") for row in rows)
    spec = json.dumps(chart.to_dict()["layer"])
    assert ("slope times" in spec) == (kept == "scaled")


def test_a_cell_below_zero_has_no_colour_but_its_number() -> None:
    rows = [row for data in drawn(matrix_chart(fake.cells(2, -0.5), LABELS[:2], "map", "r2")).values() for row in data]
    off = [row for row in rows if not row["own"]]
    assert {row["shade"] for row in off} == {0.0} and {row["words"] for row in off} == {"−0.50", "−0.51"}
    assert (cell_text(-12.3, "r2"), cell_text(-30.0, "relative"), cell_text(0.456, "relative")) == (
        "−12",
        "< −999 %",
        "46 %",
    )
