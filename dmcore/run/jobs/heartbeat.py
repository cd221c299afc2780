"""Signs of life: a small file that a worker writes every few seconds, and a file in which a job says what its device is.

1. A worker holds its lane's lock and writes `jobs/beat-LANE.json`: who it is, since when, what it does, and for how long the
   job's process has shown no sign of life.
2. A lock without a beat is a worker that hangs: stopped, or waiting for a disk that has gone. On the same host it is ended, so
   that another can take its place (`dmcore.run.jobs.takeover`); from another host it can only be told.
3. systemd is told too, where it asks to be (`WatchdogSec=` of a unit).

No torch here: pages read these files.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
import time
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
"""How often a worker says that it lives."""
LATE_SECONDS = 60.0
"""A worker that has said nothing for so long is late: a monitor should look."""
IDLE, WORKING, ENDED = "idle", "working", "ended"


@dataclass(frozen=True)
class Beat:
    """What a worker said last."""

    lane: str
    """The device that it owns."""
    host: str
    pid: int
    born: str
    """What tells the process from a later one with the same number; empty where the system does not say."""
    started: float
    """When it began to own the lane, in UTC seconds since 1970."""
    at: float
    """When it said this."""
    state: str
    """`idle`, `working` or `ended`."""
    job: str = ""
    """The job that it runs."""
    job_pid: int = 0
    """That job's process."""
    silent: float = 0.0
    """Seconds for which the job's process has shown no sign of life."""
    version: str = ""
    """Of dmcore."""
    hang_seconds: float | None = None
    """After how much of that silence the worker ends the process; 0 never does, None is not said."""
    hang_retries: int = 0
    """How often it begins the job again after that."""

    def age(self, now: float) -> float:
        """Seconds since it was said."""
        return max(now - self.at, 0.0)

    @property
    def here(self) -> bool:
        """Whether the worker is, or was, a process of this host."""
        return self.host == platform.node()

    @property
    def lives(self) -> bool:
        """Whether its process is there; only to be asked of one that is `here`."""
        return self.pid > 0 and bool(self.born) and born(self.pid) == self.born


def first_beat(lane: str) -> Beat:
    """The beat of this process as it begins to own a lane."""
    from dmcore import __version__

    now, pid = time.time(), os.getpid()
    return Beat(lane, platform.node(), pid, born(pid), now, now, IDLE, version=__version__)


def owner() -> str:
    """This process, as a job names who runs it: `host:pid`."""
    return f"{platform.node()}:{os.getpid()}"


def host_of(name: str) -> str:
    """The host in what `owner` gives."""
    return name.rpartition(":")[0]


def born(pid: int) -> str:
    """When a process began, as its system counts; empty where it does not say, or there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return text.rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


class Heart:
    """Beats for one worker; never fails it.

    Args:
        root: the cache folder.
        beat: as `first_beat` gives it.
    """

    def __init__(self, root: Path, beat: Beat) -> None:
        self.path, self.now = beat_path(root, beat.lane), beat
        self._written = 0.0
        self._complained = False

    def beat(self, *, force: bool = False, **changes: Any) -> bool:
        """Write the file if it is time, or the state has changed; True if it was written."""
        changed = replace(self.now, **changes)
        due = force or changed.state != self.now.state or changed.job != self.now.job
        if not due and time.monotonic() - self._written < BEAT_SECONDS:
            self.now = changed
            return False
        self._written = time.monotonic()
        self.now = replace(changed, at=time.time())
        notify(f"WATCHDOG=1\nSTATUS={self.now.state}{' ' + self.now.job if self.now.job else ''}")
        try:
            write_note(self.path, asdict(self.now))
            self._complained = False
        except OSError as error:
            # A full disk must not end a worker: what it is asked to do may be to free it.
            if not self._complained:
                log.warning("The worker cannot say that it lives (%s): %s", self.path, error.strerror or error)
            self._complained = True
        return True


def beat_path(root: Path, lane: str) -> Path:
    """Where the worker of a lane says that it lives."""
    return root / "jobs" / f"beat-{lane}.json"


def read_beats(root: Path) -> dict[str, Beat]:
    """What the worker of each lane said last, by lane; one that cannot be read is left out."""
    found = {}
    for path in sorted((root / "jobs").glob("beat-*.json")):
        beat = read_beat(path)
        if beat is not None:
            found[beat.lane] = beat
    return found


def read_beat(path: Path) -> Beat | None:
    """One beat; None if there is none that can be read."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        # A worker of an older version does not say what came later.
        beat = Beat(
            **{f.name: said[f.name] if f.default is MISSING else said.get(f.name, f.default) for f in fields(Beat)}
        )
        numbers = (
            beat.pid,
            beat.started,
            beat.at,
            beat.job_pid,
            beat.silent,
            beat.hang_seconds or 0,
            beat.hang_retries,
        )
        sound = all(isinstance(n, int | float) for n in numbers) and path.name == f"beat-{beat.lane}.json"
        return beat if sound else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_note(path: Path, content: dict[str, Any]) -> None:
    """Write a small JSON file by rename, so that nobody reads half of it; not synced: it is worth nothing after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(path)


def read_notes(root: Path, kind: str) -> list[dict[str, Any]]:
    """Small JSON files `jobs/KIND-*.json`, those that can be read."""
    found = []
    for path in sorted((root / "jobs").glob(f"{kind}-*.json")):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(said, dict):
            found.append(said)
    return found


def note_device(root: Path, lane: str) -> None:
    """Write what torch, which this process has loaded, says of its device: for pages, which do not load it."""
    import torch

    about: dict[str, Any] = {"lane": lane, "host": platform.node(), "at": time.time(), "torch": torch.__version__,
                             "cuda": torch.version.cuda or "", "threads": torch.get_num_threads()}  # fmt: skip
    if lane.startswith("cuda") and torch.cuda.is_available():
        found = torch.cuda.get_device_properties(int(lane.rpartition("-")[2]))
        about |= {"name": found.name, "memory": found.total_memory, "capability": f"{found.major}.{found.minor}"}
    try:
        write_note(root / "jobs" / f"device-{lane}.json", about)
    except OSError as error:
        log.debug("the device could not be noted: %s", error)


def notify(text: str) -> bool:
    """Tell systemd, if it has started this process and listens; True if it was told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)
        return True
    except OSError as error:
        log.debug("systemd could not be told: %s", error)
        return False
