"""The features of a study's SAEs: made on demand, found by pages and the command, said in sentences where they cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import dmcore
from dmcore.errors import SpecError, StoreError
from dmcore.results import RECORD, widest_of
from dmcore.run.cli import main
from dmcore.run.looks.inspect import Inspector
from dmcore.run.pipeline import Pipeline
from dmcore.specs import load_study
from dmcore.store.published import open_published
from dmcore.store.store import Store
from tests.run.test_scaling import MAIN, scaling_study

NAME = f"saes/{MAIN}/topk_48_3"


@pytest.fixture(scope="module")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scaling_study(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def swept(study_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[dict[str, Any]]]:
    store = Store(tmp_path_factory.mktemp("cache"))
    outcome = Pipeline(store).sweep(load_study(study_path), scale=False)
    assert not outcome.failures
    return store, outcome.records


def test_features_are_made_once_and_a_page_finds_them(
    swept: tuple[Store, list[dict[str, Any]]], study_path: Path
) -> None:
    store, records = swept
    study = load_study(study_path)
    found = Inspector(Pipeline(store), study).features(f"{MAIN}/topk_48_3")
    own = next(record for record in records if record["sae"] == NAME)
    latents = found.latents.collect()
    assert len(latents) == 48
    assert latents["frequency"].sum() == pytest.approx(own["l0"], rel=1e-9)
    assert latents["widest"].max() < 192, "the nearest latent in the widest SAE of the site"
    assert latents["promoted"].null_count() == 0
    published = open_published("wide", store)
    assert published.features(own["summary_key"]).folder == found.folder
    made = (found.folder / "manifest.json").stat().st_mtime_ns
    assert Inspector(Pipeline(store), study).features(NAME).folder == found.folder
    assert (found.folder / "manifest.json").stat().st_mtime_ns == made
    assert published.features(records[0]["summary_key"]) is None


def test_a_notebook_looks_into_an_sae(swept: tuple[Store, list[dict[str, Any]]], study_path: Path) -> None:
    look = dmcore.inspect(study_path, device="cpu", cache=swept[0].root, progress=False)
    assert look.features(NAME).latents.collect()["latent"].to_list() == list(range(48))
    assert look.structure(NAME)["parts"]["part"].to_list() == ["x", "error", "linear", "nonlinear"]
    assert len(look.detection(NAME, n_latents=5)["scores"]) == 5


def test_features_from_summaries_alone_are_the_same(
    swept: tuple[Store, list[dict[str, Any]]], study_path: Path, tmp_path: Path
) -> None:
    store, _ = swept
    study = load_study(study_path)
    for stage in ("summary", "index"):
        shutil.copytree(store.root / stage, tmp_path / stage)
    first, again = (Inspector(Pipeline(one), study).features(NAME) for one in (store, Store(tmp_path)))
    for file in sorted(path.name for path in first.folder.iterdir()):
        if file != "manifest.json":
            assert (first.folder / file).read_bytes() == (again.folder / file).read_bytes(), file


def test_the_widest_is_another_sae_of_the_site_with_the_nearest_l0() -> None:
    rows = [("a", 64, 8.0), ("a", 256, 4.0), ("a", 256, 9.0), ("a", 128, 8.0), ("b", 1024, 8.0)]
    records = pl.DataFrame(
        [{"summary_key": str(i), "site": site, "d_sae": width, "l0": l0} for i, (site, width, l0) in enumerate(rows)]
    )
    assert set(records.columns) <= set(RECORD)
    assert [widest_of(records, str(i)) for i in range(len(rows))] == ["2", None, None, "2", None]


def test_the_command_lists_and_shows_latents_and_refuses_in_sentences(
    swept: tuple[Store, list[dict[str, Any]]],
    study_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(swept[0].root))
    assert main(["features", str(study_path), NAME, "--sort", "frequency", "--top", "3", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 3
    assert rows[0]["frequency"] >= rows[1]["frequency"] >= rows[2]["frequency"]
    assert main(["features", str(study_path), NAME, "--latent", str(rows[0]["latent"]), "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    largest = card["examples"][0]
    assert largest["activation"] == pytest.approx(card["max_active"])
    assert largest["activations"][largest["at"]] == pytest.approx(card["max_active"], rel=1e-3)
    assert sum(card["histogram"]["counts"]) == card["n_active"]
    assert main(["features", str(study_path), NAME]) == 0
    assert "most common token" in capsys.readouterr().out
    for arguments, said in (
        (["topk_9_9"], "no SAE called topk_9_9"),
        (["topk_48_3"], "2 SAEs of the study are called"),
        ([], "Say which SAE"),
        ([NAME, "--latent", "48"], "There is no latent 48"),
        (["--part", "error"], "no [parts] table"),
    ):
        assert main(["features", str(study_path), *arguments]) == 1
        assert said in capsys.readouterr().err


def test_features_need_a_result_first(study_path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="sweep the study first"):
        Inspector(Pipeline(Store(tmp_path)), load_study(study_path)).features(NAME)
    with pytest.raises(SpecError, match="no SAE called"):
        Inspector(Pipeline(Store(tmp_path)), load_study(study_path)).features("nothing")
