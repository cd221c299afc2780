"""Finds training files that repeat a held-out file: exact copies, vendored versions, tests and code shared with it."""

from __future__ import annotations

import hashlib
from collections import Counter

from dmcore.demo.source_file import SourceFile

_COPY_SHARE, _COMMON_LINE, _SHORT_LINE = 0.3, 25, 20


def _substantive_lines(file: SourceFile) -> set[int]:
    """Hashes of the lines that are long enough to say something, comments (licence headers above all) left out."""
    stripped = (line.strip() for line in file.text.splitlines())
    return {_hash_line(line) for line in stripped if len(line) >= _SHORT_LINE and not line.startswith("#")}


def _hash_line(line: str) -> int:
    """A 64-bit hash that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(line.encode(), digest_size=8).digest(), "big")


def without_copies(
    training: list[SourceFile], held_out: tuple[SourceFile, ...]
) -> tuple[list[SourceFile], tuple[str, ...]]:
    """Training files without exact duplicates and without those that share 30 % of the lines of a held-out file.

    The share is of the shorter of the two files; lines that stand in more than 25 held-out files do not count.
    """
    lines_of = [_substantive_lines(file) for file in held_out]
    frequency = Counter(line for lines in lines_of for line in lines)
    where: dict[int, list[int]] = {}
    for index, lines in enumerate(lines_of):
        for line in lines:
            if frequency[line] <= _COMMON_LINE:
                where.setdefault(line, []).append(index)
    seen = {file.digest for file in held_out}
    kept, copies = [], []
    for file in training:
        if file.digest in seen:
            continue
        seen.add(file.digest)
        lines = _substantive_lines(file)
        shared = Counter(index for line in lines for index in where.get(line, ()))
        if any(n >= max(10, _COPY_SHARE * min(len(lines), len(lines_of[index]))) for index, n in shared.items()):
            copies.append(f"{file.origin}: {file.name}")
        else:
            kept.append(file)
    return kept, tuple(copies)
