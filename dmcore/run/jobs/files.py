"""What workers keep beside the queue: the lock of each lane, the logs of jobs, and the rubbish of processes that died."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dmcore.errors import StoreError
from dmcore.store.disk import disk_words, is_writable, unwritable_words
from dmcore.store.leftovers import size_of, sweep
from dmcore.store.store import Store

log = logging.getLogger(__name__)

LOG_BYTES = 4 * 2**20
"""A log that grows beyond this loses all but its last lines."""
LOG_KEPT = 2**18
TAIL_BYTES = 2**16
RESUMABLE = ("activations-", "losses-")
"""Drafts from which a capture goes on where it stopped; every other draft is begun anew by its next maker."""
STALE_SECONDS = 60
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


@contextmanager
def lane_lock(root: Path, lane: str, role: str, wait: float) -> Iterator[bool]:
    """Hold the lock of a lane while the block runs; yields False if another process holds it.

    Args:
        root: the cache folder.
        lane: of `dmcore.run.jobs.job.lane_of`.
        role: `worker` for who takes jobs, `device` for the process that computes.
        wait: seconds to wait for it.

    Raises:
        StoreError: the folder of locks cannot be written.
    """
    folder = root / "jobs"
    # Not only a pid in a file: the system drops this lock when its owner dies, however it dies.
    lock = FileLock(folder / f"{role}-{lane}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=wait)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise StoreError(disk_words(error, root) or unwritable_words(folder)) from error
    try:
        yield True
    finally:
        lock.release()


def worker_alive(root: Path, lane: str) -> bool:
    """Whether a worker owns this lane now."""
    if not (root / "jobs" / f"worker-{lane}.lock").exists() or not is_writable(root / "jobs"):
        return False
    with lane_lock(root, lane, "worker", 0) as free:
        return not free


def tail(path: Path, lines: int = 20) -> list[str]:
    """The last lines of a log, without control characters; of a progress bar only its last state."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read(TAIL_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return []
    shown = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n")]
    return [_ESCAPE.sub("", _readable(line))[:400] for line in shown if line.strip()][-lines:]


def _readable(line: str) -> str:
    """A JSON line of a log as its text would be; any other line as it is."""
    if not line.startswith('{"time"'):
        return line
    try:
        said = json.loads(line)
        return f"{said['time'][11:19]} {said['message']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return line


def shorten(path: Path, limit: int = LOG_BYTES) -> None:
    """Cut a log that has grown too long to its last lines. Who writes it appends, so it goes on at the new end."""
    try:
        if path.stat().st_size <= limit:
            return
        with path.open("r+b") as file:
            file.seek(-min(LOG_KEPT, limit), 2)
            kept = file.read()
            file.seek(0)
            file.write(b"(earlier lines were dropped)\n" + kept)
            file.truncate()
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("The log %s could not be shortened: %s", path, error)


def tidy(root: Path) -> list[Path]:
    """Delete what killed processes left, that nobody holds and nobody can go on from; returns what was deleted."""
    gone = sweep(root, keep=lambda name: name.startswith(RESUMABLE))
    for note in sorted((root / "fingerprints").glob("*.tmp")):
        try:
            if time.time() - note.stat().st_mtime > STALE_SECONDS:
                note.unlink()
                gone.append(note)
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("The leftover %s cannot be deleted (%s): it stays.", note, error.strerror or error)
    return gone


def leftovers(root: Path) -> int:
    """Bytes of unfinished entries: what running jobs are making, and what cancelled ones could go on from."""
    return size_of(root)


def delete_leftovers(root: Path) -> int:
    """Delete every unfinished entry that nobody is making; returns the bytes freed. A cancelled capture starts anew."""
    before = leftovers(root)
    Store(root).sweep_partial()
    return before - leftovers(root)
