"""On a CUDA device the numbers are those of the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import dmcore
from dmcore.math.sparse_codes import ThresholdEncoder, TopKEncoder, decode
from dmcore.results import METRICS
from dmcore.run.pipeline import Pipeline
from dmcore.specs import load_study
from dmcore.store.store import Store
from tests.builders import build_study

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine"),
]


def test_decompose_on_cuda_equals_the_cpu() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 32, generator=g, dtype=torch.float64)
    recon = 0.9 * x + 0.1 * torch.randn(4000, 32, generator=g, dtype=torch.float64)
    groups = torch.arange(4000) // 40
    on_cpu, on_cuda = (dmcore.decompose(x.to(d), recon.to(d), groups=groups.to(d)) for d in ("cpu", "cuda"))
    torch.testing.assert_close(on_cuda.linear_error.cpu(), on_cpu.linear_error, rtol=1e-6, atol=1e-8)
    for metric in METRICS:
        assert getattr(on_cuda, metric) == pytest.approx(getattr(on_cpu, metric), rel=1e-6)


@pytest.mark.parametrize("kind", ["threshold", "topk"])
def test_codes_on_cuda_equal_the_cpus(kind: str) -> None:
    g = torch.Generator().manual_seed(0)
    x, w, b = torch.randn(3000, 64, generator=g), torch.randn(64, 3000, generator=g), torch.randn(3000, generator=g)
    recons = []
    for device in ("cpu", "cuda"):
        if kind == "topk":
            encoder = TopKEncoder(w.to(device), b.to(device), 20)
        else:
            encoder = ThresholdEncoder(w.to(device), b.to(device), torch.full((3000,), 18.0, device=device))
        codes = encoder.encode(x.to(device))
        recons.append(decode(codes, w.T.contiguous().to(device), torch.zeros(64, device=device)).cpu())
    assert float((recons[0] - recons[1]).norm() / recons[0].norm()) < 1e-3


def test_a_sweep_on_cuda_equals_one_on_the_cpu(tmp_path: Path) -> None:
    study = load_study(build_study(tmp_path / "study"))
    cpu = Pipeline(Store(tmp_path / "cpu"), "cpu").sweep(study).records
    cuda = Pipeline(Store(tmp_path / "cuda"), "cuda").sweep(study).records
    for old, new in zip(cpu, cuda, strict=True):
        for metric in METRICS:
            assert new[metric] == pytest.approx(old[metric], rel=1e-3, abs=1e-4)
