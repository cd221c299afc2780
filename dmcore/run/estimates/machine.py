"""The rates that an estimate of time assumes, by device, and how they are said."""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from dmcore.errors import SpecError

EFFICIENCY = 0.4
"""Share of a device's peak rate that is taken to be reached."""
READ_BYTES_PER_SECOND, WRITE_BYTES_PER_SECOND = 2e9, 1e9
"""A local NVMe disk."""
SECONDS_PER_SAE = 2.0
"""What an SAE takes whatever its size: opening files, intervals, summaries."""
GIB = 2**30


@dataclass(frozen=True)
class Peak:
    """Peak rates of a device for dense matrix products, as its maker gives them, in 10^12 operations a second."""

    half: float
    """bfloat16 and float16."""
    single: float
    """float32, without TF32, which torch leaves off by default."""
    double: float
    """float64."""
    memory_gib: float
    """Its memory in GiB."""


def _own_memory_gib() -> float:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    except (ValueError, OSError):
        return 16.0


OTHER = "GPU"
"""A GPU that is not in the table."""
PEAKS = {
    "H200": Peak(989.0, 67.0, 67.0, 140.0),
    "H100": Peak(989.0, 67.0, 67.0, 80.0),
    "A100": Peak(312.0, 19.5, 19.5, 80.0),
    "A100-40GB": Peak(312.0, 19.5, 19.5, 40.0),
    "V100": Peak(125.0, 15.7, 7.8, 32.0),
    "L40S": Peak(362.0, 91.6, 1.4, 45.0),
    "L4": Peak(121.0, 30.3, 0.5, 22.5),
    "A10": Peak(125.0, 31.2, 1.0, 22.5),
    "T4": Peak(65.0, 8.1, 0.25, 15.0),
    "A6000": Peak(155.0, 38.7, 0.6, 48.0),
    "RTX-4090": Peak(165.0, 82.6, 1.3, 24.0),
    "RTX-3090": Peak(71.0, 35.6, 0.56, 24.0),
    OTHER: Peak(71.0, 35.6, 0.56, 24.0),
    "cpu": Peak(0.4, 0.4, 0.2, 0.0),
}
"""SXM versions where there are several; `GPU` has the rates of an RTX 3090; `cpu` is a small desktop, its memory this
machine's."""
BIG = 1_000_000_000
"""Parameters from which `auto` means an H100."""


@dataclass(frozen=True)
class Machine:
    """Where a study would run."""

    device: str = "auto"
    """A key of `PEAKS`, or `auto`."""
    devices: int = 1
    """Over how many the model is spread."""
    memory_gib: float | None = None
    """Memory of each, in GiB; None for the device's own."""
    tflops: float | None = None
    """Peak rate of each in every dtype, in 10^12 operations a second; None for the device's own."""
    gpu: str = ""
    """What a GPU that is not in the table calls itself."""

    def named(self, parameters: int) -> str:
        """The device that is meant.

        Raises:
            SpecError: it is not one of `PEAKS`.
        """
        if self.device == "auto":
            return "H100" if parameters >= BIG else "cpu"
        known = {name.lower(): name for name in PEAKS}
        if self.device.lower() not in known:
            raise SpecError(
                f"The rates of a device {self.device!r} are not known: give one of {', '.join(PEAKS)}, and --tflops."
            )
        return known[self.device.lower()]

    def peak(self, parameters: int) -> Peak:
        """Its rates and memory, with what the user has given in place of the table's."""
        name = self.named(parameters)
        table = PEAKS[name]
        memory = self.memory_gib or table.memory_gib or _own_memory_gib()
        rates = (self.tflops,) * 3 if self.tflops else (table.half, table.single, table.double)
        return Peak(*rates, memory)


def machine_of_gpu(name: str, memory_gib: float | None) -> Machine:
    """The machine whose GPU calls itself so: `NVIDIA A100-SXM4-40GB`, `NVIDIA GeForce RTX 4090`, `NVIDIA L4`.

    Its own memory goes before the table's; a GPU that is not in the table gets the rates of `OTHER`.
    """
    words = name.upper().replace("-", " ").split()
    run = [*words, *("-".join(pair) for pair in itertools.pairwise(words))]
    plain = [key for key in PEAKS if key in run and key != OTHER]
    if "A10G" in words:
        plain.append("A10")
    if plain == ["A100"] and "40GB" in words:
        plain = ["A100-40GB"]
    return (
        Machine(plain[0], memory_gib=memory_gib) if plain else Machine(OTHER, memory_gib=memory_gib, gpu=name.strip())
    )


@functools.cache
def gpu_here(ask: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run) -> tuple[str, float] | None:
    """Name and memory in GiB of the first GPU, as its driver says; None where it does not. No torch: pages ask."""
    question = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = ask(question, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
        name, _, mebibytes = answer[0].rpartition(",")
        return name.strip(), float(mebibytes) / 1024
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
