"""The structure of an SAE's error: made on demand, found by the page and the command, refused in sentences."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmcore.errors import SpecError, StoreError
from dmcore.results.structure import SPECTRUM_PARTS, STRUCTURE_TABLES
from dmcore.run.cli import main
from dmcore.run.looks.inspect import Inspector
from dmcore.run.pipeline import Pipeline
from dmcore.specs import load_study
from dmcore.store.published import open_published
from dmcore.store.store import Store
from tests.builders import D_MODEL
from tests.run.test_scaling import MAIN, scaling_study

NAME = f"saes/{MAIN}/topk_48_3"
Swept = tuple[Store, list[dict[str, Any]]]


@pytest.fixture(scope="module", autouse=True)
def few_high_tokens() -> Iterator[None]:
    """Clusters of 200 tokens take a fraction of the time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("dmcore.analysis.structure.MOST_TOKENS", 200)
        yield


@pytest.fixture(scope="module")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scaling_study(tmp_path_factory.mktemp("structure"))


@pytest.fixture(scope="module")
def swept(study_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    store = Store(tmp_path_factory.mktemp("cache"))
    outcome = Pipeline(store).sweep(load_study(study_path), scale=False)
    assert not outcome.failures
    return store, outcome.records


def test_a_structure_is_made_once_and_a_page_finds_it(swept: Swept, study_path: Path) -> None:
    store, records = swept
    found = Inspector(Pipeline(store), load_study(study_path)).structure(f"{MAIN}/topk_48_3")
    own = next(record for record in records if record["sae"] == NAME)
    assert (found.about["d_model"], found.about["d_sae"]) == (D_MODEL, 48)
    assert found.part("nonlinear")["variance_share"] == pytest.approx(own["fvu_nonlinear"], rel=0.02)
    assert found.part("error")["variance_share"] < own["fvu"], "variance is about the error's own mean"
    published = open_published("wide", store)
    there = published.structure(own["summary_key"])
    assert there is not None and there.folder == found.folder
    made = (found.folder / "manifest.json").stat().st_mtime_ns
    assert Inspector(Pipeline(store), load_study(study_path)).structure(NAME).folder == found.folder
    assert (found.folder / "manifest.json").stat().st_mtime_ns == made
    assert all(published.structure(r["summary_key"]) is None for r in records if r["sae"] != NAME)


def test_a_structure_from_summaries_alone_is_the_same(swept: Swept, study_path: Path, tmp_path: Path) -> None:
    store, _ = swept
    for stage in ("summary", "index"):
        shutil.copytree(store.root / stage, tmp_path / stage)
    study = load_study(study_path)
    first, again = (Inspector(Pipeline(one), study).structure(NAME) for one in (store, Store(tmp_path)))
    assert first.folder != again.folder
    for file in sorted(path.name for path in first.folder.iterdir()):
        if file != "manifest.json":
            assert (first.folder / file).read_bytes() == (again.folder / file).read_bytes(), file


def test_what_sentences_compare_is_measured_and_small_against_the_dimensions(swept: Swept, study_path: Path) -> None:
    found = Inspector(Pipeline(swept[0]), load_study(study_path)).structure(NAME)
    k = found.compared_k
    assert k in found["stability"]["k"].to_list() and k in found["alignment"]["k"].to_list()
    assert D_MODEL / 16 < k <= D_MODEL / 8
    row = found.overlap("nonlinear", k)
    assert row is not None and row["chance"] == k / D_MODEL
    assert found.overlap("nonlinear", D_MODEL) is None


def test_the_command_prints_lines_or_all_tables(
    swept: Swept, study_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(swept[0].root))
    found = Inspector(Pipeline(swept[0]), load_study(study_path)).structure(NAME)
    assert main(["structure", str(study_path), NAME, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["sae"] == NAME and printed["about"] == dict(found.about)
    assert set(printed) == {"sae", "about", *STRUCTURE_TABLES}
    for name in STRUCTURE_TABLES:
        assert printed[name] == found[name].to_dicts(), name
    assert main(["structure", str(study_path), f"{MAIN}/topk_48_3"]) == 0
    text = capsys.readouterr().out
    head, title, *lines = text.splitlines()
    assert head.startswith(f"{NAME}: {found.about['n_tokens']:,} tokens")
    assert "effective rank" in title
    nonlinear = next(line for line in lines if line.startswith("  nonlinear"))
    assert f"{found.part('nonlinear')['effective_rank']:.1f}" in nonlinear
    column = title.index("effective rank")
    for part, line in zip(SPECTRUM_PARTS, lines, strict=False):
        assert line.split()[0] == part
        assert line[column - 2 : column].isspace() and line[column].isdigit(), "columns are aligned"
    for text in found["remarks"]["text"]:
        assert f"  note: {text}" in lines
    for part in ("error", "nonlinear"):
        k = found.chosen_k(part)
        said = next(line for line in lines if line.startswith(f"  clusters of {part}:"))
        assert said.removeprefix(f"  clusters of {part}: ").startswith("none" if k is None else f"{k}, silhouette")


def test_what_cannot_be_looked_at_is_said_in_a_sentence(
    swept: Swept,
    study_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(swept[0].root))
    for arguments, said in (
        (["topk_9_9"], "no SAE called topk_9_9"),
        (["topk_48_3"], "2 SAEs of the study are called"),
        ([], f"Say which SAE: saes/{MAIN}/"),
    ):
        assert main(["structure", str(study_path), *arguments]) == 1
        assert said in capsys.readouterr().err
    with pytest.raises(SpecError, match="no SAE called"):
        Inspector(Pipeline(Store(tmp_path)), load_study(study_path)).structure("nothing")
    with pytest.raises(StoreError, match="sweep the study first"):
        Inspector(Pipeline(Store(tmp_path)), load_study(study_path)).structure(NAME)
    assert not list(tmp_path.glob("structure/*")), "nothing is made for an SAE without a result"
