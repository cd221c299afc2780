"""Memory: what a control group leaves, and what counts as having none left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dmcore import memory


def group(folder: Path, limit: str, used: int, inactive: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(limit)
    (folder / "memory.current").write_text(str(used))
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {inactive}\n")


def test_a_limit_below_the_root_counts_and_the_least_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, own = tmp_path / "cgroup", tmp_path / "self"
    group(tree, "max", 0)
    group(tree / "slurm" / "job_1", "9000", 4000, inactive=500)
    group(tree / "slurm" / "job_1" / "step_0", "8500", 0)
    own.write_text("0::/slurm/job_1/step_0\n")
    monkeypatch.setattr(memory, "CGROUPS", {"": (str(tree), memory.CGROUPS[""][1])})
    monkeypatch.setattr(memory, "OWN_CGROUPS", own)
    assert memory._container_memory() == 5500
    own.write_text("0::/../elsewhere\n")
    assert memory._container_memory() == memory.UNLIMITED
    group(tree, "700", 0)
    assert memory._container_memory() == 700, "in a container the root is its own"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_there_is_no_memory(error: Exception, expected: bool) -> None:
    assert memory.is_out_of_memory(error) is expected
