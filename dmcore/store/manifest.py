"""Manifests: the last file of a cache entry to be written, which makes it complete, and says what it holds."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from dmcore.errors import StoreError
from dmcore.store.fingerprint import content_key, file_sha256

MANIFEST = "manifest.json"
LIBRARIES = ("torch", "transformers", "transformer-lens", "sae-lens", "numpy", "polars")


@dataclass(frozen=True)
class Manifest:
    """What an entry is, what it was made from and by, and a checksum for each of its files."""

    stage: str
    key: str
    spec: dict[str, Any]
    """The whole spec of the stage; `key` is its hash."""
    files: dict[str, dict[str, Any]]
    """By name: `bytes` and `sha256`."""
    created: str
    """UTC time, ISO 8601."""
    versions: dict[str, str]
    commit: str
    """Git commit of dmcore, or an empty string."""
    seconds: float
    """Wall time that the entry took to make."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file["bytes"] for file in self.files.values())


def write_manifest(folder: Path, stage: str, key: str, spec: dict[str, Any], seconds: float) -> Manifest:
    """Describe the files in `folder`, and write the description by atomic rename."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(MANIFEST)
    }
    created = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = Manifest(stage, key, spec, files, created, _versions(), _commit(), round(seconds, 3))
    body = asdict(manifest)
    temporary = folder / f"{MANIFEST}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({**body, "checksum": content_key(body)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / MANIFEST)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read a manifest and check that nobody has edited it.

    Raises:
        StoreError: it cannot be read, or is not what was written.
    """
    try:
        body = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        checksum = body.pop("checksum")
        manifest = Manifest(**body)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"the manifest cannot be read ({error})") from error
    if checksum != content_key(body):
        raise StoreError("the manifest has been edited")
    if not _is_sound(manifest):
        raise StoreError("the manifest is not one of dmcore's")
    return manifest


def _is_sound(manifest: Manifest) -> bool:
    """Whether its values are of their kinds, its key is that of its spec, and its files are all inside the entry."""
    if not (isinstance(manifest.spec, dict) and isinstance(manifest.files, dict) and isinstance(manifest.created, str)):
        return False
    if manifest.key != content_key(manifest.spec):
        return False
    return all(
        isinstance(file, dict)
        and isinstance(file.get("bytes"), int)
        and isinstance(file.get("sha256"), str)
        and not PurePosixPath(name).is_absolute()
        and ".." not in PurePosixPath(name).parts
        and "\0" not in name
        for name, file in manifest.files.items()
    )


def damage(folder: Path, manifest: Manifest, *, checksums: bool) -> str | None:
    """What is wrong with an entry's files, in words; None if nothing is."""
    for name, file in manifest.files.items():
        path = folder / name
        try:
            size = path.stat().st_size
        except OSError:
            return f"{name} is missing"
        if size != file["bytes"]:
            return f"{name} has {size:,} bytes instead of {file['bytes']:,}"
        if checksums and file_sha256(path) != file["sha256"]:
            return f"the contents of {name} have changed"
    return None


def identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one that takes its place; None where there is none."""
    try:
        stat = folder.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)
def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
