"""The page Scaling without a browser: every view, links that nobody can be trusted with, and what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from dmcore.charts.numbers import percent
from dmcore.store.published import open_published
from dmcore.store.store import Store
from dmcore.ui import reads
from tests.pages.fake_results import fake_published, write_fake_study
from tests.pages.fake_scaling import HOSTILE, LENGTH, write_fake_scaling
from tests.pages.test_pages import ROOT, open_page, params_of, words

SCALING = str(ROOT / "pages" / "scaling.py")
VIEWS = {"width": 2, "plane": 1, "depth": 3, "sparsity": 1, "tokens": 4, "norms": 2}
"""Views, and how many charts each has on the made-up study."""
RECORDS = fake_published().records


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scaled")
    write_fake_study(root)
    write_fake_scaling(root)
    return root


@pytest.fixture
def in_scaled(scaled: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DMCORE_CACHE", str(scaled))
    reads.forget()
    yield scaled
    reads.forget()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    reads.forget()
    yield tmp_path
    reads.forget()


def n_charts(at: AppTest) -> int:
    return len(at.get("arrow_vega_lite_chart") or at.get("vega_lite_chart"))


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_is_drawn_and_named_by_the_link(view: str, in_scaled: Path) -> None:
    at = open_page(SCALING, view=view)
    assert not at.exception
    assert not at.error
    assert params_of(at)["view"] == view
    assert n_charts(at) == VIEWS[view]
    assert "no rows for this chart" not in words(at)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    "params", [{"stream": "mlp"}, {"layer": "0"}, {"arch": "gated"}, {"arch": "standard"}, {"l0": "4", "width": "4096"}]
)
def test_each_view_opens_at_any_sae(view: str, params: dict[str, str], in_scaled: Path) -> None:
    at = open_page(SCALING, view=view, **params)
    assert not at.exception
    assert not at.error


def test_the_findings_name_the_widths_that_they_compare(in_scaled: Path) -> None:
    at = open_page(SCALING, layer="2", width="4096", l0="16")
    own = RECORDS.filter(pl.col("layer") == 2, pl.col("stream") == "residual", pl.col("label") == "topk").filter(
        (pl.col("l0") - 16).abs() < 1
    )
    wide, narrow = (own.filter(d_sae=width)["fvu"][0] for width in (4096, 256))
    ratio = wide / narrow
    finding = next(m.value for m in at.markdown if m.value.startswith("###")).replace("\xa0", " ")
    assert f"from 256 to 4,096 latents leaves {percent(ratio, 0.98 * ratio, 1.02 * ratio)} of the error" in finding
    assert "5 points" in finding and "if it holds" in finding


def test_each_doubling_is_given_as_a_share_not_as_a_logarithm(in_scaled: Path) -> None:
    at = open_page(SCALING, layer="2", width="256", l0="16")
    own = RECORDS.filter(layer=2, stream="residual", label="topk").filter((pl.col("l0") - 16).abs() < 1)
    wide, narrow = (own.filter(d_sae=width)["fvu_nonlinear"][0] for width in (4096, 256))
    change = 100 * abs((wide / narrow) ** 0.25 - 1)
    said = next(m.value for m in at.markdown if "doubling on average" in m.value)
    assert f"{change:.1f}" in said
    assert ("falls" if wide < narrow else "rises") in said


def test_a_law_of_few_points_comes_with_its_caveat(in_scaled: Path) -> None:
    shown = words(open_page(SCALING, l0="16"))
    assert "5 points, 3 parameters" in shown
    assert "2 degrees of freedom are left" in shown
    assert "refutes none" in shown


@pytest.mark.parametrize("view", [*VIEWS, "<script>alert(1)</script>"])
def test_nonsense_in_every_parameter_is_survived_and_not_echoed(view: str, in_scaled: Path) -> None:
    bad = {
        "metric": "x<b>", "space": ";drop", "surface": "../..", "over": "<img src=x>", "value": "\x00", "of": "**a**",
        "by": "[a](http://b)", "context": "-1", "token": "9999.1",
    }  # fmt: skip
    at = open_page(SCALING, view=view, **bad)
    assert not at.exception
    shown = words(at)
    for value in ("x<b>", ";drop", "../..", "<img", "**a**", "http://b", "9999", "script>"):
        assert value not in shown
    if view not in VIEWS:
        assert params_of(at)["view"] == "width"
        assert "The view asked for is not in this study" in shown
    if view == "tokens":
        assert (params_of(at)["context"], params_of(at)["token"]) == ("3", "3.20")


@pytest.mark.parametrize("token", ["7.0", f"7.{LENGTH - 1}"])
def test_the_link_chooses_context_and_token_to_its_ends(token: str, in_scaled: Path) -> None:
    at = open_page(SCALING, view="tokens", context="7", token=token)
    assert not at.exception
    assert params_of(at)["token"] == token


def test_another_context_starts_at_its_own_worst_token(in_scaled: Path) -> None:
    at = open_page(SCALING, view="tokens")
    at.selectbox(key="control.context").select("7").run()
    assert not at.exception
    assert params_of(at)["token"] == "7.30"


def test_without_a_comparison_the_page_says_what_to_run(own_cache: Path) -> None:
    write_fake_study(own_cache, n_saes=2)
    at = open_page(SCALING, view="tokens")
    assert not at.exception
    assert "have not been compared yet" in at.info[0].value
    assert "python -m dmcore scaling demo" in at.info[0].value
    assert n_charts(at) == 0


def test_sites_that_are_not_compared_are_counted(own_cache: Path) -> None:
    write_fake_study(own_cache)
    write_fake_scaling(own_cache, sites=2)
    at = open_page(SCALING, view="depth", layer="0")
    assert not at.exception
    assert "5 of the study's sites have not been compared yet" in words(at)
    assert not open_page(SCALING, view="norms", layer="0").exception


def test_a_damaged_comparison_is_a_sentence(own_cache: Path) -> None:
    write_fake_study(own_cache, n_saes=2)
    write_fake_scaling(own_cache)
    for path in (own_cache / "scaling").glob("*/laws.parquet"):
        path.write_bytes(b"not parquet")
    at = open_page(SCALING)
    assert not at.exception
    assert at.info and "ArrowInvalid" not in words(at)


@pytest.mark.parametrize("n_saes", [1, 2, 3])
@pytest.mark.parametrize("view", VIEWS)
def test_a_study_of_few_saes_says_what_is_not_known(view: str, n_saes: int, own_cache: Path) -> None:
    write_fake_study(own_cache, n_saes=n_saes)
    write_fake_scaling(own_cache)
    at = open_page(SCALING, view=view)
    assert not at.exception
    assert not at.error
    shown = words(at)
    if n_saes == 1:
        assert "one width: add a wider SAE" in shown
    expected = {
        "depth": "one site",
        "plane": "a surface needs",
        "width": "fewer than 4",
        "sparsity": "none to compare it with",
    }
    assert expected.get(view, "") in shown


def test_the_text_of_tokens_is_data(own_cache: Path) -> None:
    write_fake_study(own_cache, n_saes=3)
    write_fake_scaling(own_cache, texts=HOSTILE)
    at = open_page(SCALING, view="tokens")
    assert not at.exception
    shown = words(at)
    for text in ("<script", "onerror", "\u202e", "\x00", "\x1b", "a.example", "javascript:"):
        assert text not in shown
    cells = "".join(str(cell) for cell in at.dataframe[0].value.to_numpy().ravel())
    assert not set("\u202e\x00\x1b") & set(cells)
    assert not at.get("html") or all("<script" not in str(part) for part in at.get("html"))


def test_the_page_imports_no_torch(scaled: Path) -> None:
    code = """
import json, sys
from streamlit.testing.v1 import AppTest
at = AppTest.from_file(sys.argv[1] + "/pages/scaling.py", default_timeout=60)
for view in ("width", "plane", "depth", "sparsity", "tokens", "norms"):
    at.query_params["view"] = view
    at.run()
    assert not at.exception
print(json.dumps([name for name in ("torch", "transformers", "sae_lens", "ray", "sklearn", "vl_convert") if name in sys.modules]))
"""
    env = {**os.environ, "DMCORE_CACHE": str(scaled), "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)], env=env, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout.splitlines()[-1]) == []


def test_the_made_up_comparison_is_found_as_a_real_one_is(scaled: Path) -> None:
    published = open_published("demo", Store(scaled))
    for site in published.records["site"].unique():
        assert published.scaling(site).about["site"] == site
