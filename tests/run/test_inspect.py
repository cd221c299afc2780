"""A closer look at one SAE: what cannot be had costs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from dmcore.errors import SpecError
from dmcore.run.inspect import Inspector
from dmcore.run.pipeline import Pipeline
from dmcore.specs import load_study
from dmcore.store.store import Store
from tests.builders import HOOKS, build_study


def test_features_that_cannot_be_made_leave_structure_and_detection_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_study: object) -> NoReturn:
        raise SpecError("The unembedding of the model holds NaN: copy or download the model again.")

    monkeypatch.setattr("dmcore.run.features.unembedding", broken)
    monkeypatch.setattr("dmcore.analysis.structure.MOST_TOKENS", 60)
    study, store = load_study(build_study(tmp_path / "study", architectures=("topk",))), Store(tmp_path / "cache")
    Pipeline(store).sweep(study, scale=False)
    said = Inspector(Pipeline(store), study).everything(f"saes/{HOOKS[0]}/topk")
    assert said == "The unembedding of the model holds NaN: copy or download the model again."
    assert [len(list(store.root.glob(f"{stage}/*"))) for stage in ("features", "structure", "detection")] == [0, 1, 1]
