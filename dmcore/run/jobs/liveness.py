"""Whether a job's process still does anything: progress, or work that its system sees.

1. A process that says how far it is lives.
2. One that says nothing may be at long work (loading a model, solving): it lives while it, or a process that it has started,
   uses a processor or writes.
3. Silence is counted in looks of bounded length, so that a host that was asleep, or a watcher that was stopped itself, does not
   take its own absence for the other's.

Where the system does not say what a process uses (no /proc), only progress counts, and a limit must be longer than any stage.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dmcore.errors import DarkMatterError

HANG_SECONDS, HANG_RETRIES = 900.0, 1
HANG_VARIABLE, RETRIES_VARIABLE = "DMCORE_HANG_SECONDS", "DMCORE_HANG_RETRIES"
LEAST_SHARE = 0.01
"""Share of one processor above which a process works; threads that only wait and look use a tenth of it."""
LEAST_BYTES = 2**16
"""Bytes written between two looks from which a process works."""


@dataclass(frozen=True)
class HangPolicy:
    """When a job's process counts as hung, and what becomes of its job."""

    seconds: float = HANG_SECONDS
    """Silence after which it is ended; 0 never ends it."""
    retries: int = HANG_RETRIES
    """How often a job is begun again after that, until it counts as failed."""

    @property
    def look_seconds(self) -> float:
        """How often to look."""
        return min(max(self.seconds / 10, 0.1), 10.0)

    @classmethod
    def of_environment(cls) -> HangPolicy:
        """As `DMCORE_HANG_SECONDS` and `DMCORE_HANG_RETRIES` say.

        Raises:
            DarkMatterError: one of them is no number of 0 or above.
        """
        return cls(_number(HANG_VARIABLE, HANG_SECONDS, float), int(_number(RETRIES_VARIABLE, HANG_RETRIES, int)))


def _number(variable: str, default: float, kind: Callable[[str], float]) -> float:
    text = os.environ.get(variable, "").strip()
    try:
        value = kind(text) if text else default
    except ValueError:
        value = -1
    if not 0 <= value < float("inf"):
        raise DarkMatterError(f"{variable} is no number of 0 or above: set it anew, or unset it for {default:g}.")
    return value


class Signs:
    """Counts for how long a process has shown no sign of life.

    Args:
        pid: the process.
        policy: how often to look.
        work, now: what a process has used, and the clock; for tests.
    """

    def __init__(
        self,
        pid: int,
        policy: HangPolicy,
        *,
        work: Callable[[int], tuple[float, int] | None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pid, self._policy, self._work, self._now = pid, policy, work or work_of, now
        self._looked = now()
        self._mark: object = None
        self._used = self._work(pid)
        self.silent = 0.0
        """Seconds without a sign."""

    def look(self, mark: object) -> float:
        """Look if it is time; returns `silent`.

        Args:
            mark: changes when the process says how far it is.
        """
        now = self._now()
        passed = now - self._looked
        if mark != self._mark:
            self._mark, self.silent = mark, 0.0
        if passed < self._policy.look_seconds:
            return self.silent
        self._looked = now
        used, before = self._work(self._pid), self._used
        self._used = used
        if used is not None and before is not None and _worked(used, before, passed):
            self.silent = 0.0
        else:
            self.silent += min(passed, 2 * self._policy.look_seconds)
        return self.silent

    @property
    def hung(self) -> bool:
        """Whether the silence has lasted too long."""
        return 0 < self._policy.seconds <= self.silent


def _worked(used: tuple[float, int], before: tuple[float, int], passed: float) -> bool:
    return used[0] - before[0] > LEAST_SHARE * passed or used[1] - before[1] > LEAST_BYTES


def work_of(pid: int) -> tuple[float, int] | None:
    """Processor seconds and bytes written of a process and those that it has started; None where the system does not say."""
    own = _own_work(pid)
    if own is None:
        return None
    seconds, written = own
    for child in _children(pid):
        theirs = work_of(child)
        if theirs is not None:
            seconds, written = seconds + theirs[0], written + theirs[1]
    return seconds, written


def _own_work(pid: int) -> tuple[float, int] | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
        seconds = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
    try:
        lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
        counts = dict(line.split(": ") for line in lines)
        return seconds, int(counts["wchar"])
    except (OSError, ValueError, KeyError):
        return seconds, 0


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(word) for word in path.read_text(encoding="ascii").split()]
        except (OSError, ValueError):
            continue
    return found
