"""The pages without a browser: what they say for many selections, and what they say when something is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from dmcore.charts.numbers import percent, point, span
from dmcore.ui import reads
from dmcore.ui.link import write_params
from tests.chromium import without_browser
from tests.pages.fake_results import SKIP, fake_published, write_fake_study

ROOT = Path(__file__).parents[2]
OVERVIEW, REGRESSION = (str(ROOT / "pages" / name) for name in ("overview.py", "regression.py"))
RECORDS = fake_published().records.to_dicts()
CARDS = {
    OVERVIEW: ("fvu", "fvu_nonlinear", "r2_error", "r2_error_norm_sq"),
    REGRESSION: ("r2_error", "r2_error_mean_dims", "r2_error_norm_sq", "fvu_nonlinear"),
}


def open_page(page: str, **params: str) -> AppTest:
    at = AppTest.from_file(page, default_timeout=60)
    for key, value in params.items():
        at.query_params[key] = value
    return at.run()


def words(at: AppTest) -> str:
    parts = [*at.title, *at.markdown, *at.caption, *at.info, *at.text, *at.warning, *at.error]
    return "\n".join(str(part.value) for part in parts)


def params_of(at: AppTest) -> dict[str, str]:
    return {key: value[0] if isinstance(value, list) else value for key, value in at.query_params.items()}


def drawn(page: str, in_fake_cache: Path, record: dict) -> AppTest:
    at = open_page(page, **write_params("demo", record))
    assert not at.exception
    assert not at.error
    return at


@pytest.mark.parametrize("page", [OVERVIEW, REGRESSION])
@pytest.mark.parametrize("record", [*RECORDS[::4], *RECORDS[-4:]], ids=lambda record: record["sae"])
def test_the_cards_show_the_numbers_of_the_record(in_fake_cache: Path, page: str, record: dict) -> None:
    at = drawn(page, in_fake_cache, record)
    for card, metric in zip(at.metric, CARDS[page], strict=True):
        triple = [record[f"{metric}{end}"] for end in ("", "_low", "_high")]
        assert (card.value, card.delta) == (point(*triple), span(*triple[1:]))
    assert record["sae"] in [text.value for text in at.text]
    assert params_of(at) | write_params("demo", record) == params_of(at)


@pytest.mark.parametrize("record", RECORDS[::7], ids=lambda record: record["sae"])
def test_the_overview_opens_with_the_linear_share_and_its_interval(in_fake_cache: Path, record: dict) -> None:
    at = drawn(OVERVIEW, in_fake_cache, record)
    finding = next(m.value for m in at.markdown if m.value.startswith("###")).replace("\xa0", " ")
    assert percent(*(record[f"r2_error{end}"] for end in ("", "_low", "_high"))) in finding
    assert "nonlinear error" in finding


def test_the_finding_about_width_is_a_paired_ratio(in_fake_cache: Path) -> None:
    wide, here = (
        r for r in sorted(RECORDS, key=lambda r: -r["d_sae"]) if r["layer"] == 3 and r["d_sae"] in (4096, 256)
    )
    finding = next(m.value for m in drawn(OVERVIEW, in_fake_cache, here).markdown if m.value.startswith("###"))
    published = fake_published()
    draws = [published.summary(r["summary_key"]).replicates["fvu_nonlinear"].cast(pl.Float64) for r in (wide, here)]
    ratios = draws[0] / draws[1]
    text = percent(wide["fvu_nonlinear"] / here["fvu_nonlinear"], ratios.quantile(0.025), ratios.quantile(0.975))
    assert f"16 times wider leaves {text} of the nonlinear error" in finding.replace("\xa0", " ")


def test_the_papers_numbers_stand_with_their_marks_beside_ours(in_fake_cache: Path) -> None:
    at = open_page(OVERVIEW)
    table = next(m.value for m in at.markdown if "The paper says" in m.value)
    for row in table.splitlines()[2:]:
        assert any(mark in row for mark in ("[P]", "[2]", "[2, C]", "[C]", "[X]"))
    assert "quoted by someone else" in words(at)


def test_sliders_snap_to_what_the_study_has_and_the_selection_follows(in_fake_cache: Path) -> None:
    at = open_page(OVERVIEW)
    at.select_slider(key="control.width").set_value("512").run()
    at.select_slider(key="control.l0").set_value("4").run()
    assert params_of(at)["width"] == "512"
    assert params_of(at)["l0"] == "3.98"
    at.select_slider(key="control.layer").set_value("0").run()
    assert not at.exception
    assert (params_of(at)["layer"], params_of(at)["width"], params_of(at)["l0"]) == ("0", "256", "15.98")
    assert "showing the nearest" in words(at)
    at.run()
    assert "showing the nearest" not in words(at)


def test_one_value_is_shown_as_text_not_as_a_slider(in_fake_cache: Path) -> None:
    at = open_page(OVERVIEW, stream="mlp")
    assert not at.exception
    assert "Layer: **2**" in words(at)
    assert {slider.key for slider in at.select_slider} == {"control.width"}


def test_the_architecture_can_be_chosen_where_there_are_several(in_fake_cache: Path) -> None:
    at = open_page(OVERVIEW)
    at.selectbox(key="control.arch").select("Gated").run()
    assert params_of(at)["arch"] == "gated"
    assert any(text.value.endswith("gated_l0_16.3") for text in at.text)
    assert "Among the TopK SAEs here" in words(at)


@pytest.mark.parametrize("page", [OVERVIEW, REGRESSION])
@pytest.mark.parametrize(
    "params",
    [
        {"study": "<script>alert(1)</script>", "layer": "zz-top"},
        {"layer": "-7", "width": "9" * 400, "l0": "nan", "stream": "**bold**", "arch": "[a](http://b)"},
        {"skip": "<b>", "bias": "maybe"},
        {"study": "../../etc/passwd", "l0": "1e400"},
    ],
)
def test_hostile_parameters_end_at_a_valid_view_and_are_not_echoed(
    in_fake_cache: Path, page: str, params: dict[str, str]
) -> None:
    at = open_page(page, **params)
    assert not at.exception
    assert at.metric
    shown = words(at)
    own = set(params) <= {"skip", "bias"} and page == OVERVIEW
    assert own or "not available" in shown or "not in this study" in shown
    for key in set(params) - ({"skip", "bias"} if page == OVERVIEW else set()):
        assert params[key] not in shown
        assert params_of(at)[key] != params[key]


def test_skip_and_bias_change_the_numbers_and_live_in_the_link(in_fake_cache: Path) -> None:
    at = open_page(REGRESSION)
    assert (params_of(at)["skip"], params_of(at)["bias"]) == (str(SKIP), "yes")
    own = [card.value for card in at.metric]
    at.radio(key="control.skip").set_value("0").run()
    at.radio(key="control.bias").set_value("no").run()
    assert not at.exception
    assert (params_of(at)["skip"], params_of(at)["bias"]) == ("0", "no")
    moved = [card.value for card in at.metric]
    assert moved != own
    key = next(r["summary_key"] for r in RECORDS if r["sae"] == at.text[0].value)
    row = (
        fake_published()
        .summary(key)
        .variants.filter((pl.col("skip_positions") == 0) & ~pl.col("fit_bias"))
        .row(0, named=True)
    )
    assert moved[0] == point(row["r2_error"], row["r2_error_low"], row["r2_error_high"])
    again = open_page(REGRESSION, **params_of(at))
    assert [card.value for card in again.metric] == moved


def test_a_studys_own_words_are_never_markdown(own_cache: Path) -> None:
    hostile = "![x](http://a.example/y) <b>"
    write_fake_study(own_cache, n_saes=2, title=hostile, model=hostile, label=hostile)
    for page in (OVERVIEW, REGRESSION):
        at = open_page(page)
        assert not at.exception
        assert "![x]" not in words(at)
        assert "<b>" not in words(at).replace("\\<b\\>", "")


def test_without_a_browser_tests_skip_here_and_fail_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no Chromium"):
        without_browser("no Chromium")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no Chromium"):
        without_browser("no Chromium")


def test_the_sink_sentence_says_what_position_zero_does(in_fake_cache: Path) -> None:
    assert "an **attention sink**" in words(open_page(REGRESSION, part="settings"))
    assert "an **attention sink**" not in words(open_page(REGRESSION))


@pytest.mark.parametrize(("part", "n_charts"), [("dimensions", 4), ("settings", 4), ("baselines", 5), ("no part", 4)])
def test_each_part_of_the_regression_page_is_drawn(part: str, n_charts: int, in_fake_cache: Path) -> None:
    at = open_page(REGRESSION, part=part)
    assert not at.exception
    assert len(at.get("arrow_vega_lite_chart") or at.get("vega_lite_chart")) == n_charts


def test_nothing_computed_is_a_sentence_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    reads.forget()
    for page in (OVERVIEW, REGRESSION):
        at = open_page(page)
        assert not at.exception
        assert "python -m dmcore sweep demo" in at.info[0].value
        assert not at.metric
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    assert not at.exception
    assert [link.proto.label for link in at.get("page_link")] == ["Runs"]
    reads.forget()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    reads.forget()
    yield tmp_path
    reads.forget()


@pytest.mark.parametrize(("n_missing", "said"), [(1, "1 of the study's SAEs has"), (7, "7 of the study's SAEs have")])
def test_saes_without_a_result_are_counted_beside_a_way_to_start_them(
    n_missing: int, said: str, in_fake_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dmcore.store import published

    opened = published.open_published
    monkeypatch.setattr(published, "open_published", lambda study: replace(opened(study), n_missing=n_missing))
    reads.forget()
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    assert not at.exception
    assert f"{said} no result yet" in words(at)
    assert [link.proto.label for link in at.get("page_link")] == ["Runs"]


def test_a_single_skipped_position_is_not_plural() -> None:
    from dmcore.ui.sections import sample_words

    record = {"n_tokens": 920, "n_contexts": 40, "n_folds": 5}
    assert "(first position skipped)" in sample_words({**record, "skip_positions": 1})
    assert "(first 2 positions skipped)" in sample_words({**record, "skip_positions": 2})
    assert "skipped" not in sample_words({**record, "skip_positions": 0})


def test_a_study_of_one_sae_says_what_is_not_known(own_cache: Path) -> None:
    write_fake_study(own_cache, n_saes=1)
    for page in (OVERVIEW, REGRESSION):
        at = open_page(page)
        assert not at.exception
        assert at.metric
        assert not at.select_slider
    assert "one layer of this stream" in words(open_page(REGRESSION, part="baselines"))
    assert "one width here" in words(open_page(OVERVIEW))


def summary_folders(root: Path) -> list[Path]:
    return sorted(path for path in (root / "summary").iterdir() if path.is_dir())


def test_a_damaged_entry_is_a_sentence_and_the_other_saes_still_work(own_cache: Path) -> None:
    write_fake_study(own_cache, n_saes=2)
    index = pl.read_parquet(next((own_cache / "index").glob("*/records.parquet")))
    first = own_cache / "summary" / index["summary_key"][0]
    (first / "dims.parquet").write_bytes(b"not parquet")
    at = open_page(REGRESSION, width=str(index["d_sae"][0]))
    assert not at.exception
    assert "sweep" in at.info[0].value
    assert not open_page(REGRESSION, width=str(index["d_sae"][1])).exception


def test_a_table_without_rows_is_said_where_its_chart_would_be(own_cache: Path) -> None:
    write_fake_study(own_cache, n_saes=1, emptied=("ridge", "baselines", "density", "positions", "variants", "dims"))
    for part, n_empty in (("dimensions", 4), ("settings", 4), ("baselines", 3)):
        at = open_page(REGRESSION, part=part)
        assert not at.exception
        assert len([info for info in at.info if "no rows for this chart" in info.value]) == n_empty


def test_two_studies_can_be_chosen_between_and_the_demo_comes_first(own_cache: Path) -> None:
    write_fake_study(own_cache, "other", n_saes=3)
    write_fake_study(own_cache, n_saes=2)
    at = open_page(OVERVIEW)
    assert params_of(at)["study"] == "demo"
    options = at.selectbox(key="control.study").options
    at.selectbox(key="control.study").select(options[1]).run()
    assert params_of(at)["study"] == "other"
    assert params_of(open_page(OVERVIEW, study="other"))["study"] == "other"


def test_the_whole_app_navigates_and_no_page_imports_torch(fake_cache: Path) -> None:
    code = """
import json, sys
from streamlit.testing.v1 import AppTest
seen = []
for page in ("overview", "regression"):
    at = AppTest.from_file(sys.argv[1] + f"/pages/{page}.py", default_timeout=60).run()
    seen.append([len(at.exception), len(at.metric)])
at = AppTest.from_file(sys.argv[1] + "/app.py", default_timeout=60).run()
seen.append([len(at.exception), len(at.metric)])
heavy = ["torch", "transformers", "sae_lens", "transformer_lens", "ray", "sklearn", "vl_convert"]
print(json.dumps({"seen": seen, "heavy": [name for name in heavy if name in sys.modules]}))
"""
    env = {**os.environ, "DMCORE_CACHE": str(fake_cache), "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)], env=env, cwd=ROOT, capture_output=True, text=True, check=True
    )
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["seen"] == [[0, 4]] * 3
    assert result["heavy"] == []
