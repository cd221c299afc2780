"""The rates that an estimate of time assumes, by device, and how they are said."""

from __future__ import annotations

import os
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


PEAKS = {
    "H100": Peak(989.0, 67.0, 67.0, 80.0),
    "A100": Peak(312.0, 19.5, 19.5, 80.0),
    "cpu": Peak(0.4, 0.4, 0.2, 0.0),
}
"""SXM versions; `cpu` is a small desktop, its memory this machine's."""
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
