"""Every way in which a file of the cache can come to harm, and a cache of small entries with files of every kind."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from dmcore.store.store import Store

Random = np.random.Generator


def write_cache(root: Path, n_entries: int = 3) -> list[Path]:
    """Entries with a table, an array, tensors, JSON, text and a file in a folder; the same in each but for its numbers."""
    from safetensors.numpy import save_file

    store, folders = Store(root), []
    for number in range(n_entries):

        def make(folder: Path, number: int = number) -> None:
            rng = np.random.default_rng(number)
            pl.DataFrame({"x": rng.standard_normal(300), "name": [f"n{i}" for i in range(300)]}).write_parquet(
                folder / "table.parquet"
            )
            np.save(folder / "acts.npy", rng.standard_normal((40, 8)).astype(np.float32))
            save_file({"W": rng.standard_normal((8, 8))}, folder / "map.safetensors")
            (folder / "about.json").write_text(json.dumps({"n": number, "words": ["a", "b"]}))
            (folder / "inner").mkdir()
            (folder / "inner" / "empty.txt").write_text("")

        folders.append(store.get_or_make("stage", {"stage": "stage", "n": number}, make).path)
    return folders


def flip(file: Path, rng: Random) -> bool:
    """One bit."""
    content = bytearray(file.read_bytes())
    if not content:
        return False
    content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    file.write_bytes(content)
    return True


def truncate(file: Path, rng: Random) -> bool:
    """The end is lost."""
    size = file.stat().st_size
    if not size:
        return False
    with file.open("r+b") as opened:
        opened.truncate(int(rng.integers(size)))
    return True


def extend(file: Path, rng: Random) -> bool:
    """Bytes after the end."""
    with file.open("ab") as opened:
        opened.write(rng.bytes(int(rng.integers(1, 100))))
    return True


def zero(file: Path, rng: Random) -> bool:
    """A block of zeros, as after a power cut."""
    content = bytearray(file.read_bytes())
    start = int(rng.integers(max(len(content), 1)))
    if not any(content[start : start + 512]):
        return False
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    file.write_bytes(content)
    return True


def delete(file: Path, rng: Random) -> bool:
    """Gone."""
    file.unlink()
    return True


def link(file: Path, rng: Random) -> bool:
    """A link to another file in its place."""
    other = file.parents[3] / "canary"
    other.write_bytes(rng.bytes(64))
    file.unlink()
    file.symlink_to(other)
    return True


def dangle(file: Path, rng: Random) -> bool:
    """A link to nothing, or to itself."""
    file.unlink()
    file.symlink_to(file if rng.random() < 0.5 else file.parent / "nothing")
    return True


def folder(file: Path, rng: Random) -> bool:
    """A folder in its place."""
    file.unlink()
    file.mkdir()
    return True


def swap(file: Path, rng: Random) -> bool:
    """Its contents and those of another file of the entry, in each other's place."""
    others = [
        p for p in sorted(file.parent.glob("*")) if p.is_file() and p != file and p.read_bytes() != file.read_bytes()
    ]
    if not others:
        return False
    other = others[int(rng.integers(len(others)))]
    kept = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    return True


def foreign(file: Path, rng: Random) -> bool:
    """The file of the same name of another entry, of the same size or not."""
    name = file.relative_to(entry_of(file))
    others = [p / name for p in sorted(entry_of(file).parent.iterdir()) if p != entry_of(file) and (p / name).is_file()]
    others = [p for p in others if p.read_bytes() != file.read_bytes()]
    if not others:
        return False
    shutil.copyfile(others[int(rng.integers(len(others)))], file)
    return True


def old_times(file: Path, rng: Random) -> bool:
    """One bit, with the size and the times of the file as they were."""
    import os

    before = file.stat()
    done = flip(file, rng)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return done


WAYS: tuple[Callable[[Path, Random], bool], ...] = (
    flip, flip, truncate, extend, zero, delete, link, dangle, folder, swap, foreign, old_times,
)  # fmt: skip
"""Each hurts a file and returns True, or leaves it where it cannot be hurt so (an empty file has no bit to turn)."""


def entry_of(file: Path) -> Path:
    """The entry that holds a file of `write_cache`."""
    return next(parent for parent in file.parents if parent.parent.name == "stage")


def hurt_queue(file: Path, rng: Random) -> str:
    """Hurt the database of jobs; what was done."""
    way = WAYS[int(rng.integers(5))]
    for ending in ("-wal", "-shm"):
        Path(f"{file}{ending}").unlink(missing_ok=True)
    way(file, rng)
    return way.__name__


def readable_jobs(file: Path) -> bool:
    """Whether SQLite itself finds nothing wrong with a database."""
    try:
        db = sqlite3.connect(file)
        try:
            return db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        finally:
            db.close()
    except sqlite3.DatabaseError:
        return False
