"""How a host with a cache is at this moment: worker, queue, device, memory, disk, versions. For a page and for a monitor.

1. Nothing is computed and nothing written: beats, the queue, notes that jobs have left, and what the system says.
2. Every time is given as an age too, and each fact becomes a check: `ok`, `warn`, or `fail`, which a monitor reports.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dmcore.errors import DarkMatterError
from dmcore.progress import format_seconds
from dmcore.run.host import facts
from dmcore.run.host.checks import FAIL, OK, WARN, Check, worst
from dmcore.run.host.facts import Gpu, Memory
from dmcore.run.host.hangs import hang_check, policy_of
from dmcore.run.jobs.files import leftovers
from dmcore.run.jobs.heartbeat import ENDED, LATE_SECONDS, WORKING, Beat, read_beats, read_notes
from dmcore.run.jobs.job import ACTIVE, FAILED, RUNNING, TO_TAKE, Job
from dmcore.run.jobs.queue import Queue
from dmcore.store.disk import free_bytes, is_writable, nearest, size_text
from dmcore.store.store import Entry, Store

DAY = 86400.0
WAITS_LONG = 120.0
"""Seconds after which a job that waits should have been taken, where no other runs."""
LOW_MEMORY = 2**30
LOW_DISK, FULL_DISK = 5 * 2**30, 2**29
"""Free bytes below which to warn, and below which nothing more can be computed."""


@dataclass(frozen=True)
class Health:
    """One look at a host."""

    at: float
    """When, in UTC seconds since 1970."""
    root: Path
    """The cache."""
    workers: tuple[Beat, ...]
    """What the worker of each lane said last."""
    jobs: tuple[Job, ...]
    """All jobs, the newest first."""
    queue_error: str
    """Why the queue cannot be read; empty if it can."""
    devices: tuple[dict[str, Any], ...]
    """What jobs have noted of their devices: lane, name, memory, torch, cuda."""
    gpus: tuple[Gpu, ...]
    """What the driver says now."""
    memory: Memory
    disk_free: int | None
    """Bytes; None where the disk does not say."""
    disk_total: int
    by_stage: dict[str, int]
    """Bytes of the cache by stage, the largest first."""
    versions: dict[str, str]
    writable: bool

    @property
    def living(self) -> list[Beat]:
        """What the workers said that have spoken lately."""
        return [beat for beat in self.workers if beat.state != ENDED and beat.age(self.at) < LATE_SECONDS]

    @property
    def running(self) -> list[Job]:
        """Jobs that run."""
        return [job for job in self.jobs if job.state == RUNNING]

    @property
    def waiting(self) -> list[Job]:
        """Jobs that wait, or wait to go on, the oldest first."""
        return sorted((job for job in self.jobs if job.state in TO_TAKE), key=lambda job: job.created)

    @property
    def failed_lately(self) -> list[Job]:
        """Jobs that have failed in the last day."""
        return [job for job in self.jobs if job.state == FAILED and self.at - (job.ended or 0.0) < DAY]

    def checks(self) -> list[Check]:
        """What a monitor should know."""
        found = [_worker(self), hang_check(self.living), _queue(self), _failures(self)]
        return [*found, _device(self), _memory(self), _disk(self), _writes(self)]

    @property
    def state(self) -> str:
        """`ok`, `warn` or `fail`."""
        return worst(self.checks())

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, ages included."""
        states = Counter(job.state for job in self.jobs)
        oldest = self.waiting[0] if self.waiting else None
        return {
            "state": self.state,
            "at": self.at,
            "checks": [check.to_dict() for check in self.checks()],
            "workers": [{**asdict(beat), "age": beat.age(self.at)} for beat in self.workers],
            "queue": {
                "jobs": dict(states),
                "oldest_waiting_seconds": None if oldest is None else self.at - oldest.created,
                "failed_last_day": len(self.failed_lately),
                "error": self.queue_error,
            },
            "devices": list(self.devices),
            "gpus": [asdict(gpu) for gpu in self.gpus],
            "memory": asdict(self.memory),
            "disk": {"free": self.disk_free, "total": self.disk_total, "by_stage": self.by_stage},
            "versions": self.versions,
            "cache": str(self.root),
            "writable": self.writable,
        }


def look(root: Path | None = None, *, stages: dict[str, int] | None = None) -> Health:
    """Look at the host and its cache.

    Args:
        root: the cache folder; None for the default one.
        stages: bytes of the cache by stage, where they have been counted already; it reads every manifest.
    """
    queue = Queue(root)
    jobs, error = [], ""
    try:
        jobs = queue.jobs()
    except DarkMatterError as problem:
        error = str(problem)
    return Health(
        at=time.time(),
        root=queue.root,
        workers=tuple(read_beats(queue.root).values()),
        jobs=tuple(jobs),
        queue_error=error,
        devices=tuple(read_notes(queue.root, "device")),
        gpus=tuple(facts.gpus()),
        memory=facts.memory(),
        disk_free=free_bytes(queue.root),
        disk_total=_total_bytes(queue.root),
        by_stage=bytes_by_stage(queue.root) if stages is None else stages,
        versions=facts.versions(),
        writable=is_writable(queue.root),
    )


def bytes_by_stage(root: Path) -> dict[str, int]:
    """Bytes of the complete entries by stage, the largest first; unfinished ones as `unfinished`."""
    sizes: Counter[str] = Counter()
    for entry in Store(root).entries():
        if isinstance(entry, Entry):
            sizes[entry.manifest.stage] += entry.manifest.size
    sizes["unfinished"] = leftovers(root)
    return {stage: size for stage, size in sizes.most_common() if size}


def _total_bytes(root: Path) -> int:
    import shutil

    try:
        return shutil.disk_usage(nearest(root)).total
    except OSError:
        return 0


def _worker(health: Health) -> Check:
    living = health.living
    late = [beat for beat in health.workers if beat.state != ENDED and beat.age(health.at) >= LATE_SECONDS]
    start = "run `python -m dmcore worker`, or see its service's log."
    needed = {job.lane for job in health.jobs if job.state in ACTIVE} - {beat.lane for beat in living}
    if late and (needed or not living):
        beat = late[0]
        age = format_seconds(beat.age(health.at))
        gone = beat.here and not beat.lives
        said = f"The worker of {beat.lane} {'is gone' if gone else 'has said nothing'} since {age}."
        return Check(
            "worker", FAIL if needed else WARN, said, f"Its job goes on with the next worker: {start}" if needed else ""
        )
    if needed:
        lanes = ", ".join(sorted(needed))
        oldest = min((job.created for job in health.jobs if job.state in ACTIVE), default=health.at)
        state = FAIL if health.at - oldest > WAITS_LONG else WARN
        return Check("worker", state, f"Jobs wait for {lanes}, and no worker is there.", f"Start one: {start}")
    limits = {beat.lane: policy_of(beat).seconds for beat in living}
    quiet = [beat for beat in living if beat.state == WORKING and 0 < limits[beat.lane] / 2 < beat.silent]
    if quiet:
        limit = limits[quiet[0].lane]
        silent = format_seconds(quiet[0].silent)
        said = f"Job {quiet[0].job} has shown no sign of life for {silent}; it is ended after {format_seconds(limit)}."
        return Check("worker", WARN, said, "Look at its log: a disk or the network may hang.")
    if living:
        said = ", ".join(f"{beat.lane} {beat.state}, said {format_seconds(beat.age(health.at))} ago" for beat in living)
        return Check("worker", OK, f"{said}.")
    return Check("worker", OK, "None is running, and no job waits; the app starts one when it is needed.")


def _queue(health: Health) -> Check:
    if health.queue_error:
        return Check("queue", FAIL, health.queue_error)
    n_waiting, n_running = len(health.waiting), len(health.running)
    said = f"{n_running} running, {n_waiting} waiting"
    if not n_waiting:
        return Check("queue", OK, f"{said}.")
    age = health.at - health.waiting[0].created
    stuck = not n_running and age > WAITS_LONG
    said = f"{said}, the oldest for {format_seconds(age)}."
    return Check("queue", FAIL if stuck else OK, said, "Nothing runs: see to the worker." if stuck else "")


def _failures(health: Health) -> Check:
    failed = health.failed_lately
    if not failed:
        return Check("failures", OK, "None in the last day.")
    count = f"{len(failed)} job{'s' if len(failed) > 1 else ''} failed in the last day."
    return Check(
        "failures",
        WARN,
        f"{count} The last: {failed[0].error}",
        f"Look at it: `python -m dmcore jobs show {failed[0].id}`.",
    )


def _device(health: Health) -> Check:
    if health.gpus:
        free = [
            f"{gpu.name}: {size_text(gpu.memory - gpu.used)} of {size_text(gpu.memory)} free" for gpu in health.gpus
        ]
        return Check("device", OK, f"{'; '.join(free)}.")
    expected = [note for note in health.devices if str(note.get("lane", "")).startswith("cuda")]
    if expected and any(beat.lane.startswith("cuda") and beat.here for beat in health.workers):
        name = expected[0].get("name", "a GPU")
        said = f"A job has worked on {name}, and the driver does not answer now."
        return Check("device", WARN, said, "Run `nvidia-smi`; if it hangs or fails, restart the driver or the host.")
    return Check("device", OK, "No GPU here; jobs run on the CPU.")


def _memory(health: Health) -> Check:
    free, total = health.memory.free, health.memory.total
    said = f"{size_text(free)} of {size_text(total)} free."
    if free < LOW_MEMORY:
        return Check("memory", WARN, said, "End other programs before the next job, or it may be killed.")
    return Check("memory", OK, said)


def _disk(health: Health) -> Check:
    if health.disk_free is None:
        return Check("disk", FAIL, f"The disk of {health.root} does not answer.", "See that it is mounted.")
    used = sum(health.by_stage.values())
    said = f"{size_text(health.disk_free)} of {size_text(health.disk_total)} free; the cache holds {size_text(used)}."
    state = FAIL if health.disk_free < FULL_DISK else WARN if health.disk_free < LOW_DISK else OK
    again = "Free space: `python -m dmcore cache rm codes activations` deletes what can be made again."
    return Check("disk", state, said, "" if state == OK else again)


def _writes(health: Health) -> Check:
    if health.writable:
        return Check("cache", OK, f"{health.root} can be written.")
    said = f"{health.root} can be read only: pages show what is there, and nothing can be computed."
    return Check(
        "cache",
        WARN,
        said,
        "Give this user the right to write it, or set DMCORE_CACHE to a folder that can be written.",
    )
