"""An encoder and both stacks of an encoder-decoder: SAEs trained by `train-saes`, decomposed by `sweep`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from dmcore.run.cli import main
from tests.training.studies import build_train_study


@pytest.mark.parametrize(
    ("model", "hooks"),
    [
        ("bert", ("blocks.1.hook_resid_post", "blocks.0.hook_mlp_out", "blocks.2.attn.hook_z")),
        ("t5", ("encoder.1.hook_resid_post", "decoder.2.hook_resid_mid_cross", "decoder.1.cross_attn.hook_z")),
    ],
)
def test_models_that_are_no_decoders_are_trained_on_and_decomposed(
    model: str,
    hooks: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path / "cache"))
    study = build_train_study(tmp_path, model, hooks=hooks, architectures=("topk", "batchtopk"), tokens=4000)
    file = str(tmp_path / "study.toml")
    assert main(["train-saes", file, "--device", "cpu", "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert [one["site"] for one in trained] == [sae.hook for sae in study.saes]
    assert main(["sweep", file, "--device", "cpu", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["sae"] for record in records] == [one["sae"] for one in trained]
    for record, one in zip(records, trained, strict=True):
        assert record["fvu"] == pytest.approx(one["fvu"], rel=0.3), "the contexts are others"
        assert record["fvu"] < 0.9
        assert math.isfinite(record["r2_error"])
        assert 0 < record["fvu_nonlinear"] <= record["fvu"] * 1.2
