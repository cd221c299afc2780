"""What `doctor` asks of the cache's disk: space, and whether writing, syncing, renaming, locking and its clock do what the
store and the queue rely on. It writes a few bytes into a folder of its own, and deletes it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from dmcore.run.host import facts
from dmcore.run.host.checks import FAIL, OK, WARN, Check
from dmcore.store.disk import disk_words, free_bytes, is_writable, size_text

LITTLE_DISK = 10 * 2**30
MARGIN = 1.1
"""Disk that must be free, over the estimate of a study."""
MOST_SKEW = 2.0
"""Seconds by which the clock of a shared disk may be off."""
FREE_SOME = "Free space: `python -m dmcore cache ls` lists what there is, `python -m dmcore cache rm codes` deletes."


def disk_checks(root: Path, needed: int = 0) -> list[Check]:
    """Space, then how the disk behaves; `needed`: bytes that a study takes."""
    checks = [space_check(root, needed)]
    kind, place = facts.file_system(_existing(root))
    if not is_writable(root):
        said = f"{root} cannot be written: pages show what is there, and nothing can be computed."
        return [
            *checks,
            Check("cache", FAIL, said, "Give this user the right to write it, or set DMCORE_CACHE to another."),
        ]
    folder = root / "jobs" / f"doctor-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True)
        checks += [behaviour_check(root, folder), sharing_check(root, kind, place), clock_check(folder)]
    except OSError as error:
        said = disk_words(error, root) or f"{root}: {error.strerror or error}."
        checks.append(Check("cache", FAIL, said, "Mend it, then run doctor again."))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return checks


def _existing(folder: Path) -> Path:
    return next(one for one in (folder, *folder.parents) if one.exists())


def space_check(root: Path, needed: int = 0) -> Check:
    """Whether there is space enough."""
    free = free_bytes(root)
    if free is None:
        return Check("disk", FAIL, f"The disk of {root} does not answer.", "See that it is mounted.")
    said = f"{size_text(free)} free for {root}"
    if needed * MARGIN > free:
        return Check("disk", FAIL, f"{said}; the study writes {size_text(needed)}.", FREE_SOME)
    if free < LITTLE_DISK:
        return Check("disk", WARN, f"{said}.", FREE_SOME)
    return Check("disk", OK, f"{said}.")


def behaviour_check(root: Path, folder: Path) -> Check:
    """Whether writing, syncing, renaming and locking do what the store relies on."""
    wrong = [what for what, works in _BEHAVIOURS.items() if not _works(works, folder)]
    if wrong:
        said = f"On the disk of {root} this does not work: {', '.join(wrong)}."
        remedy = "Set DMCORE_CACHE to a local disk, or mount this one with locks (NFS 4, Lustre with `-o flock`)."
        return Check("cache", FAIL, said, remedy)
    return Check("cache", OK, f"{root} can be written; {', '.join(_BEHAVIOURS)} work.")


def _works(does: Callable[[Path], bool], folder: Path) -> bool:
    try:
        return does(folder)
    except (OSError, sqlite3.Error, ImportError):
        return False


def _syncs(folder: Path) -> bool:
    path = folder / "synced"
    with path.open("wb") as file:
        file.write(b"one")
        file.flush()
        os.fsync(file.fileno())
    return path.read_bytes() == b"one"


def _renames(folder: Path) -> bool:
    """A file over a file, and a folder into place: how entries appear whole."""
    old, new = folder / "old", folder / "new"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    new.replace(old)
    (folder / "draft").mkdir()
    (folder / "draft").replace(folder / "entry")
    return old.read_bytes() == b"new" and not new.exists() and (folder / "entry").is_dir()


def _locks(folder: Path) -> bool:
    """A second taker of a lock is turned away, and may have it when the first has let go."""
    import fcntl

    path = folder / "lock"
    with path.open("w") as first, path.open("w") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        refused = False
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            refused = True
        fcntl.flock(first, fcntl.LOCK_UN)
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return refused


def _keeps_a_database(folder: Path) -> bool:
    path = folder / "queue.sqlite"
    with contextlib.closing(sqlite3.connect(path, timeout=2)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (n INTEGER)")
        db.execute("INSERT INTO t VALUES (1)")
        db.commit()
        return db.execute("SELECT n FROM t").fetchone() == (1,)


_BEHAVIOURS: dict[str, Callable[[Path], bool]] = {
    "fsync": _syncs,
    "atomic renames": _renames,
    "locks": _locks,
    "the queue's database": _keeps_a_database,
}


def sharing_check(root: Path, kind: str, place: Path) -> Check:
    """Whether other hosts may use the disk, and what that means for the queue."""
    if not facts.is_shared(kind):
        return Check("shared disk", OK, f"{root} is on a disk of this host ({kind or 'of a type it does not say'}).")
    said = f"{root} is on {place}, which other hosts may use too ({kind})."
    remedy = "Run the app and the workers on one host: the queue is shared by processes of one host. Others may read, or sweep."
    return Check("shared disk", WARN, said, remedy)


def clock_check(folder: Path, now: Callable[[], float] = time.time) -> Check:
    """Whether the disk's clock is the host's."""
    path = folder / "clock"
    before = now()
    path.write_bytes(b"")
    written, after = path.stat().st_mtime, now()
    off = max(before - written, written - after, 0.0)
    if off > MOST_SKEW:
        said = f"The clocks of the disk and of this host are {off:.0f} s apart: ages on the pages are wrong by that."
        return Check("clock", WARN, said, "Run a time service (chrony, ntpd) on both.")
    return Check("clock", OK, "The clocks of the disk and of this host agree.")
