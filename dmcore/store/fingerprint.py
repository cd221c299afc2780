"""What a computation was made from, as short hashes: of specs (canonical JSON) and of files (their bytes)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dmcore.errors import SpecError

KEY_LENGTH = 32
"""Hexadecimal digits kept of a SHA-256: 128 bits."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def content_key(value: Any) -> str:
    """The key of a JSON-able value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:KEY_LENGTH]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_fingerprint(folder: Path, names: Iterable[str], memory: Path | None = None) -> str:
    """One key for the contents of some files of a folder, whatever the folder is called.

    Args:
        folder: where the files are.
        names: their names, relative to the folder.
        memory: a folder in which hashes are remembered by path, size and time of change; None remembers nothing.

    Raises:
        SpecError: a file is missing or cannot be read.
    """
    hashes = {}
    for name in sorted(names):
        path = folder / name
        try:
            hashes[name] = _remembered_sha256(path, memory)
        except OSError as error:
            raise SpecError(f"Cannot read {path} ({error.strerror}): check the path in the study.") from error
    return content_key(hashes)


def _remembered_sha256(path: Path, memory: Path | None) -> str:
    stat = path.stat()
    mark = [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
    if memory is None or stat.st_size < 2**24:
        return file_sha256(path)
    note = memory / f"{content_key(mark)}.json"
    try:
        return json.loads(note.read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError):
        pass
    digest = file_sha256(path)
    memory.mkdir(parents=True, exist_ok=True)
    temporary = note.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"file": mark, "sha256": digest}), encoding="utf-8")
    temporary.replace(note)
    return digest
