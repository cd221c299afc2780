"""What a host has, without loading torch: GPUs as their driver says, memory, disks, versions of packages."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dmcore.memory import host_memory
from dmcore.places import HOME

DRIVER_SECONDS = 3.0
"""How long the GPU's driver may take to answer."""
SHARED_FILE_SYSTEMS = (
    "nfs",
    "cifs",
    "smb",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "fuse.",
    "9p",
    "afs",
    "glusterfs",
    "pvfs",
)
"""Beginnings of the names of file systems that other hosts may use too."""
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;#]+)")


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver sees it now."""

    name: str
    driver: str
    memory: int
    """Bytes."""
    used: int
    """Bytes of that in use, by whomever."""
    busy: float | None
    """Share of the last moments in which it worked; None where the driver does not say."""
    celsius: float | None


@dataclass(frozen=True)
class Memory:
    """Memory of the host, or of the container that this process is in."""

    total: int
    free: int
    """Bytes that a process may still take."""


def gpus(seconds: float = DRIVER_SECONDS) -> list[Gpu]:
    """The GPUs of this host; empty where there are none, or the driver does not answer in time."""
    asked = "name,driver_version,memory.total,memory.used,utilization.gpu,temperature.gpu"
    lines = _ask_driver(["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader,nounits"], seconds)
    found = []
    for line in lines.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 6 and parts[2].replace(".", "").isdigit():
            total, used, busy, celsius = (_number(part) for part in parts[2:])
            share = None if busy is None else busy / 100
            found.append(Gpu(parts[0], parts[1], int((total or 0) * 2**20), int((used or 0) * 2**20), share, celsius))
    return found


def driver_cuda(seconds: float = DRIVER_SECONDS) -> tuple[int, int] | None:
    """The newest CUDA version that the driver can run; None where it does not say."""
    found = re.search(r"CUDA Version:\s*(\d+)\.(\d+)", _ask_driver(["nvidia-smi"], seconds))
    return (int(found[1]), int(found[2])) if found else None


def _ask_driver(command: list[str], seconds: float) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True).stdout
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def memory() -> Memory:
    """Memory of this host."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        total = 0
    return Memory(total, min(host_memory(), total) if total else host_memory())


def file_system(folder: Path) -> tuple[str, Path]:
    """Type and place of the file system that a folder is on; empty where the host does not say."""
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "", Path("/")
    real = folder.resolve()
    best = ("", Path("/"))
    for line in lines:
        words = line.split()
        place = Path(words[1].replace("\\040", " "))
        if real.is_relative_to(place) and len(str(place)) >= len(str(best[1])):
            best = (words[2], place)
    return best


def is_shared(kind: str) -> bool:
    """Whether other hosts may use a file system of this type too."""
    return kind.startswith(SHARED_FILE_SYSTEMS)


def pins(*names: str) -> dict[str, str]:
    """Version of every package that requirement files of dmcore pin, by its name in lower case with hyphens."""
    found = {}
    for name in names:
        try:
            text = (HOME / name).read_text(encoding="utf-8")
        except OSError:
            continue
        for line in text.splitlines():
            pin = _PIN.match(line.strip())
            if pin:
                found[pin[1].lower().replace("_", "-").replace(".", "-")] = pin[2]
    return found


def version_of(package: str) -> str | None:
    """The installed version of a package, without what says how it was built; None if it is not there."""
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch was built for, read from its files; None for a build without, or no torch."""
    try:
        spec = importlib.util.find_spec("torch")
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8") if spec and spec.origin else ""
    except (OSError, ValueError, ImportError):
        return None
    found = re.search(r"^cuda(?::[^=]+)?\s*=\s*['\"]([0-9.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None


def versions() -> dict[str, str]:
    """Python, dmcore and the packages that results depend on."""
    from dmcore import __version__

    packages = ("torch", "transformers", "transformer-lens", "sae-lens", "streamlit", "polars", "numpy")
    return {
        "python": platform.python_version(),
        "dmcore": __version__,
        **{package: version_of(package) or "missing" for package in packages},
    }
