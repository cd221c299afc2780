"""The pages *Error reduction* and *Downstream*: findings, views, links, empty states, encoders, hostile text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from dmcore.charts.token_text import visible
from dmcore.figures.league import LEAGUE, league_of
from dmcore.results import Downstream, Reduction, reduction_spec
from dmcore.results.downstream import DOWNSTREAM_TABLES
from dmcore.results.reduction import REDUCTION_TABLES
from dmcore.store.published import open_published
from dmcore.store.store import Store
from dmcore.ui import model_kind, reads
from dmcore.ui.downstream_tokens import worst_rows, worst_tokens
from dmcore.ui.downstream_views import recovered_rows
from dmcore.ui.league_rows import shown
from dmcore.ui.link import write_params
from dmcore.ui.selection import Selection
from dmcore.words.downstream import NO_LOSS, both_sentence, control_sentence, downstream_finding
from dmcore.words.paired import paired_cost
from dmcore.words.reduction import (
    coding_sentence,
    earlier_sentence,
    reduction_finding,
    sample_of,
    skip_sentence,
    task_sentence,
)
from tests.charts import reduction_tables as fake
from tests.charts.inspector_tables import filled as table_of
from tests.pages.conftest import serve
from tests.pages.fake_reduction import (
    ABOUT,
    COST_ABOUT,
    REMARK,
    downstream_tables,
    reduction_tables,
    write_fake_downstream,
    write_fake_reduction,
)
from tests.pages.fake_results import write_fake_study
from tests.pages.fake_scaling import HOSTILE
from tests.pages.test_browser import Watched
from tests.pages.test_pages import ROOT, open_page, params_of, words

REDUCE, COST = (str(ROOT / "pages" / name) for name in ("reduction.py", "downstream.py"))
HAS = "saes/layer_2_residual/width_1024_topk_l0_16"
"""The SAE of the made-up study that has results of both kinds, though its own L0 ends in .98."""
CHARTS = {(REDUCE, "reduce", "methods"): 1, (REDUCE, "reduce", "all"): 1, (REDUCE, "reduce", "ranks"): 1,
          (REDUCE, "reduce", "earlier"): 1, (REDUCE, "reduce", "tasks"): 1, (COST, "cost", "cost"): 1, (COST, "cost", "doses"): 1,
          (COST, "cost", "shares"): 1, (COST, "cost", "kinds"): 1, (COST, "cost", "tokens"): 1}  # fmt: skip


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reduction")
    write_fake_study(root)
    for name in (HAS, "saes/layer_2_residual/width_1024_topk_l0_8"):
        write_fake_reduction(root, record_of(root, name)["summary_key"])
        write_fake_downstream(root, record_of(root, name)["summary_key"])
    write_fake_downstream(root, record_of(root, "saes/layer_2_residual/width_4096_topk_l0_16")["summary_key"])
    return root


@pytest.fixture
def cache(filled: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DMCORE_CACHE", str(filled))
    reads.forget()
    yield filled
    reads.forget()


def record_of(cache: Path, name: str) -> dict[str, Any]:
    return open_published("demo", Store(cache)).records.filter(sae=name).row(0, named=True)


def opened(cache: Path, page: str, name: str = HAS, **params: str) -> AppTest:
    at = open_page(page, **write_params("demo", record_of(cache, name)), **params)
    assert not at.exception
    return at


def n_charts(at: AppTest) -> int:
    return len(at.get("arrow_vega_lite_chart") or at.get("vega_lite_chart"))


def finding_of(at: AppTest) -> str:
    return next(m.value for m in at.markdown if m.value.startswith("### ")).replace("\xa0", " ")


@pytest.mark.parametrize(("page", "field", "view"), CHARTS)
def test_every_view_draws_and_is_in_the_link(cache: Path, page: str, field: str, view: str) -> None:
    at = opened(cache, page, **{field: view})
    assert not at.error
    assert n_charts(at) == CHARTS[page, field, view]
    assert "no rows for this chart" not in words(at)
    assert params_of(at)[field] == view
    assert finding_of(at)[4:]


def test_the_pages_open_with_what_was_found(cache: Path) -> None:
    found = finding_of(opened(cache, REDUCE))
    assert (
        "orthogonal matching pursuit removes 25.0 % (24.6 to 25.4) of the error, and 25.0 % (24.7 to 25.3) of its nonlinear part"
        in found
    )
    assert "An affine skip removes 33.3 % (32.9 to 33.7) of the error, all of it linear; rank 16 of 192" in found
    found = finding_of(opened(cache, REDUCE, reduce="earlier"))
    assert "explain 9.0 % (8.8 to 9.2) of the nonlinear error" in found
    found = finding_of(opened(cache, COST))
    assert "the loss rises from 2.60 by 0.200 (0.190 to 0.210) nats a token" in found
    assert "recovers 30.0 % (28.7 to 31.3) of that, the nonlinear error 80.0 % (78.7 to 81.3)" in found


def test_the_league_has_wider_saes_and_the_loss_where_it_was_measured(cache: Path) -> None:
    at = opened(cache, REDUCE)
    (table,) = [frame.value for frame in at.dataframe]
    table = table.set_index("method")
    assert table.loc["The SAE as it is", "loss_recovered"] == pytest.approx(100 * (1 - 0.2 / 6.4))
    assert table.loc["Affine skip, full rank", "loss_recovered"] == pytest.approx(100 * (1 - 0.14 / 6.4))
    assert table.loc["4,096 latents in place of 1,024", "loss_recovered"] == pytest.approx(100 * (1 - 0.2 / 6.4))
    assert int(table["loss_recovered"].count()) == 3
    assert "2,048 latents in place of 1,024" in table.index
    assert REMARK not in words(at), "a remark is no HTML"
    assert "add one and sweep it to compare" in words(at)


def test_the_league_of_all_is_filtered_by_method(cache: Path) -> None:
    whole = opened(cache, REDUCE, reduce="all")
    one = opened(cache, REDUCE, reduce="all", method="gradient_pursuit")
    assert len(whole.dataframe[0].value) == 2 * len(fake.methods().filter(pl.col("kind") != "wider"))
    assert one.dataframe[0].value["method"].to_list() == ["Gradient pursuit"] * 2
    assert "2 of the study's" in words(whole)
    assert params_of(opened(cache, REDUCE, reduce="all", left="fvu"))["left"] == "fvu"


def test_an_sae_without_results_names_the_command_and_leads_to_one_that_has(cache: Path) -> None:
    other = "saes/layer_3_residual/width_256_topk_l0_16"
    for page, field, command in ((REDUCE, "reduce", "reduce"), (COST, "cost", "downstream")):
        for view in [v for p, f, v in CHARTS if p == page and v != "all"]:
            at = opened(cache, page, other, **{field: view})
            assert n_charts(at) == 0
            assert f"python -m dmcore {command} demo {other}" in words(at)
        assert [b.label for b in at.button if b.key == "look.start"] == ["Make it now"]
        (lead,) = [b for b in at.button if b.key == f"other.{record_of(cache, HAS)['summary_key']}"]
        lead.click().run()
        assert not at.exception
        assert n_charts(at) == 1
    assert n_charts(opened(cache, REDUCE, other, reduce="all")) == 0
    assert len(opened(cache, REDUCE, other, reduce="all").dataframe) == 1


def test_results_of_other_settings_are_not_led_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    reads.forget()
    write_fake_study(tmp_path, n_saes=2)
    spec = reduction_spec(open_published("demo").records["summary_key"][0], (), ("another_method",))
    Store(tmp_path).replace("reduction", spec, lambda folder: Reduction.write(folder, ABOUT, reduction_tables()))
    assert reads.looked("demo", "reduction") == []
    reads.forget()


@pytest.mark.parametrize("wrong", ["-1", "7.999", "x", "<script>alert(1)</script>", "1e9"])
def test_nonsense_in_a_link_is_neither_followed_nor_echoed(cache: Path, wrong: str) -> None:
    fields = {REDUCE: ("reduce", "method", "left"), COST: ("cost", "against", "gained", "spliced", "read", "at")}
    for page, field, view in CHARTS:
        if view not in ("all", "shares", "tokens"):
            continue
        at = opened(cache, page, **(dict.fromkeys(fields[page], wrong) | {field: view}))
        assert n_charts(at) == 1
        assert wrong not in params_of(at).values()
        if len(wrong) > 4:
            assert wrong not in words(at)
        assert not at.error


def test_the_worst_token_is_shown_first_and_a_link_names_another(cache: Path) -> None:
    at = opened(cache, COST, cost="tokens")
    assert (params_of(at)["read"], params_of(at)["at"]) == ("7", "7.20")
    assert [m.value for m in at.metric] == ["2.00", "+4.00", "+2.80", "+0.80", "+8.00"]
    assert "7:20" in at.dataframe[0].value["place"].to_list()[0]
    at = opened(cache, COST, cost="tokens", read="3", at="3.11", spliced="sae_nonlinear")
    assert (params_of(at)["read"], params_of(at)["at"]) == ("3", "3.11")
    assert "Sae(x) + nonlinear error in the place of x" in words(at)


def test_token_text_is_never_markdown_or_html(cache: Path) -> None:
    shown_text = []
    for position in range(fake.SKIP, fake.SKIP + 9):
        at = opened(cache, COST, cost="tokens", read="3", at=f"3.{position}")
        assert not any(text in words(at) for text in HOSTILE)
        shown_text += [code.value for code in at.code]
    assert {visible(text) for text in HOSTILE} & set(shown_text), "else nothing hostile was tried"


def test_an_encoder_says_why_it_has_no_loss(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    model.mkdir()
    config = model / "config.json"
    study = type(
        "S", (), {"model": type("M", (), {"id": "", "path": "model"})(), "resolve": lambda self, path: tmp_path / path}
    )
    monkeypatch.setattr(model_kind, "load_study", lambda path: study())
    for kind, told in (("bert", True), ("gpt2", False)):
        config.write_text(json.dumps({"model_type": kind}))
        model_kind.is_encoder.clear()
        at = opened(cache, COST, "saes/layer_3_residual/width_256_topk_l0_16")
        assert (NO_LOSS in words(at)) is told
        assert ("python -m dmcore downstream" in words(at)) is not told
    model_kind.is_encoder.clear()
    assert model_kind.is_encoder("demo", "encoder.0.hook_resid_post") is False
    config.unlink()
    assert model_kind.is_encoder("demo", "blocks.0.hook_resid_post") is False


def made(folder: Path, about: dict[str, Any] | None = None, **tables: pl.DataFrame) -> Downstream:
    folder.mkdir(exist_ok=True)
    Downstream.write(folder, COST_ABOUT | (about or {}), downstream_tables() | tables)
    return Downstream.read(folder)


def test_without_a_cost_there_is_no_share_of_it(tmp_path: Path) -> None:
    said = "Putting Sae(x) at this site raises the loss by nothing that can be told from 0."
    none = pl.lit(None, pl.Float64)
    parts = fake.parts().with_columns(none.alias(f"recovered{end}") for end in ("", "_low", "_high"))
    remarks = pl.DataFrame({"topic": ["recovered_sae"], "text": [said]}, schema=DOWNSTREAM_TABLES["remarks"])
    found = made(tmp_path / "one", parts=parts, remarks=remarks)
    assert "raises the loss by nothing" in downstream_finding(found)
    assert both_sentence(found) == ""


def test_whether_the_error_costs_more_than_its_size_is_decided_by_the_paired_difference(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    hard = g.uniform(0.0, 0.4, 60)  # some texts cost both variants much: alone, their intervals overlap
    for apart, verdict in ((0.01, "more than"), (-0.01, "less than"), (0.0, "about what")):
        more = hard + apart + g.normal(0.0, 0.004, 60)
        rows = [
            {"panel": "all", "variant": name, "unit": k, "n_tokens": 200, "ce": 200 * (2.6 + cost[k]), "kl": 0.0, "top1": 1,
             "correct": 1}
            for name, cost in (("sae", more), ("x_random", hard)) for k in range(60)
        ]  # fmt: skip
        found = made(tmp_path / verdict, sums=table_of(DOWNSTREAM_TABLES["sums"], rows))
        said = control_sentence(found)
        assert f"**{verdict} its size says**" in said and "the difference is " in said
        paired = paired_cost(found, "sae", "x_random")
        assert (
            paired is not None
            and paired == pytest.approx(float((more - hard).mean()))
            and paired.high - paired.low < 0.005
        )
    assert control_sentence(made(tmp_path / "none", sums=fake.sums())) == ""
    assert "add up to 110.0 % (109.0 to 111.0), so each part gives less" in both_sentence(made(tmp_path / "two"))


def test_what_is_recovered_is_tabled_in_every_normalisation(tmp_path: Path) -> None:
    rows = recovered_rows(made(tmp_path / "one"))
    assert rows.columns[::2] == ["name", "recovered_zero_half", "recovered_mean_half", "recovered_sae_half"]
    row = rows.filter(name="Sae(x) + nonlinear error").row(0, named=True)
    assert (row["recovered_sae"], row["recovered_sae_half"]) == (pytest.approx(80), pytest.approx(2))


def test_the_worst_tokens_have_the_text_around_them(tmp_path: Path) -> None:
    found = made(tmp_path / "one")
    worst = worst_tokens(found["tokens"])
    assert worst.select("context", "position").row(0) == (7, 20)
    row = worst_rows(found, worst).row(0, named=True)
    one = found.of_context(7).filter(position=20).row(0, named=True)
    assert row["token"] == visible(found.texts[one["target"]])
    assert row["before"].endswith(visible(found.texts[one["token"]])[-5:])
    assert (row["sae"], row["place"]) == (4.0, "7:20")


def reduction_of(folder: Path, **tables: pl.DataFrame) -> Any:
    folder.mkdir(exist_ok=True)
    Reduction.write(folder, ABOUT, reduction_tables() | tables)
    return Reduction.read(folder)


def test_the_best_code_is_the_one_that_leaves_the_smallest_error(tmp_path: Path) -> None:
    shrunk = pl.col("method") == "nnls_on_support"  # its nonlinear part is small because all of it is
    methods = fake.methods().with_columns(
        nonlinear_removed=pl.when(shrunk).then(0.9).otherwise("nonlinear_removed"),
        l0=pl.when(pl.col("method") == "orthogonal_matching_pursuit").then(20.0).otherwise("l0"),
        error_removed=pl.when(pl.col("method") == "orthogonal_matching_pursuit").then(0.5).otherwise("error_removed"),
    )
    said = coding_sentence(reduction_of(tmp_path, methods=methods))
    assert "gradient pursuit refilled removes 21.0 %" in said and "of its nonlinear part" in said


def test_what_a_method_keeps_of_the_task_is_said(tmp_path: Path) -> None:
    assert task_sentence(reduction_of(tmp_path / "one")) == (
        "The model predicts 50.0 % of the next tokens; Sae(x) in the place of x costs 4.0 (3.5 to 4.5) points of that, gradient "
        "pursuit 2.0 (1.5 to 2.5) points."
    )
    alone = fake.tasks().filter(pl.col("method").is_in(["clean", "encoder"]))
    assert "no method at this L0 costs less" in task_sentence(reduction_of(tmp_path / "two", tasks=alone))
    assert task_sentence(reduction_of(tmp_path / "three", tasks=alone.clear())) == ""


def test_sentences_about_methods_that_remove_nothing(tmp_path: Path) -> None:
    worse = fake.methods().filter(pl.col("method").is_in(["encoder", "matching_pursuit"]))
    assert coding_sentence(reduction_of(tmp_path / "one", methods=worse)) == (
        "None of the other codes of the same dictionary that were tried at this L0 leaves a smaller error."
    )
    empty = {name: pl.DataFrame(schema=REDUCTION_TABLES[name]) for name in ("ranks", "regressions")}
    alone = reduction_of(tmp_path / "two", methods=fake.methods().head(1), **empty)
    assert (coding_sentence(alone), skip_sentence(alone), earlier_sentence(alone)) == ("", "", "")
    assert reduction_finding(alone) == ""
    bias = fake.ranks().with_columns(error_removed=pl.lit(0.1))
    assert "its bias alone does half of that" in skip_sentence(reduction_of(tmp_path / "three", ranks=bias))


def test_a_league_without_some_columns_does_not_show_them() -> None:
    table = pl.DataFrame([dict.fromkeys(LEAGUE) | row for row in fake.methods().to_dicts()], schema=LEAGUE)
    rows = shown(table, many=False)
    assert "loss_recovered" not in rows.columns
    assert rows["method"][1] == "Rescaled by one number"
    assert next(m for m in rows["method"] if m.startswith("+ ")) == "+ stream before"
    assert rows["nonlinear_removed"].to_list() == pytest.approx([100 * v for v in fake.methods()["nonlinear_removed"]])


def test_a_caption_says_on_how_much_other_codes_ran(tmp_path: Path) -> None:
    assert "other codes" not in sample_of(reduction_of(tmp_path / "alone"))
    coding = pl.col("kind") == "coding"
    some = fake.methods().with_columns(
        n_tokens=pl.when(coding).then(5_760).otherwise(70_000), n_contexts=pl.when(coding).then(24).otherwise(300)
    )
    found = reduction_of(tmp_path / "some", methods=some)
    assert "; other codes: 5,760 tokens in 24 of them;" in sample_of(found, coding=True)
    assert "other codes" not in sample_of(found)
    spliced = some.with_columns(loss_tokens=pl.lit(3824), loss_contexts=pl.lit(16))
    said = sample_of(reduction_of(tmp_path / "lost", methods=spliced), coding=True)
    assert "; loss: 3,824 predictions in 16 of them;" in said


def test_the_encoder_error_of_the_budget_is_what_pursuit_removes(cache: Path) -> None:
    from dmcore.figures.width import encoder_floor

    records = open_published("demo", Store(cache)).records
    own = record_of(cache, HAS)
    chosen = Selection("demo", open_published("demo", Store(cache)), own)
    floor = encoder_floor(chosen, records)
    assert floor is not None
    removed = fake.methods().row(by_predicate=pl.col("method") == "gradient_pursuit", named=True)["nonlinear_removed"]
    (mine,) = [v for w, v in floor.rows() if w == own["d_sae"]][:1]
    assert mine == pytest.approx(own["fvu_nonlinear"] * (1 - removed))
    assert encoder_floor(chosen, records.filter(pl.col("summary_key") != own["summary_key"]).head(1)) is None


def test_the_loss_of_a_method_is_its_own_where_it_was_run(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = open_published("demo", Store(cache))
    record, found = record_of(cache, HAS), published.reduction(record_of(cache, HAS)["summary_key"])
    assert found is not None
    own = pl.when(pl.col("method") == "gradient_pursuit").then(0.99)
    found._tables["methods"] = found["methods"].with_columns(recovered_zero=own, recovered_sae=own - 0.5)
    table = league_of(Selection("demo", published, record), record, found)
    rows = {row["method"]: row for row in table.to_dicts()}
    assert (rows["gradient_pursuit"]["loss_recovered"], rows["gradient_pursuit"]["recovered_sae"]) == (
        0.99,
        pytest.approx(0.49),
    )
    assert rows["encoder"]["loss_recovered"] == pytest.approx(1 - 0.2 / 6.4)


@pytest.fixture(scope="module")
def url(filled: Path) -> Iterator[str]:
    with serve(filled) as address:
        yield address


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_views_are_drawn_in_a_browser_without_errors_and_token_text_never_runs(
    url: str, filled: Path, browser: Any, theme: Any
) -> None:
    context = browser.new_context(viewport={"width": 1400, "height": 1600}, color_scheme=theme)
    watched = Watched(context.new_page())
    query = "&".join(f"{k}={v}" for k, v in write_params("demo", record_of(filled, HAS)).items())
    for (page, field, view), charts in CHARTS.items():
        watched.open(f"{url}/{Path(page).stem}?{query}&{field}={view}", charts)
        assert watched.page.locator("[data-testid=stException]").count() == 0
    assert watched.page.evaluate("window.hacked") is None
    assert watched.errors == []
    assert watched.hosts == {"127.0.0.1"}
    context.close()
