"""How much memory there is, and what to do when it was too little: halve the work, say so, and go on."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Result = TypeVar("Result")
UNLIMITED = 2**62
CGROUPS = {
    "": ("/sys/fs/cgroup", ("memory.max", "memory.current", "memory.stat")),
    "memory": ("/sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")),
}
"""Where control groups of version 2 and 1 are, by what `/proc/self/cgroup` calls them; limit, use, details."""
OWN_CGROUPS = Path("/proc/self/cgroup")
OUT_OF_MEMORY = ("allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch and its libraries say where they raise no error of its own."""


def available_memory(device: torch.device) -> int:
    """Bytes that a process may still take on a device: the least of what is free, its container's and its own limit."""
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    return host_memory()


def host_memory() -> int:
    """Bytes of the host's memory that this process may still take; torch is not needed."""
    return max(0, min(_free_memory(), _container_memory(), _address_space()))


def _free_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 4 * 2**30


def _container_memory() -> int:
    """What its control group leaves to a process; the least of those around it, which need not be at the root."""
    try:
        own = [line.split(":", 2) for line in OWN_CGROUPS.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        own = []
    left = UNLIMITED
    for controller, (root, names) in CGROUPS.items():
        paths = [
            PurePosixPath(line[2].lstrip("/")) for line in own if len(line) == 3 and controller in line[1].split(",")
        ]
        folders = {Path(root)} | {Path(root, folder) for path in paths for folder in (path, *path.parents)}
        left = min([left, *(_left_in(folder, names) for folder in folders)])
    return left


def _left_in(folder: Path, names: tuple[str, str, str]) -> int:
    try:
        allowed, used = (int((folder / name).read_text(encoding="ascii")) for name in names[:2])
        lines = dict(line.split() for line in (folder / names[2]).read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return UNLIMITED
    # Pages of files that the system would drop at need are counted as used.
    return allowed - used + int(lines.get("inactive_file", 0))


def _address_space() -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return UNLIMITED
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return limit
    return limit - pages * os.sysconf("SC_PAGE_SIZE")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the machine, has no memory left."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def halve_when_out_of_memory(
    work: Callable[[int, int], Result], first: int, last: int, what: str, unit: str
) -> list[Result]:
    """`work(first, last)`; where memory runs out, the same in two halves, and so on down to one unit.

    Args:
        work: does units `first` to `last - 1`.
        first, last: the range.
        what: names the work in the message that says what has been done.
        unit: what is counted, e.g. `contexts`.

    Returns:
        the results of consecutive ranges, in order.
    """
    try:
        return [work(first, last)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or last - first < 2:
            raise
    free_unused()
    half = (first + last) // 2
    log.warning(
        "Out of memory while it was to %s %d %s at once: going on with %d.", what, last - first, unit, half - first
    )
    parts = [(first, half), (half, last)]
    return [one for part in parts for one in halve_when_out_of_memory(work, *part, what, unit)]


def free_unused() -> None:
    """Give back the memory of what nothing refers to any more: SAEs and models refer to themselves in circles."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
