"""The Catalogue page without a browser: what it counts, how filters narrow it, what may be used in a study, and its failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from dmcore.charts.catalogue import catalogue_chart, catalogue_table
from dmcore.errors import SpecError
from dmcore.sources.catalogue import CATALOGUE, filter_catalogue, read_catalogue
from dmcore.ui import reads
from dmcore.ui.builder_saes import CHOSEN
from dmcore.ui.catalogue_filters import Filters
from dmcore.ui.catalogue_table import ROOM, _problem, columns_of, table_key, table_rows

ROOT = Path(__file__).parents[2]
PAGE = str(ROOT / "pages" / "catalogue.py")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    read_catalogue(root)
    return root


@pytest.fixture(scope="module")
def frame(root: Path) -> pl.DataFrame:
    return read_catalogue(root).with_columns(on_disk=False)


@pytest.fixture(autouse=True)
def own_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DMCORE_CACHE", str(root))
    monkeypatch.setenv("HF_HUB_CACHE", str(root / "hub"))
    reads.forget()
    yield
    reads.forget()


def open_page(**params: str) -> AppTest:
    at = AppTest.from_file(PAGE, default_timeout=60)
    for key, value in params.items():
        at.query_params[key] = value
    at.run()
    assert not at.exception
    return at


def words(at: AppTest) -> str:
    return "\n".join(str(part.value) for part in [*at.title, *at.markdown, *at.caption, *at.info])


def choose(at: AppTest, filters: Filters, *rows: int) -> AppTest:
    """Tick rows of the table, as a browser would."""
    at.session_state[table_key(filters.key)] = {"selection": {"rows": list(rows), "columns": [], "cells": []}}
    return at.run()


def instead(monkeypatch: pytest.MonkeyPatch, read: Any) -> None:
    """Give the page another catalogue."""
    read.clear = lambda: None
    monkeypatch.setattr("dmcore.ui.reads.catalogue", read)


def test_it_opens_with_what_there_is_and_what_is_here(frame: pl.DataFrame) -> None:
    at = open_page()
    finding = at.markdown[0].value.replace("\xa0", " ")
    assert (
        finding
        == "### 13,857 published SAEs and transcoders in 170 releases, for 38 models; none is on this machine yet."
    )
    usable = frame.filter(pl.col("hook").is_not_null())
    assert f"**{usable.height:,}** match" in words(at)
    assert at.dataframe[0].value.shape[0] == usable.height


def test_filters_narrow_the_table_one_after_the_other(frame: pl.DataFrame) -> None:
    at = open_page()
    at.selectbox(key="release").select("gemma-scope-9b-pt-res").run()
    assert "**532** match, all with a published L0." in words(at)
    at.selectbox(key="layer").select(20).run()
    at.number_input(key="l0_from").set_value(100).run()
    shown = at.dataframe[0].value
    expected = filter_catalogue(frame, "gemma-scope-9b-pt-res", layer=20, l0=(100, 1e6))
    assert sorted(shown["id"]) == sorted(expected["id"])
    assert set(at.selectbox(key="width").options) <= {f"{2**n:,}" for n in range(14, 21)}
    at.text_input(key="words").set_value("width_1m 193").run()
    assert list(at.dataframe[0].value["id"]) == ["layer_20/width_1m/average_l0_193"]
    at.button[0].click().run()
    assert "**10,013** match" in words(at)


def test_a_link_opens_a_filtered_view_and_nonsense_in_it_is_dropped() -> None:
    at = open_page(release="gpt2-small-res-jb", layer="3")
    assert (at.selectbox(key="release").value, at.selectbox(key="layer").value) == ("gpt2-small-res-jb", 3)
    assert "**1** match" in words(at)
    hostile = open_page(release="<script>", layer="zz", l0_from="nan", width="-4")
    assert "**10,013** match" in words(hostile)
    assert "script" not in words(hostile)
    assert "The release, layer, width and lowest L0 in the link are not in the catalogue" in words(hostile)
    assert "in the link" not in words(hostile.run())


def test_what_a_link_asks_for_in_vain_is_said_and_what_it_does_not_is_not() -> None:
    apart = open_page(release="gpt2-small-res-jb", model="google/gemma-2-2b", on_disk="perhaps")
    assert "The model and choice of what is on this machine in the link are not" in words(apart)
    assert "gemma" not in words(apart).replace("\\", "")
    fine = open_page(
        release="gpt2-small-res-jb", layer="0", stream="Residual", l0_from="0", on_disk="false", words="jb"
    )
    assert "in the link" not in words(fine)
    assert "The layer in the link is not" in words(open_page(release="gpt2-small-res-jb", layer="99"))


def test_names_have_room_and_what_the_filters_say_is_left_out(frame: pl.DataFrame) -> None:
    def widths(filters: Filters) -> dict[str, int]:
        return columns_of(table_rows(filters.apply(frame)), filters)

    everything = widths(Filters())
    assert list(everything) == ["id", "release", "stream", "layer", "width", "l0", "architecture", "model"]
    assert everything["release"] >= 260
    model = widths(Filters(model="google/gemma-2-2b", layer=12, stream="residual"))
    assert list(model) == ["id", "release", "width", "l0", "architecture"]
    assert model["release"] >= 18 + 6.6 * len("sae_bench_gemma-2-2b_vanilla_width-2pow16_date-1109")
    one = widths(Filters(release="gemma-scope-2b-pt-res"))
    assert "release" not in one
    assert "model" not in one
    for found in (everything, model, one):
        assert found["id"] >= 230
        assert sum(width for name, width in found.items() if name != "model") <= ROOM
    here = table_rows(frame.head(3)).with_columns(on_disk=pl.Series([True, False, False]))
    assert "on_disk" in columns_of(here, Filters())


def test_an_unknown_l0_is_null_and_shown_as_unknown_never_as_nought(frame: pl.DataFrame) -> None:
    rows = table_rows(filter_catalogue(frame, "gpt2-small-attn-out-v5-32k"))
    assert rows["l0"].is_null().all()
    assert not (table_rows(frame)["l0"] == 0).any()
    at = open_page(release="gpt2-small-attn-out-v5-32k")
    assert "none with a published L0" in words(at)
    assert "so there is no chart" in words(at)
    assert at.dataframe[0].proto.placeholder == "unknown"


def test_transcoders_are_listed_on_request_and_cannot_be_used(frame: pl.DataFrame) -> None:
    at = open_page(release="gemma-scope-2b-pt-transcoders")
    assert "No SAE matches all filters" in words(at)
    assert "switch on" in words(at)
    at.toggle(key="others").set_value(True).run()
    assert "**26** match" in words(at)
    at = choose(at, Filters(release="gemma-scope-2b-pt-transcoders", others=True), 0)
    assert "predicts another site" in words(at)
    assert at.button(key="catalogue.use").disabled


def test_what_cannot_be_one_study_says_why(frame: pl.DataFrame) -> None:
    gemma, gpt2 = (filter_catalogue(frame, name).head(2) for name in ("gemma-scope-9b-pt-mlp", "gpt2-small-res-jb"))
    assert "one model" in _problem(pl.concat([gemma, gpt2]), pl.concat([gemma, gpt2]))
    raw = filter_catalogue(frame, "gpt2-small-hook-z-kk").head(2)
    assert "processed" in _problem(pl.concat([raw, gpt2]), pl.concat([raw, gpt2]))
    many = filter_catalogue(frame, model="gemma-2-9b")
    many = pl.concat([many, many])
    assert "more than" in _problem(many, many)
    assert _problem(gemma, gemma) == ""
    assert _problem(gemma.clear(), gemma.clear()) == ""


def test_chosen_rows_are_handed_over_to_the_runs_page(frame: pl.DataFrame) -> None:
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    at.switch_page("pages/catalogue.py").run()
    at.selectbox(key="release").select("gpt2-small-res-jb").run()
    at = choose(at, Filters(release="gpt2-small-res-jb"), 0, 3)
    assert "2 SAEs at 2 sites of openai/gpt2" in words(at).replace("\\", "").replace("openai-community", "openai")
    at.button(key="catalogue.use").click().run()
    assert not at.exception
    rows = at.session_state[CHOSEN]
    assert [set(row) for row in rows] == [{"release", "id", "hook", "model", "processing", "d_sae", "l0"}] * 2
    assert [row["hook"] for row in rows] == ["blocks.0.hook_resid_pre", "blocks.3.hook_resid_pre"]
    assert {row["processing"] for row in rows} == {"center_writing_weights"}
    assert at.title[0].value == "What should be studied?"
    shown = at.dataframe[0].value
    assert (shown["release"] == "gpt2-small-res-jb").all()
    assert set(shown["stream"]) == {"Residual"}
    assert at.multiselect(key="builder.filter.layer").value == []
    assert set(shown["architecture"]) == {"Standard (L1)"}


def hostile_frame() -> pl.DataFrame:
    bad = "![x](http://a.example/y) <b> **w**"
    row: dict[str, Any] = dict.fromkeys(CATALOGUE)
    row |= {
        "release": bad,
        "id": bad,
        "model": bad,
        "model_name": bad,
        "architecture": bad,
        "repo_id": bad,
        "path": bad,
    }
    row |= {
        "hook": "blocks.0.hook_mlp_out",
        "site": "hook_mlp_out",
        "stream": "mlp",
        "layer": 0,
        "d_sae": 64,
        "l0": 3.0,
    }
    transcoder = {**row, "id": f"{bad} 2", "hook": None, "site": None, "stream": None, "kind": "transcoder"}
    rows = [{**r, "processing": "", "on_disk": True} for r in ({**row, "kind": "sae"}, transcoder)]
    return pl.DataFrame(rows, schema=CATALOGUE)


def test_the_registrys_own_words_are_never_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, lambda: hostile_frame())
    at = open_page(others="true")
    assert "2 of them are on this machine" in words(at).replace("\xa0", " ")
    at = choose(at, Filters(others=True), 0, 1)
    assert "1 of the chosen are left out" in words(at)
    for text in ("![x]", "<b>", "**w**"):
        assert text not in words(at).replace("\\<b\\>", "")


def test_without_a_registry_the_page_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> pl.DataFrame:
        raise SpecError("The registry is not there: install sae-lens.")

    instead(monkeypatch, gone)
    at = open_page()
    assert "install sae" in at.info[0].value
    assert not at.dataframe


def test_the_chart_merges_what_agrees_to_two_digits(frame: pl.DataFrame) -> None:
    few = pl.DataFrame({"release": ["a", "b", "b", "c"], "d_sae": [64, 64, 64, None], "l0": [101.0, 104.0, None, 5.0]})
    assert catalogue_table(few).rows() == [(64, 100.0, 2, 2)]
    spec = catalogue_chart(frame).to_dict()  # validated
    assert len(next(iter(spec["datasets"].values()))) < 1500
    catalogue_chart(few).to_dict()


def test_filters_leave_out_unknown_l0s_only_when_l0_is_asked_for(frame: pl.DataFrame) -> None:
    everything = Filters(others=True).apply(frame)
    assert everything.height == frame.height
    assert (Filters(others=True, l0_to=10).apply(frame)["l0"] <= 10).all(ignore_nulls=False)
    assert Filters(release="a").key != Filters(model="a").key


def test_the_page_reads_what_is_stored_and_imports_nothing_heavy(root: Path) -> None:
    code = """
import json, sys
from streamlit.testing.v1 import AppTest
at = AppTest.from_file(sys.argv[1], default_timeout=60).run()
heavy = ["torch", "transformers", "sae_lens", "transformer_lens", "huggingface_hub", "datasets", "yaml"]
print(json.dumps({"errors": len(at.exception), "heavy": [name for name in heavy if name in sys.modules]}))
"""
    env = {**os.environ, "DMCORE_CACHE": str(root), "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code, PAGE], env=env, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout.splitlines()[-1]) == {"errors": 0, "heavy": []}
