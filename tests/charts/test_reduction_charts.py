"""The charts of *Error reduction* and *Downstream* are valid Vega-Lite, compile, draw their numbers, survive gaps."""

from __future__ import annotations

from collections.abc import Callable

import altair as alt
import polars as pl
import pytest

from dmcore.charts.doses import doses_chart, doses_table
from dmcore.charts.downstream import ABLATIONS, DELTA, KL, NAMES, TOP1, cost_chart, cost_table, whole_sums
from dmcore.charts.earlier import earlier_chart, earlier_table
from dmcore.charts.kept_tasks import tasks_chart, tasks_table
from dmcore.charts.league import KIND_NAMES, featured, league_chart, league_table, removed_text, short_title
from dmcore.charts.ranks import half_rank, ranks_chart, ranks_table
from dmcore.charts.shares import AGAINST, shares_chart, shares_table, widths_words
from dmcore.charts.sparsity import sparsity_chart
from dmcore.charts.theme import LINEAR, NONLINEAR, TOTAL
from dmcore.charts.token_kinds import LOST, RIGHT, kinds_chart, kinds_table
from dmcore.results.downstream import EXACT
from dmcore.results.reduction import CODING, KINDS
from tests.charts import reduction_tables as fake
from tests.charts.test_inspector_charts import drawn, said

OWN = fake.methods().row(0, named=True)
GONE = fake.methods().with_columns(pl.lit(None, pl.Float64).alias(c) for c in ("fvu_low", "fvu_high", "error_removed"))
NO_GAIN = fake.ranks().with_columns(error_removed=-pl.col("error_removed"))
UP = fake.variants().with_columns(pl.when(pl.col("variant") == "sae").then(-0.01).otherwise("delta").alias("delta"))


def over_l0() -> pl.DataFrame:
    tables = [
        fake.methods(l0, (16 / l0) ** 0.4).filter(pl.col("kind").is_in(["encoder", "coding"])).with_columns(
            sae=pl.lit(f"saes/{l0}"), d_sae=pl.lit(1024), label=pl.col("title")
        )
        for l0 in (4.0, 8.0, 16.0)
    ]  # fmt: skip
    return pl.concat(tables)


CHARTS: dict[str, Callable[[], alt.LayerChart]] = {
    "league": lambda: league_chart(featured(fake.methods())),
    "league of the SAE alone": lambda: league_chart(fake.methods().head(1)),
    "league without the SAE": lambda: league_chart(fake.methods().tail(2)),
    "league without intervals": lambda: league_chart(GONE),
    "against L0": lambda: sparsity_chart(over_l0(), "fvu_nonlinear", "saes/16.0", label="method"),
    "ranks": lambda: ranks_chart(fake.ranks(), OWN),
    "ranks, one": lambda: ranks_chart(fake.ranks().head(2), OWN),
    "ranks of a skip that removes nothing": lambda: ranks_chart(NO_GAIN, OWN),
    "earlier": lambda: earlier_chart(fake.regressions()),
    "earlier, one": lambda: earlier_chart(fake.regressions().head(3)),
    "cost": lambda: cost_chart(fake.variants(), fake.sums()),
    "cost without doses": lambda: cost_chart(fake.variants(), fake.sums().clear()),
    "cost of an SAE that lowers the loss": lambda: cost_chart(UP, fake.sums()),
    "doses": lambda: doses_chart(fake.doses()),
    "doses of one part": lambda: doses_chart(fake.doses().head(6)),
    **{f"shares, {name}": lambda name=name: shares_chart(fake.shares(), name, selected="saes/2") for name in AGAINST},
    "shares of KL": lambda: shares_chart(fake.shares(), "norm_sq_share", "kl_recovered"),
    "shares of one SAE": lambda: shares_chart(fake.shares(1), "norm_sq_share", selected="saes/0"),
    "kinds": lambda: kinds_chart(fake.kinds()),
    "tasks": lambda: tasks_chart(fake.tasks(), fake.methods()),
    "tasks of the SAE alone": lambda: tasks_chart(fake.tasks().filter(method="encoder"), fake.methods()),
    "kinds, one": lambda: kinds_chart(fake.kinds().filter(kind="number")),
}

TITLES: dict[str, list[str]] = {
    "league": ["FVU (share of the activation's variance that is left)", "Wider dictionaries at this L0", "nonlinear FVU",
               "removed of", "stream before + MLP + attention + x", "25.0 %", "−15.0 %"],
    "against L0": ["nonlinear FVU (share of the variance), log scale", "L0 (active latents per token, log scale)"],
    "tasks": ["all tokens (3,800)", "clean 50 %", "4.0", "5.0"],
    "ranks": ["rank of the skip (log scale)", "the SAE as it is", "half of what full rank removes: rank 16"],
    "earlier": ["held-out R² (share of the part's variance)", "nonlinear error", "stream before + attention"],
    "cost": ["loss above clean (nats)", "KL from clean (nats)", "same top token", "the mean of x", "6.4 →", "0.200"],
    "doses": ["dose λ: Sae(x) + λ · part", "loss above the clean model's (nats a token)", "the clean model", "1.5"],
    "shares, norm_sq_share": ["share of the error's squared norm", "in proportion", "share recovered of the loss"],
    "shares of KL": ["share recovered of the KL that Sae(x) costs"],
    "kinds": ["next tokens predicted rightly", "percentage points below clean", "word start (17,000)", "the clean model"],
}  # fmt: skip


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


def test_the_league_draws_each_method_with_both_its_errors() -> None:
    methods = fake.methods()
    table = league_table(methods)
    assert table["method"].unique(maintain_order=True).to_list() == methods["method"].to_list()
    for measure, part in (("fvu", TOTAL), ("fvu_nonlinear", NONLINEAR)):
        own = table.filter(measure=measure)
        assert own["value"].to_list() == methods[measure].to_list()
        assert set(own["part"]) == {part}
    assert table.filter(measure="fvu_nonlinear")["removed"].to_list() == methods["nonlinear_removed"].to_list()
    assert set(KIND_NAMES) == set(KINDS)


def test_an_error_far_above_the_others_is_an_arrow_at_the_edge() -> None:
    far = pl.col("method") == "matching_pursuit"
    wild = fake.methods().with_columns(
        pl.when(far).then(pl.col(c) * 20).otherwise(c).alias(c) for c in ("fvu", "fvu_high")
    )
    for methods, beyond in ((fake.methods(), 0), (wild, 1)):
        points = max(drawn(league_chart(featured(methods)), "value", "beyond", "share"), key=len)
        edge = points["value"].max()
        assert points["beyond"].sum() == beyond and edge is not None and float(edge) < 4 * fake.FVU  # type: ignore[arg-type]
        if beyond:
            (arrow,) = points.filter("beyond").to_dicts()
            assert (arrow["method"], arrow["value"]) == ("matching_pursuit", edge)


def test_what_is_kept_of_the_task_is_in_points_below_the_clean_model() -> None:
    table = tasks_table(fake.tasks(), fake.methods())
    assert set(table["kind"]) == {"all", "word start", "punctuation"}, "others have too few tokens"
    row = table.row(by_predicate=(pl.col("method") == "gradient_pursuit") & (pl.col("kind") == "all"), named=True)
    assert [row[name] for name in ("accuracy", "lost", "low", "high")] == pytest.approx([0.48, 2.0, 1.5, 2.5])
    assert table["method"].unique(maintain_order=True).to_list() == [
        "encoder",
        "skip_64",
        "gradient_pursuit",
        "nnls_on_support",
    ]


def test_a_league_chart_leaves_out_ranks_and_pairs_but_no_method() -> None:
    kept = featured(fake.methods())
    assert kept.filter(kind="skip")["method"].to_list() == ["skip_16", "skip_192"]
    assert kept.filter(kind="earlier")["inputs"].to_list() == [*fake.INPUTS[:3], *fake.INPUTS[-2:]]
    assert kept.filter(kind="coding")["method"].to_list() == list(CODING)
    assert len(kept) == 1 + 1 + 2 + 5 + 5 + 1
    assert featured(fake.methods().head(1))["method"].to_list() == ["encoder"]


def test_rows_are_named_by_their_inputs_or_their_title() -> None:
    titles = {row["method"]: short_title(row) for row in fake.methods().to_dicts()}
    assert titles["earlier_previous+mlp+attention+x"] == "stream before + MLP + attention + x"
    assert titles["skip_192"] == "Affine skip, full rank"
    assert (removed_text(-0.1484, -0.15, -0.147), removed_text(None, None, None)) == ("−14.8 %", "not computed")


def test_the_rank_that_does_half_is_the_least_that_does() -> None:
    half = half_rank(fake.ranks())
    assert half is not None
    assert half["rank"] == 16
    assert half["error_removed"] >= fake.SKIP_MOST / 2 > fake.skip_share(8)
    assert half_rank(NO_GAIN) is None
    assert half_rank(fake.ranks().clear()) is None
    assert ranks_table(fake.ranks())["rank"].to_list() == list(fake.RANKS)
    line = drawn(CHARTS["ranks"](), "rank", "removed")[0]
    assert line["rank"].to_list() == list(fake.RANKS[1:])


def test_earlier_components_have_a_bar_a_part() -> None:
    table = earlier_table(fake.regressions())
    assert table["part"][:3].to_list() == [TOTAL, LINEAR, NONLINEAR]
    assert sorted(table["r2"]) == sorted(fake.regressions()["r2"])
    assert table["inputs"][-1] == "stream before + MLP + attention + x"


def test_the_cost_of_each_variant_is_drawn_and_ablations_go_beyond() -> None:
    table = cost_table(fake.variants(), fake.sums())
    assert table["variant"].unique(maintain_order=True).to_list() == list(NAMES)
    for measure, column in ((DELTA, "delta"), (KL, "kl"), (TOP1, "top1")):
        own = dict(table.filter(measure=measure).select("variant", "value").rows())
        told = dict(fake.variants().select("variant", column).rows())
        assert {k: v for k, v in own.items() if k != EXACT} == {k: told[k] for k in NAMES if k != EXACT}
    whole = whole_sums(fake.sums())
    assert whole is not None
    assert (whole["delta"], whole["top1"]) == (pytest.approx(5e-8), 1.0)
    assert whole_sums(fake.sums().clear()) is None
    bars = drawn(CHARTS["cost"](), "beyond", "measure", "foot")[0]
    assert set(bars.filter(pl.col("beyond"))["variant"]) == set(ABLATIONS)
    inside = bars.filter(~pl.col("beyond") & (pl.col("measure") == DELTA))
    lengths = (inside["x"] - inside["foot"]) / inside["value"].clip(1e-9)
    assert lengths.filter(inside["value"] > 1e-3).to_list() == pytest.approx([lengths[0]] * 6)


def test_doses_and_shares_and_kinds_are_those_of_their_tables() -> None:
    assert sorted(doses_table(fake.doses())["delta"]) == sorted(fake.doses()["delta"])
    table = shares_table(fake.shares(), "norm_sq_share", "kl_recovered")
    assert sorted(table["recovered"]) == sorted(fake.shares()["kl_recovered"])
    assert set(table["part"]) == {LINEAR, NONLINEAR}
    assert widths_words(fake.shares()) == "256 to 8,192 latents"
    assert widths_words(fake.shares(1)) == "256 latents"
    kinds = kinds_table(fake.kinds())
    assert "bytes" not in set(kinds["kind"]), "four tokens say nothing"
    assert kinds.filter(measure=RIGHT)["value"].len() == 4 * 4
    lost = kinds.filter(measure=LOST, kind="number", variant="sae").row(0, named=True)
    assert (lost["value"], lost["low"] < lost["value"] < lost["high"]) == (pytest.approx(100 * 0.1 * 0.2 * 3), True)
