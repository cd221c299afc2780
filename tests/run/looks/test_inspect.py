"""A closer look at one SAE: what cannot be had costs nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from dmcore.errors import SpecError
from dmcore.progress import Reporter
from dmcore.run.looks.inspect import Inspector
from dmcore.run.parts import train_all
from dmcore.run.pipeline import Pipeline
from dmcore.specs import load_study
from dmcore.store.store import Store
from tests.builders import HOOKS, build_study
from tests.training.part_studies import BASE, build_parts_study


def test_features_that_cannot_be_made_leave_structure_and_detection_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_study: object) -> NoReturn:
        raise SpecError("The unembedding of the model holds NaN: copy or download the model again.")

    monkeypatch.setattr("dmcore.run.looks.features.unembedding", broken)
    monkeypatch.setattr("dmcore.analysis.structure.MOST_TOKENS", 60)
    study, store = load_study(build_study(tmp_path / "study", architectures=("topk",))), Store(tmp_path / "cache")
    Pipeline(store).sweep(study, scale=False)
    said = Inspector(Pipeline(store), study).everything(f"saes/{HOOKS[0]}/topk")
    assert said == "The unembedding of the model holds NaN: copy or download the model again."
    assert [len(list(store.root.glob(f"{stage}/*"))) for stage in ("features", "structure", "detection")] == [0, 1, 1]


def test_codes_of_saes_on_the_parts_that_were_deleted_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmcore.analysis.structure.MOST_TOKENS", 60)
    study = build_parts_study(tmp_path / "study", engine="lean", on=["error", "nonlinear"], tokens=1000)
    store = Store(tmp_path / "cache")
    pipeline = Pipeline(store)
    pipeline.sweep(study)
    train_all(study, "cpu", Reporter(), store)
    assert not pipeline.sweep(study).parts
    look = Inspector(pipeline, study)
    before = look.features("", "error", 1).latents.collect()
    for stage in ("part", "features", "learned"):
        shutil.rmtree(store.root / stage)
    assert look.features("", "error", 1).latents.collect().equals(before)
    for stage in ("part", "features"):
        shutil.rmtree(store.root / stage)
    assert not look.everything(BASE)
    assert len(list((store.root / "features").iterdir())) == 3, "the SAE, and those on its two parts of the first seed"
    shutil.rmtree(store.root / "part")
    assert len(look.learned().latents)
