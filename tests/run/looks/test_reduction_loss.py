"""What a method gives back of the loss equals a plain splice; keys of versions; the command over all SAEs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import dmcore.run.looks.error_looks as looks
from dmcore.analysis import coding_methods
from dmcore.analysis.coding_methods import CodingProblem, DictionaryAtoms, coding_method, register_method
from dmcore.errors import DataError, SpecError
from dmcore.math.recovered import loss_recovered
from dmcore.results.reduction import CODING, LOSS_METRICS, ReductionSettings
from dmcore.run.cli import main
from dmcore.run.looks.inspect import Inspector
from dmcore.run.pipeline import Pipeline
from dmcore.sources.dictionary import Dictionary
from dmcore.specs import Study, load_study
from dmcore.store.store import Store
from tests.builders import HOOKS, N_CONTEXTS, build_sae, build_study
from tests.run.looks.test_downstream import N_SCORED, RESIDUAL, SKIP, plain_logits, plain_parts

ALL = ReductionSettings(coding_contexts=0, loss_contexts=N_CONTEXTS)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_study(tmp_path_factory.mktemp("study"), architectures=("topk",))


@pytest.fixture(scope="module")
def study(path: Path) -> Study:
    return load_study(path)


@pytest.fixture(scope="module")
def store(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("cache"))
    assert not Pipeline(store).sweep(study, scale=False).failures
    return store


def plain_losses(study: Study, tokens: np.ndarray, vectors: np.ndarray | None) -> np.ndarray:
    """(n_contexts, n_scored)"""
    logits = plain_logits(study, tokens, vectors)[:, :-1].double()
    targets = torch.from_numpy(tokens)[:, 1:]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")[:, SKIP:].numpy()


def test_the_loss_of_each_method_is_that_of_a_plain_splice(study: Study, store: Store) -> None:
    found = Inspector(Pipeline(store), study).reduction(RESIDUAL, settings=ALL)
    plain = plain_parts(study, store)
    sae, x = Dictionary(build_sae("topk", HOOKS[0])), torch.from_numpy(plain["x"]).float()
    rows = x.flatten(0, 1)
    codes = coding_method("nnls_on_support").code(CodingProblem.of(rows, sae, DictionaryAtoms(sae, rows)))
    vectors = {
        "encoder": plain["recon"],
        "skip_16": plain["recon"] + plain["linear"],
        "nnls_on_support": sae.decode(codes, rows).double().reshape(x.shape).numpy(),
    }
    clean, zero, own = (
        plain_losses(study, plain["tokens"], v) for v in (None, np.zeros_like(plain["x"]), plain["recon"])
    )
    for name, put in vectors.items():
        row, losses = found.method(name), plain_losses(study, plain["tokens"], put)
        assert (row["loss_contexts"], row["loss_tokens"]) == (N_CONTEXTS, N_CONTEXTS * N_SCORED)
        assert row["ce"] == pytest.approx(losses.mean(), abs=1e-4)
        assert row["delta"] == pytest.approx((losses - clean).mean(), abs=1e-4)
        for column, worst in (("recovered_sae", own), ("recovered_zero", zero)):
            expected = loss_recovered(clean, losses, worst, seed=study.seed)
            if not np.isfinite(expected.value):
                assert row[column] is None
                continue
            ends = [row[f"{column}{end}"] for end in ("", "_low", "_high")]
            assert ends == pytest.approx([expected.value, expected.low, expected.high], abs=5e-3), (name, column)


def test_all_but_some_skips_are_run_and_none_if_none_are_asked_for(study: Study, store: Store) -> None:
    look = Inspector(Pipeline(store), study)
    some = look.reduction(RESIDUAL, settings=ReductionSettings(loss_contexts=5))
    run = some["methods"].filter(pl.col("ce").is_not_null())
    assert run.filter(pl.col("kind") == "skip")["rank"].to_list() == [8, 16]
    assert run["method"].to_list()[-len(CODING) :] == list(CODING)
    assert set(run["loss_contexts"]) == {5} and some.about["loss_contexts"] == 5
    none = look.reduction(RESIDUAL, settings=ReductionSettings(loss_contexts=0))
    assert none.folder != some.folder
    assert all(none["methods"][metric].is_null().all() for metric in LOSS_METRICS)
    with pytest.raises(SpecError, match="loss_contexts is -1"):
        ReductionSettings(loss_contexts=-1)


def test_a_model_without_a_loss_is_said_in_a_remark(
    study: Study, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Inspector(Pipeline(store), study)
    monkeypatch.setattr(look._model, "predicts", False)
    found = look.reduction(RESIDUAL, methods=["nnls_on_support"])
    assert found["methods"]["ce"].is_null().all() and found.method("encoder")["fvu"] > 0
    (said,) = found["remarks"].filter(pl.col("topic") == "loss")["text"]
    assert "predicts no next token" in said


def test_a_method_of_another_version_is_made_again(study: Study, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coding_methods, "_METHODS", dict(coding_methods._METHODS))
    look, made = Inspector(Pipeline(store), study), []

    def reduced(version: str, share: float) -> Any:
        def scaled(problem: CodingProblem) -> Any:
            made.append(version)
            return coding_methods.SparseCodes(problem.own.offsets, problem.own.latents, problem.own.values * share)

        register_method("scaled", "Scaled", "our lab", scaled, version=version, replace=True)
        return look.reduction(RESIDUAL, methods=["scaled"])

    one, two, again = reduced("1", 0.5), reduced("2", 0.25), reduced("1", 0.5)
    assert one.method("scaled")["fvu"] != two.method("scaled")["fvu"]
    assert again.folder == one.folder != two.folder and set(made) == {"1", "2"}


def test_the_command_goes_over_all_saes_and_tells_which_one_failed(
    path: Path, study: Study, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(store.root))
    real, broken = looks.make_reduction, study.saes[1].name

    def make(asked: Any, *arguments: Any) -> Any:
        if asked.sae.sae.name == broken:
            raise DataError("Its weights hold NaN: check them.")
        return real(asked, *arguments)

    monkeypatch.setattr(looks, "make_reduction", make)
    given = ["reduce", str(path), "--methods", "nnls_on_support", "--loss-contexts", "3"]
    assert main([*given, "--json"]) == 1
    out, error = capsys.readouterr()
    records = json.loads(out)
    assert list(dict.fromkeys(r["sae"] for r in records)) == [s.name for s in study.saes if s.name != broken]
    assert f"error: {broken}: Its weights hold NaN: check them.\n" in error
    assert main(given) == 1
    assert f"(1 of {len(study.saes)})" in capsys.readouterr().out
    monkeypatch.setenv("DMCORE_CACHE", str(store.root / "nothing"))
    assert main(given) == 1
    assert "sweep it first" in capsys.readouterr().err
