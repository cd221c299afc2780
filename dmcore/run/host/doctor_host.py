"""What `doctor` asks of a host: Python, packages, torch and the GPU's driver, memory. torch is not loaded."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Mapping, Sequence

from dmcore.run.host import facts
from dmcore.run.host.checks import FAIL, OK, WARN, Check
from dmcore.run.host.facts import Gpu, Memory
from dmcore.store.disk import size_text

PYTHONS = ((3, 11), (3, 14))
"""The first that will do, and the first that will not."""
INSTALL = "`pip install -r requirements.txt`"
LITTLE_MEMORY = 4 * 2**30
LITTLE_GPU_MEMORY = 6 * 2**30


def python_check(version: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """Whether this Python will do."""
    said = f"Python {'.'.join(map(str, version))} on {platform.system()} {platform.machine()}."
    if PYTHONS[0] <= version[:2] < PYTHONS[1]:
        return Check("python", OK, said)
    return Check("python", FAIL, said, "Use Python 3.11, 3.12 or 3.13.")


def packages_check(pins: Mapping[str, str], brought: Mapping[str, str], found: Mapping[str, str | None]) -> Check:
    """Whether what is installed is what dmcore was tested with.

    Args:
        pins: packages that are needed, and their versions.
        brought: those that these bring along.
        found: installed versions; None or absent for what is not there.
    """
    if not pins:
        return Check("packages", WARN, "requirements.txt is not beside dmcore, so versions cannot be compared.")
    missing = [name for name in pins if not found.get(name)]
    if missing:
        return Check("packages", FAIL, f"Not installed: {_some(missing)}.", f"Run {INSTALL}.")
    other = [f"{name} {found[name]} (not {pin})" for name, pin in pins.items() if found[name] != pin]
    if other:
        return Check("packages", WARN, f"Other versions than were tested: {_some(other)}.", f"Run {INSTALL}.")
    strays = [
        f"{name} {found[name]} (not {pin})" for name, pin in brought.items() if found.get(name) not in {None, pin}
    ]
    if strays:
        said = f"All {len(pins)} needed are as tested; of what they bring along: {_some(strays)}."
        return Check("packages", WARN, said, f"Run {INSTALL} -c constraints.txt.")
    return Check("packages", OK, f"All {len(pins)} that are needed, and what they bring along, are as tested.")


def _some(words: Sequence[str], n: int = 4) -> str:
    more = f" and {len(words) - n} more" if len(words) > n else ""
    return ", ".join(words[:n]) + more


def installed(*pins: Mapping[str, str]) -> dict[str, str | None]:
    """The installed version of each package."""
    return {name: facts.version_of(name) for names in pins for name in names}


def torch_check(
    version: str | None, cuda: str | None, driver: tuple[int, int] | None, gpus: Sequence[Gpu], *, device_file: bool
) -> Check:
    """Whether torch and the GPU's driver match.

    Args:
        version: of torch; None where it is not installed.
        cuda: that torch was built for; None for a build without.
        driver: the newest CUDA that the driver can run; None where it does not say.
        gpus: what the driver sees.
        device_file: whether the system has a GPU's device file, driver or not.
    """
    if version is None:
        return Check(
            "torch", FAIL, "torch is not installed: pages work, and nothing can be computed.", f"Run {INSTALL}."
        )
    if not gpus:
        if device_file:
            said = f"torch {version}; there is a GPU, and its driver does not answer."
            return Check("torch", WARN, said, "Run `nvidia-smi` and mend what it says; until then jobs run on the CPU.")
        built = f"for CUDA {cuda}" if cuda else "for the CPU"
        return Check("torch", OK, f"torch {version}, built {built}; no GPU here, so jobs run on the CPU.")
    names = ", ".join(sorted({gpu.name for gpu in gpus}))
    if cuda is None:
        remedy = f"Run {INSTALL} in a fresh environment without a CPU-only index: the same pin has a CUDA build."
        return Check("torch", WARN, f"torch {version} is a CPU build, and there is {names}.", remedy)
    wanted = tuple(int(part) for part in re.findall(r"\d+", cuda)[:2])
    said = f"torch {version} for CUDA {cuda}; {names}, driver {gpus[0].driver}"
    if driver is None:
        return Check("torch", WARN, f"{said}, which does not say its CUDA version.", "Compare them: `nvidia-smi`.")
    # Within one major version an older driver runs what was built for a newer minor one.
    if driver[0] < wanted[0]:
        newest = f"{driver[0]}.{driver[1]}"
        remedy = f"Install a driver for CUDA {wanted[0]} or newer, or a torch that was built for CUDA {newest}."
        return Check("torch", FAIL, f"{said}, which runs CUDA {newest} at most.", remedy)
    return Check("torch", OK, f"{said}, which runs it.")


def gpu_memory_check(gpus: Sequence[Gpu], needed: int = 0) -> Check:
    """Whether the GPUs have memory enough; `needed`: bytes that a study takes on one."""
    if not gpus:
        return Check("GPU memory", OK, "No GPU here.")
    best = max(gpus, key=lambda gpu: gpu.memory - gpu.used)
    free = best.memory - best.used
    said = f"{size_text(free)} of {size_text(best.memory)} free on {best.name}"
    if needed > best.memory:
        remedy = 'Take narrower SAEs or dtype = "bfloat16", or spread the model: device_map = "auto".'
        return Check("GPU memory", FAIL, f"{said}; the study takes {size_text(needed)}.", remedy)
    if needed > free:
        return Check("GPU memory", WARN, f"{said}; the study takes {size_text(needed)}.", "End what else runs on it.")
    if free < LITTLE_GPU_MEMORY:
        return Check("GPU memory", WARN, f"{said}.", "End what else runs on it, or keep to narrow SAEs.")
    return Check("GPU memory", OK, f"{said}.")


def memory_check(found: Memory, needed: int = 0) -> Check:
    """Whether there is memory enough; `needed`: bytes that a study takes."""
    said = f"{size_text(found.free)} of {size_text(found.total)} free"
    if needed and needed > found.total:
        remedy = 'Take narrower SAEs, shorter contexts or dtype = "bfloat16", or another host.'
        return Check("memory", FAIL, f"{said}; the study takes {size_text(needed)}.", remedy)
    if needed > found.free:
        return Check("memory", WARN, f"{said}; the study takes {size_text(needed)}.", "End other programs first.")
    if found.free < LITTLE_MEMORY:
        return Check("memory", WARN, f"{said}.", "End other programs: a small study takes about 2 GiB, the app 1 GiB.")
    return Check("memory", OK, f"{said}.")
