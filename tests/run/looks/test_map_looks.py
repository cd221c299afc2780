"""Shrinkage and transfer: made on demand, found by pages, commands and jobs, refused in sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dmcore.errors import DataError, SpecError
from dmcore.results import RECORD
from dmcore.results.shrinkage import SHRINKAGE_TABLES
from dmcore.results.transfer import ALL_TEXTS, BY, MOST_MEMBERS, TRANSFER_TABLES, transfer_members, transfer_spec
from dmcore.run.cli import main
from dmcore.run.looks.inspect import Inspector
from dmcore.run.pipeline import Pipeline
from dmcore.specs import load_study
from dmcore.store.published import open_published
from dmcore.store.store import Store
from tests.builders import LENGTH, N_CONTEXTS, build_model, build_sae, write_contexts

RESIDUAL, BEFORE, Z = "blocks.2.hook_resid_post", "blocks.1.hook_resid_post", "blocks.1.attn.hook_z"
GRID = [(RESIDUAL, 24, 3), (RESIDUAL, 48, 3), (RESIDUAL, 48, 6), (BEFORE, 48, 3), (Z, 48, 3)]
NAME = f"saes/{RESIDUAL}/topk_48_3"
ALONE = f"saes/{Z}/topk_48_3"
Swept = tuple[Store, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    build_model(folder / "model")
    write_contexts(folder / "contexts")
    np.save(folder / "contexts" / "domains.npy", np.tile(np.arange(LENGTH, dtype=np.uint8) % 2, (N_CONTEXTS, 1)))
    sidecar = {"n_contexts": N_CONTEXTS, "domains": ["even", "odd"]}
    (folder / "contexts" / "contexts.json").write_text(json.dumps(sidecar))
    lines = ["schema = 1", 'name = "maps"', 'title = "Maps"', "seed = 0", "[model]", 'path = "model"']
    lines += ["[texts]", 'path = "contexts"', "[settings]", "skip_positions = 4"]
    for hook, width, k in GRID:
        path = f"saes/{hook}/topk_{width}_{k}"
        build_sae("topk", hook, seed=width + k, d_sae=width, k=k).save_model(folder / path)
        lines += ["[[saes]]", f'hook = "{hook}"', f'path = "{path}"', "check = false"]
    study = folder / "study.toml"
    study.write_text("\n".join(lines) + "\n")
    return study


@pytest.fixture(scope="module")
def swept(study_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    store = Store(tmp_path_factory.mktemp("cache"))
    outcome = Pipeline(store).sweep(load_study(study_path), scale=False)
    assert not outcome.failures
    return store, outcome.records


def record_of(swept: Swept, name: str = NAME) -> dict[str, Any]:
    return next(record for record in swept[1] if record["sae"] == name)


def inspector(swept: Swept, study_path: Path) -> Inspector:
    return Inspector(Pipeline(swept[0]), load_study(study_path))


def test_a_ladder_ends_at_the_numbers_of_the_sweep_and_a_page_finds_it(swept: Swept, study_path: Path) -> None:
    own = record_of(swept)
    published = open_published("maps", swept[0])
    assert published.shrinkage(own["summary_key"]) is None
    found = inspector(swept, study_path).shrinkage(f"{RESIDUAL}/topk_48_3")
    full = found.rung("full")
    assert full["r2"] == pytest.approx(own["r2_error"], abs=1e-5)
    assert full["r2_low"] == pytest.approx(own["r2_error_low"], abs=0.01), "there the luck of the fit counts too"
    assert found.rung("scale_x")["r2"] == pytest.approx(own["shrinkage"], abs=1e-5)
    there = published.shrinkage(own["summary_key"])
    assert there is not None and there.folder == found.folder
    made = (found.folder / "manifest.json").stat().st_mtime_ns
    assert inspector(swept, study_path).shrinkage(NAME).folder == found.folder
    assert (found.folder / "manifest.json").stat().st_mtime_ns == made
    assert found.about["n_tokens"] == own["n_tokens"]


@pytest.mark.parametrize("by", BY)
def test_a_matrix_has_the_own_numbers_on_its_diagonal_and_a_page_finds_it(
    swept: Swept, study_path: Path, by: str
) -> None:
    own = record_of(swept)
    published = open_published("maps", swept[0])
    assert published.transfer(own["summary_key"], by) is None
    found = inspector(swept, study_path).transfer(NAME, by)
    there = published.transfer(own["summary_key"], by)
    assert there is not None and there.folder == found.folder
    records = {record["summary_key"]: record for record in swept[1]}
    diagonal = found["cells"].filter((pl.col("kept") == "map") & (pl.col("fitted") == pl.col("tested"))).sort("fitted")
    for member, row in zip(found["members"].sort("member").to_dicts(), diagonal.to_dicts(), strict=True):
        if by != "domain" or member["name"] == ALL_TEXTS:
            record = records[member["summary_key"]]
            assert row["r2"] == pytest.approx(record["r2_error"], abs=1e-5)
            assert member["n_tokens"] == record["n_tokens"]
    names = found["members"]["name"].to_list()
    expected = {
        "domain": ["even", "odd", ALL_TEXTS],
        "layer": [f"saes/{BEFORE}/topk_48_3", NAME],
        "width": [f"saes/{RESIDUAL}/topk_24_3", NAME],
        "sae": [f"saes/{RESIDUAL}/topk_24_3", NAME, f"saes/{RESIDUAL}/topk_48_6"],
    }[by]
    assert names == expected
    # The same matrix around another of its members is found, not made again.
    if by == "layer":
        other = record_of(swept, f"saes/{BEFORE}/topk_48_3")
        assert published.transfer(other["summary_key"], by).folder == found.folder  # type: ignore[union-attr]


def test_members_share_a_size_and_are_not_too_many() -> None:
    base = dict.fromkeys(RECORD)
    rows = [
        {**base, "summary_key": f"{layer}-{width}-{l0}", "site": f"blocks.{layer}.hook_resid_post", "stream": "residual",
         "layer": layer, "d_sae": width, "l0": float(l0), "label": "topk", "d_model": 32 if layer == 9 else 16}
        for layer in (0, 1, 2, 9) for width in (64, 128, 256) for l0 in range(4, 24)
    ]  # fmt: skip
    records = pl.DataFrame(rows, schema=RECORD)
    assert transfer_members(records, "1-128-8", "layer") == ["0-128-8", "1-128-8", "2-128-8"]
    assert transfer_members(records, "1-128-8", "width") == ["1-64-8", "1-128-8", "1-256-8"]
    assert transfer_members(records, "1-128-8", "domain") == ["1-128-8"]
    found = transfer_members(records, "1-128-8", "sae")
    assert len(found) == MOST_MEMBERS and {"1-64-8", "1-128-8", "1-256-8"} <= set(found)
    assert transfer_spec("sae", found) == transfer_spec("sae", found[::-1])


def test_what_cannot_be_compared_is_said_in_a_sentence(swept: Swept, study_path: Path) -> None:
    look = inspector(swept, study_path)
    with pytest.raises(DataError, match="one SAE with a result to compare between widths"):
        look.transfer(ALONE, "width")
    with pytest.raises(SpecError, match="choose domain, layer, sae, width"):
        look.transfer(NAME, "colour")
    assert "one SAE with a result" in look.transfers(ALONE), "the texts are there, the rest is said"
    assert open_published("maps", swept[0]).transfer(record_of(swept, ALONE)["summary_key"], "domain") is not None


def test_a_study_without_domains_says_what_to_name(tmp_path: Path, study_path: Path, swept: Swept) -> None:
    del study_path, swept
    from tests.builders import build_study

    study = load_study(build_study(tmp_path / "plain", architectures=("topk",)))
    store = Store(tmp_path / "cache")
    Pipeline(store).sweep(study, only=lambda i: i == 0)
    look = Inspector(Pipeline(store), study)
    with pytest.raises(DataError, match="no two domains"):
        look.transfer(study.saes[0].name, "domain")
    with pytest.raises(DataError):
        look.transfers(study.saes[0].name)


def test_the_commands_print_tables_and_json(
    swept: Swept, study_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(swept[0].root))
    assert main(["shrinkage", str(study_path), f"{RESIDUAL}/topk_48_3"]) == 0
    told = capsys.readouterr().out
    assert "scale_x" in told and "full" in told and "of the linear part" in told and "symmetric" in told
    assert main(["shrinkage", str(study_path), f"{RESIDUAL}/topk_48_3", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["sae"] == NAME and set(SHRINKAGE_TABLES) < set(record)
    assert record["ladder"][-1]["r2"] == pytest.approx(record_of(swept)["r2_error"], abs=1e-5)
    assert main(["transfer", str(study_path), f"{RESIDUAL}/topk_48_3", "--by", "layer"]) == 0
    told = capsys.readouterr().out
    assert "maps between layers" in told and "R2, slope up to one number" in told and "fitted on 1" in told
    assert main(["transfer", str(study_path), f"{RESIDUAL}/topk_48_3", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [one["about"]["by"] for one in records] == list(BY)
    assert all(set(TRANSFER_TABLES) < set(one) for one in records)


def test_the_commands_refuse_in_one_line(
    swept: Swept, study_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(swept[0].root))
    for words, said in (
        (["transfer", str(study_path), "nonsense"], "no SAE called nonsense"),
        (["shrinkage", str(study_path), "nonsense"], "no SAE called nonsense"),
        (["transfer", str(study_path), ALONE, "--by", "width"], "one SAE with a result"),
        (["transfer", str(study_path), NAME, "--by", "colour"], "--help"),
    ):
        assert main(words) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ") and said in error, words
    assert main(["transfer", str(study_path), ALONE]) == 1, "some of it could not be had"
    assert "one SAE with a result" in capsys.readouterr().err


def test_the_worker_makes_both(swept: Swept, study_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dmcore.progress import Reporter
    from dmcore.run.jobs import child
    from dmcore.run.jobs.job import OF_ONE_SAE
    from dmcore.run.jobs.queue import Queue

    del tmp_path
    monkeypatch.setenv("DMCORE_CACHE", str(swept[0].root))
    queue = Queue(swept[0].root)
    for kind in ("shrinkage", "transfer"):
        assert kind in OF_ONE_SAE
        job = queue.submit(kind, study_path, target=f"saes/{RESIDUAL}/topk_48_6")
        state, said = child._look(job, load_study(study_path), "cpu", Reporter(), swept[0])
        assert (state, said) == ("done", "")
    key = record_of(swept, f"saes/{RESIDUAL}/topk_48_6")["summary_key"]
    published = open_published("maps", swept[0])
    assert published.shrinkage(key) is not None and all(published.transfer(key, by) is not None for by in BY)
