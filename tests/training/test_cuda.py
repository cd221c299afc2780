"""On a CUDA device SAEs train as on the CPU, up to rounding, and go on after an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dmcore.errors import Cancelled
from dmcore.progress import Reporter
from dmcore.store.store import Store
from dmcore.training import train_study
from tests.training.studies import build_train_study

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine"),
]


@pytest.mark.parametrize("engine", ["sae-lens", "lean"])
@pytest.mark.parametrize("source", ["live", "captured"])
def test_training_on_cuda_comes_to_what_the_cpu_comes_to(
    engine: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmcore.training.loop.CHECKPOINT_SECONDS", 0.0)
    found = {}
    for device in ("cpu", "cuda"):
        study = build_train_study(
            tmp_path / device, architectures=("topk", "batchtopk", "jumprelu"), source=source, engine=engine
        )
        if device == "cuda":
            calls = iter(range(10**9))
            with pytest.raises(Cancelled):
                stop = Reporter(should_cancel=lambda calls=calls: next(calls) > 80)
                train_study(study, device, stop, Store(study.folder / "cache"))
        found[device] = train_study(study, device, Reporter(), Store(study.folder / "cache"))
    for cpu, cuda in zip(found["cpu"], found["cuda"], strict=True):
        assert cuda.fvu == pytest.approx(cpu.fvu, rel=0.1)
        assert cuda.l0 == pytest.approx(cpu.l0, rel=0.2)
