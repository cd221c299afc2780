"""The page Controls: every control with its verdict, the line beside an SAE's numbers, and what is said where there are none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from dmcore.results import Controls
from dmcore.results.controls import FAILED, PASSED
from dmcore.store.published import open_published
from dmcore.store.store import Store
from dmcore.ui import reads
from dmcore.ui.link import write_params
from dmcore.words.controls import controls_finding, count_sentence, sample_sentence, shuffled_sentence
from tests.charts import controls_tables as fake
from tests.pages.fake_controls import ABOUT, REMARK, controls_tables, write_fake_controls
from tests.pages.fake_results import write_fake_study
from tests.pages.test_pages import ROOT, open_page, params_of, words

PAGE = str(ROOT / "pages" / "controls.py")
HAS, OTHER = "saes/layer_2_residual/width_1024_topk_l0_16", "saes/layer_3_residual/width_256_topk_l0_16"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("controls")
    write_fake_study(root)
    write_fake_controls(root, record_of(root, HAS)["summary_key"])
    return root


@pytest.fixture
def cache(filled: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DMCORE_CACHE", str(filled))
    reads.forget()
    yield filled
    reads.forget()


def record_of(cache: Path, name: str) -> dict:
    return open_published("demo", Store(cache)).records.filter(sae=name).row(0, named=True)


def opened(cache: Path, page: str = PAGE, name: str = HAS, **params: str) -> AppTest:
    at = open_page(page, **write_params("demo", record_of(cache, name)), **params)
    assert not at.exception
    return at


def n_charts(at: AppTest) -> int:
    return len(at.get("arrow_vega_lite_chart") or at.get("vega_lite_chart"))


def test_the_page_opens_with_how_many_passed_and_which_did_not(cache: Path) -> None:
    at = opened(cache)
    assert not at.error
    assert params_of(at)["trust"] == "controls"
    found = next(m.value for m in at.markdown if m.value.startswith("### "))
    assert (
        "4 of 4 controls of the method passed, 4 of 6 of this SAE and its study. "
        "Not passed: folds of tokens, not of texts. Undecided: more tokens, linear share." in found
    )
    assert n_charts(at) == 4
    text = words(at)
    assert "A map learns the text that it is tested on" in text
    assert "which is the known bias of held-out least squares" in text
    assert REMARK not in text, "a remark is no HTML"
    table = at.dataframe[0].value.set_index("Dictionary")
    assert table.loc["Identity", "R² of the error"] == "none"
    assert "What Errors shuffled, least squares is" in text, "each row says what is done"


def test_an_sae_without_controls_names_the_command_and_offers_a_job(cache: Path) -> None:
    at = opened(cache, name=OTHER)
    assert n_charts(at) == 0
    assert f"python -m dmcore controls demo {OTHER}" in words(at)
    assert [b.label for b in at.button if b.key == "look.start"] == ["Make it now"]


@pytest.mark.parametrize("wrong", ["-1", "x", "<script>alert(1)</script>"])
def test_nonsense_in_a_link_is_neither_followed_nor_echoed(cache: Path, wrong: str) -> None:
    at = opened(cache, trust=wrong)
    assert params_of(at)["trust"] == "controls"
    if len(wrong) > 4:
        assert wrong not in words(at)


@pytest.mark.parametrize("page", ["regression.py", "overview.py"])
def test_numbers_have_a_line_about_their_controls_where_there_are_some(cache: Path, page: str) -> None:
    path = str(ROOT / "pages" / page)
    text = words(opened(cache, path))
    assert "4 of 4 controls of the method passed, 4 of 6 of this SAE and its study. 1 did not." in text
    assert "controls of the method" not in words(opened(cache, path, OTHER))


def made(folder: Path, controls: pl.DataFrame, **about: object) -> Controls:
    folder.mkdir()
    verdicts = {"verdicts": fake.counts(controls)}
    Controls.write(folder, ABOUT | verdicts | about, controls_tables() | {"controls": controls})
    return Controls.read(folder)


def test_sentences_about_what_did_not_pass(tmp_path: Path) -> None:
    rows = fake.controls().with_columns(verdict=pl.lit(PASSED))
    good = made(tmp_path / "good", rows)
    assert (
        controls_finding(good)
        == count_sentence(good)
        == "4 of 4 controls of the method passed, 6 of 6 of this SAE and its study."
    )
    assert "R² −0.00344" in shuffled_sentence(good) and "−0.00003 with the ridge chosen" in shuffled_sentence(good)
    bad = made(tmp_path / "bad", rows.with_columns(verdict=pl.lit(FAILED)))
    assert "Not passed: errors shuffled, least squares; " in controls_finding(bad)
    assert controls_finding(bad).endswith(" and 7 more.")
    assert shuffled_sentence(bad) == "", "nothing is claimed that did not come out"
    some = made(tmp_path / "some", rows, n_contexts=40)
    assert "in 40 of the study's 300 contexts" in sample_sentence(some)
