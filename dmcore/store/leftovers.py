"""What makers that died left in `partial`: told from what is being made, and deleted. Nothing here fails who looks.

1. What somebody holds the lock of is being made, or fetched.
2. Locks may not reach from host to host: a draft says beside its lock which host makes it. That of another host is left alone
   until nothing of it has changed for `QUIET_SECONDS`, as are single files, which nobody locks.
3. A leftover is renamed first, so that no maker goes on from half of it. What cannot be deleted is told in one line, and stays.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

QUIET_SECONDS = 3600.0
"""After so long without a change, what a maker of another host began counts as left."""
DAMAGED = "damaged"
"""Folder of the cache into which damaged entries are moved."""
REMOVED, PULLED = "removed-", "pulled-"
"""Beginnings of names in `partial`: what is about to be deleted, and an entry that is being fetched under that entry's lock."""


def grave(root: Path, name: str) -> Path:
    """A folder of no one else's, for what is about to be deleted."""
    return root / "partial" / f"{REMOVED}{name}-{os.getpid()}-{time.time_ns()}"


def note_maker(root: Path, name: str) -> None:
    """Say that this host makes a draft; for who holds its lock."""
    _maker_note(root, name).write_text(platform.node(), encoding="utf-8")


def forget_maker(root: Path, name: str) -> None:
    """Say that nobody makes a draft any more."""
    try:
        _maker_note(root, name).unlink(missing_ok=True)
    except OSError as error:
        log.debug("%s: %s", name, error)


def sweep(root: Path, keep: Callable[[str], bool] = lambda _: False) -> list[Path]:
    """Delete what nobody makes any more; returns what was deleted.

    Args:
        root: the cache folder.
        keep: which to leave alone, by name.
    """
    gone = []
    for path in _listed(root / "partial"):
        if keep(path.name):
            continue
        try:
            if _swept(root, path):
                gone.append(path)
        except FileNotFoundError:  # another process was quicker
            continue
        except OSError as error:
            log.warning("The leftover %s cannot be deleted (%s): it stays.", path, error.strerror or error)
    return gone


def set_aside(root: Path) -> list[Path]:
    """The damaged entries that were moved out of the way."""
    return _listed(root / DAMAGED)


def size_of(root: Path, name: str = "partial") -> int:
    """Bytes of all that is in a folder of the cache, as far as it can be read."""
    size = 0
    for folder, _, names in os.walk(root / name):
        for name in names:
            try:
                size += Path(folder, name).lstat().st_size
            except OSError:  # it has been moved or deleted meanwhile
                continue
    return size


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _swept(root: Path, path: Path) -> bool:
    if path.name.startswith(REMOVED):
        return _deleted(path)
    if not path.is_dir():
        return _quiet(path) and _unlinked(path)
    locks, name = root / "locks", path.name.removeprefix(PULLED)
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        if _made_elsewhere(root, name) and not _quiet(path):
            return False
        aside = grave(root, path.name)
        path.replace(aside)
        forget_maker(root, name)
    finally:
        lock.release()
    return _deleted(aside)


def _deleted(folder: Path) -> bool:
    """Delete a folder of which some may be gone, or may not be deleted."""
    failed: list[BaseException] = []
    shutil.rmtree(folder, onerror=lambda _, __, info: failed.append(info[1]))
    if not folder.exists():
        return True
    why = next((error for error in failed if not isinstance(error, FileNotFoundError)), None)
    if isinstance(why, OSError):
        raise why
    return False


def _unlinked(path: Path) -> bool:
    path.unlink()
    return True


def _quiet(path: Path) -> bool:
    """Whether nothing of a leftover has changed for long."""
    newest = path.stat().st_mtime
    for folder, _, names in os.walk(path):
        for name in (".", *names):
            try:
                newest = max(newest, Path(folder, name).lstat().st_mtime)
            except OSError:
                continue
    return time.time() - newest > QUIET_SECONDS


def _made_elsewhere(root: Path, name: str) -> bool:
    try:
        return _maker_note(root, name).read_text(encoding="utf-8") not in {"", platform.node()}
    except OSError:
        return False


def _maker_note(root: Path, name: str) -> Path:
    return root / "locks" / f"{name}.host"
