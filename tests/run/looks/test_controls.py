"""Controls of an SAE's numbers: run on demand, found by pages and the command, honest where there is too little."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from dmcore.errors import SpecError, StoreError
from dmcore.results.controls import CONTROL_TABLES, GROUPS, METHOD_GROUPS, UNDECIDED, Controls, ControlSettings
from dmcore.run.cli import main
from dmcore.run.jobs.job import KINDS, OF_ONE_SAE
from dmcore.run.looks.inspect import Inspector
from dmcore.run.pipeline import Pipeline
from dmcore.sources.models import load_model, random_model
from dmcore.specs import load_study
from dmcore.store.published import open_published
from dmcore.store.store import Store
from tests.builders import HOOKS, build_model, build_sae, write_contexts

NAME = f"saes/{HOOKS[0]}/topk"
FEW = ControlSettings(draws=8, fold_seeds=2, training_tokens=2_000)


@pytest.fixture(scope="module")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("controls")
    build_model(folder / "model")
    write_contexts(folder / "contexts")
    lines = ["schema = 1", 'name = "controlled"', 'title = "Controlled"', "seed = 0", "[model]", 'path = "model"']
    lines += ["[texts]", 'path = "contexts"', "[settings]", "skip_positions = 4"]
    for name in ("topk", "jumprelu"):
        path = f"saes/{HOOKS[0]}/{name}"
        build_sae(name, HOOKS[0]).save_model(folder / path)
        lines += ["[[saes]]", f'hook = "{HOOKS[0]}"', f'path = "{path}"', "check = false"]
    study = folder / "study.toml"
    study.write_text("\n".join(lines) + "\n")
    return study


@pytest.fixture(scope="module")
def store(study_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("cache"))
    assert not Pipeline(store).sweep(load_study(study_path), scale=False).failures
    return store


@pytest.fixture(scope="module")
def found(study_path: Path, store: Store) -> Controls:
    return Inspector(Pipeline(store), load_study(study_path)).controls(NAME, FEW)


def record_of(store: Store, name: str = NAME) -> dict[str, Any]:
    return open_published("controlled", store).records.filter(sae=name).row(0, named=True)


def test_controls_are_run_once_and_a_page_finds_them(study_path: Path, store: Store, found: Controls) -> None:
    made = (found.folder / "manifest.json").stat().st_mtime_ns
    again = Inspector(Pipeline(store), load_study(study_path)).controls(NAME, FEW)
    assert again.folder == found.folder
    assert (again.folder / "manifest.json").stat().st_mtime_ns == made
    published, own = open_published("controlled", store), record_of(store)
    there = published.controls(own["summary_key"])
    assert there is not None and there.folder == found.folder
    assert published.controls(record_of(store, f"saes/{HOOKS[0]}/jumprelu")["summary_key"]) is None
    for name, schema in CONTROL_TABLES.items():
        assert found[name].schema == pl.Schema(schema), name
    assert set(found["controls"]["group"]) == set(GROUPS)
    assert sum(found.counts) == len(found["controls"])
    assert found.about["n_tokens"] == own["n_tokens"]


def test_the_saes_own_numbers_are_those_of_its_record(store: Store, found: Controls) -> None:
    own, row = record_of(store), found["dictionaries"].row(by_predicate=pl.col("name") == "own", named=True)
    for metric in ("fvu", "fvu_nonlinear", "r2_error", "r2_error_norm_sq"):
        for end in ("", "_low", "_high"):
            assert row[f"{metric}{end}"] == pytest.approx(own[f"{metric}{end}"], abs=2e-5)


def test_what_is_known_exactly_holds_on_a_real_study(found: Controls) -> None:
    for name in ("dead_linear", "identity", "random_norm"):
        assert found.control(name)["verdict"] == "passed", name
    assert found["dictionaries"].row(by_predicate=pl.col("name") == "identity", named=True)["r2_error"] is None
    row = found.control("shuffled_vector")
    assert row["value_low"] - 0.02 < row["expected"] < row["value_high"] + 0.02
    remarks = found["remarks"].rows(named=True)
    assert any(row["topic"] == "seeds" for row in remarks), "there are no SAEs of other training seeds"


def test_some_contexts_are_an_entry_of_their_own_and_all_come_first(
    study_path: Path, store: Store, found: Controls
) -> None:
    look = Inspector(Pipeline(store), load_study(study_path))
    some = look.controls(NAME, ControlSettings(contexts=25, draws=8, fold_seeds=2, training_tokens=0))
    assert some.folder != found.folder
    assert some.about["n_contexts"] < some.about["all_contexts"] == 30
    texts = " ".join(some["remarks"]["text"])
    assert "of the study's 30 contexts" in texts
    assert "No small SAE was trained" in texts
    there = open_published("controlled", store).controls(record_of(store)["summary_key"])
    assert there is not None and there.folder == found.folder


def test_too_few_contexts_give_no_verdict_about_texts(study_path: Path, tmp_path: Path, store: Store) -> None:
    from dataclasses import replace

    study = replace(load_study(study_path), settings=replace(load_study(study_path).settings, n_folds=2))
    small = Store(tmp_path)
    assert not Pipeline(small).sweep(study, scale=False).failures
    few = ControlSettings(contexts=4, draws=8, fold_seeds=2, training_tokens=0)
    sampled = Inspector(Pipeline(small), study)
    import dmcore.analysis.context_sample as context_sample

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context_sample, "TOKENS_PER_WEIGHT", 1)
        made = sampled.controls(NAME, few)
    assert made.about["n_contexts"] < 10
    rows = made["controls"].filter(pl.col("group").is_in(["known", "dictionaries", "split", "tokens"]))
    assert set(rows["verdict"]) == {UNDECIDED}
    assert all("too few" in note.lower() for note in rows["note"])


def test_the_command_prints_a_line_a_control_and_json(
    study_path: Path, store: Store, found: Controls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(store.root))
    options = ["--draws", "8", "--training-tokens", "2000", "--contexts", "0", "--device", "cpu"]
    assert main(["controls", str(study_path), "topk", *options]) == 0
    told = capsys.readouterr().out
    total = len(found["controls"])
    method = found["controls"].filter(pl.col("group").is_in(METHOD_GROUPS)).height
    assert f" of {method} controls of the method passed, " in told
    assert f" of {total - method} of this SAE and its study" in told
    for name in found["controls"]["name"]:
        assert f"  {name} " in told
    assert main(["controls", str(study_path), "topk", *options, "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["sae"] == NAME and len(record["controls"]) == total
    assert set(record) == {"sae", "about", *CONTROL_TABLES}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "The study has no SAE called nothing"),
        (["topk", "--draws", "7"], "draws is 7: give a whole number, 8 or above"),
        (["topk", "--contexts", "-2"], "contexts is -2"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    study_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], said: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("DMCORE_CACHE", str(store.root))
    assert main(["controls", str(study_path), *arguments, "--device", "cpu"]) == 1
    assert said in capsys.readouterr().err


def test_an_sae_without_a_result_is_told_to_be_swept(study_path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="sweep the study first"):
        Inspector(Pipeline(Store(tmp_path)), load_study(study_path)).controls(NAME)


def test_a_job_can_be_of_controls() -> None:
    assert "controls" in OF_ONE_SAE and "controls" in KINDS


def test_a_random_copy_of_a_model_has_its_shape_and_other_weights(study_path: Path) -> None:
    study = load_study(study_path)
    ids = torch.arange(3, 27)[None]

    def acts(model: Any) -> torch.Tensor:
        return model.run(ids, [HOOKS[0]], with_loss=False).acts[HOOKS[0]]

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    real, one, same, other = (
        acts(model) for model in (load_model(study, "cpu"), *(random_model(study, "cpu", seed) for seed in (0, 0, 1)))
    )
    assert torch.equal(torch.random.get_rng_state(), before), "nobody else's chance is touched"
    assert one.shape == real.shape
    torch.testing.assert_close(one, same)
    assert not torch.allclose(one, real, atol=0.01) and not torch.allclose(one, other, atol=0.01)


def test_a_random_copy_that_does_not_fit_is_said_so(study_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dmcore.sources.models as models

    monkeypatch.setattr(models, "available_memory", lambda _: 1000)
    with pytest.raises(SpecError, match="random weights takes"):
        random_model(load_study(study_path), "cpu", 0)
