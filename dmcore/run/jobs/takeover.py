"""A worker that hangs, and how another takes its place.

1. It holds its lane's lock, and has not said for a long time that it lives: it was stopped, or waits for ever.
2. It is watched for some seconds more: after a host was asleep, every beat is old for a moment.
3. If it is a process of this host, and still the one that wrote the beat, it is ended; the system then drops its lock, its job's
   process ends with it, and the job goes on in the hands of the next worker. One of another host is left alone.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

from dmcore.run.jobs.heartbeat import ENDED, Beat, beat_path, read_beat

log = logging.getLogger(__name__)

STUCK_SECONDS = 300.0
"""A worker that has said nothing for so long hangs; `DMCORE_STUCK_SECONDS` in its place."""
WATCH_SECONDS = 15.0
"""For how long it is watched before it is ended, at most."""
_suspects: dict[Path, tuple[float, float]] = {}
"""By file: the beat that was too old, and when this process first saw that (monotonic)."""


def stuck_seconds() -> float:
    """After how long a worker that says nothing counts as hung."""
    try:
        return max(float(os.environ.get("DMCORE_STUCK_SECONDS", "")), 0.1)
    except ValueError:
        return STUCK_SECONDS


def is_silent(root: Path, lane: str) -> bool:
    """Whether a worker of this host that has not ended has said nothing for long: a suspicion, which `end_stuck` checks."""
    beat = read_beat(beat_path(root, lane))
    if beat is None or beat.state == ENDED or beat.age(time.time()) < stuck_seconds():
        return False
    return beat.here and beat.lives and not _is_dead(beat.pid)


def stuck_worker(root: Path, lane: str) -> Beat | None:
    """The worker of a lane if it hangs, as seen by this process for long enough; None otherwise."""
    path, limit = beat_path(root, lane), stuck_seconds()
    beat = read_beat(path)
    if beat is None or not is_silent(root, lane):
        _suspects.pop(path, None)
        return None
    at, since = _suspects.get(path, (0.0, 0.0))
    if at != beat.at:
        _suspects[path] = (beat.at, time.monotonic())
        return None
    return beat if time.monotonic() - since >= min(WATCH_SECONDS, limit) else None


def end_stuck(root: Path, lane: str) -> Beat | None:
    """End the worker of a lane if it hangs; returns what it was, None if nothing was done."""
    beat = stuck_worker(root, lane)
    if beat is None or not _is_worker(beat.pid):
        return None
    log.warning(
        "The worker of %s (process %d) has said nothing for %.0f s: it is ended, and another takes its place.",
        lane, beat.pid, beat.age(time.time()),
    )  # fmt: skip
    try:
        os.kill(beat.pid, signal.SIGKILL)
    except OSError as error:  # another user's, or gone
        log.warning("It could not be ended: %s", error.strerror or error)
        return None
    until = time.monotonic() + 5
    while beat.lives and not _is_dead(beat.pid) and time.monotonic() < until:
        time.sleep(0.02)
    _suspects.pop(beat_path(root, lane), None)
    return beat


def _is_worker(pid: int) -> bool:
    """Whether a process is a worker of dmcore: a number in a file must not end anything else."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"worker" in words and any(b"dmcore" in word for word in words)


def _is_dead(pid: int) -> bool:
    """Whether it waits for nothing but its parent's notice."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()[0] in "ZX"
        )
    except (OSError, IndexError):
        return True
