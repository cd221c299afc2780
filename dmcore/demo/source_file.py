"""One file of Python source, wherever it comes from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

STDLIB = "standard library"
"""The origin of a standard-library file; other origins are names of packages."""

_TEST_FOLDERS = frozenset({"test", "tests", "idle_test", "testing"})


@dataclass(frozen=True)
class SourceFile:
    """One file of Python source."""

    origin: str
    """`standard library`, or the name of the package."""
    name: str
    """Path relative to the standard library or to site-packages, with forward slashes."""
    text: str
    """Its content, with universal newlines."""
    held_out: bool = False
    """Whether it is kept for evaluation."""

    @property
    def digest(self) -> str:
        """SHA-256 of the text without trailing blanks, in hex: the same for copies of a file."""
        return hashlib.sha256("\n".join(line.rstrip() for line in self.text.splitlines()).encode()).hexdigest()

    @property
    def is_test(self) -> bool:
        """Whether it lies in a test suite."""
        return any(part in _TEST_FOLDERS for part in Path(self.name).parts[:-1])
