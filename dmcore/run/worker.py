"""The worker: a small process without torch that owns a lane and runs its jobs, one after the other, each in a child process.

1. Hold the lane's lock; a second worker of the lane finds it held and ends. Give back what a dead worker was running.
2. Take the oldest waiting job and run `python -m dmcore worker --run-job ID`: its memory ends with it, and its crash is its own.
3. While it runs: if it was cancelled and has not stopped by itself, end it. Every stage may be killed at any point.
4. Say how it ended if it could not, delete what it left, go on; end after some idle minutes.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dmcore.errors import DarkMatterError, StoreError
from dmcore.run.job import CANCELLED, FAILED, Job, lane_of
from dmcore.run.job_files import lane_lock, shorten, tail, tidy, worker_alive
from dmcore.run.queue import Queue, finish_patiently

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
TERM_SECONDS, KILL_SECONDS = 1.0, 1.4
"""After a cancel: when a child that has not stopped by itself is asked by the system, and when it is killed."""
IDLE_SECONDS = 600.0
START_SECONDS = 15
"""How long a worker that was started may take to own its lane, before another one is started."""
_HOME = Path(__file__).parents[2]


def run_worker(device: str = "auto", *, idle_seconds: float = IDLE_SECONDS, once: bool = False,
               say: Callable[[str], None] = log.info) -> int:  # fmt: skip
    """Own the lane of a device and run its jobs until none has come for `idle_seconds`; the exit status.

    Args:
        device: as for `lane_of`.
        idle_seconds: how long to wait for another job.
        once: end when no job is waiting.
        say: where the worker's own lines go.
    """
    lane, queue = lane_of(device), Queue()
    while True:
        # Two seconds: somebody may be holding the lock for a moment, to see whether there is a worker.
        with lane_lock(queue.root, lane, "worker", 2.0) as mine:
            if not mine:
                say(f"Another worker owns {lane} already; it will run the jobs.")
                return 0
            for job in queue.recover(lane):
                say(f"{job.id} {job.study}: its worker had died; now {job.state}.")
            _work(queue, lane, 0.0 if once else idle_seconds, say)
        # A job that came after the last look and before the lock was free would find no worker: look again.
        if not queue.waits(lane):
            return 0


def _work(queue: Queue, lane: str, idle_seconds: float, say: Callable[[str], None]) -> None:
    tidy(queue.root)
    idle_since = time.monotonic()
    while True:
        job = _take(queue, lane, say)
        if job is not None:
            say(f"{job.id} {job.study}: {job.kind} begins, attempt {job.attempt}.")
            run_in_child(queue, job)
            ended = _now(queue, job)
            say(f"{job.id} {job.study}: {ended.state}. {ended.error}".rstrip() if ended else f"{job.id} was removed.")
            tidy(queue.root)
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since >= idle_seconds:
            return
        else:
            time.sleep(POLL_SECONDS)


def _take(queue: Queue, lane: str, say: Callable[[str], None]) -> Job | None:
    try:
        return queue.take(lane)
    except StoreError as error:
        say(str(error))
        time.sleep(2)
        return None


def _now(queue: Queue, job: Job) -> Job | None:
    """The job as it is now; None if it has been removed, or the queue cannot be read for the moment."""
    try:
        return queue.job(job.id)
    except DarkMatterError:
        return None


def run_in_child(queue: Queue, job: Job) -> None:
    """Run a job in a process of its own until it has ended, and write how it ended if it did not itself."""
    path = queue.log_path(job.id)
    shorten(path, 2**20)
    with path.open("ab") as log_file:
        child = subprocess.Popen(
            [sys.executable, "-m", "dmcore", "worker", "--run-job", job.id, "--parent", str(os.getpid())],
            cwd=_HOME,
            env=_environment(queue.root),
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
        )
    try:
        asked = _watch(queue, job, child, path)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if asked:
        finish_patiently(queue, job, CANCELLED)
    finish_patiently(
        queue, job, FAILED, _why_it_died(child.returncode, path)
    )  # says nothing if the child or the cancel has


def _watch(queue: Queue, job: Job, child: subprocess.Popen[bytes], path: Path) -> bool:
    """Wait for the child; end it if it was cancelled and goes on. True if it had been asked to stop."""
    asked_at: float | None = None
    while child.poll() is None:
        now = time.monotonic()
        if asked_at is None:
            seen = _now(queue, job)
            asked_at = now if seen is not None and seen.cancel else None
        if asked_at is not None:
            if now - asked_at > KILL_SECONDS:
                child.kill()
            elif now - asked_at > TERM_SECONDS:
                child.terminate()
        shorten(path)
        time.sleep(POLL_SECONDS / 2)
    return asked_at is not None


def _why_it_died(status: int, path: Path) -> str:
    if status == -signal.SIGKILL:
        return (
            "The job's process was killed, most likely because memory ran out: close other programs, or use fewer or "
            "narrower SAEs, shorter contexts or a smaller dtype, then retry. Finished work is kept."
        )
    last = next(reversed(tail(path, 1)), "")
    cause = f"signal {-status}" if status < 0 else f"status {status}"
    return (
        f"The job's process ended unexpectedly ({cause}{': ' + last[:200] if last else ''}): see its log, then retry."
    )


def ensure_worker(root: Path, device: str = "auto") -> bool:
    """Start a worker for a device, detached from this process, if there is none; True if one was started."""
    lane = lane_of(device)
    if worker_alive(root, lane):
        return False
    with lane_lock(root, lane, "start", 0) as mine:
        note = root / "jobs" / f"worker-{lane}.log"
        # Loading Python takes a moment, in which the page may ask again.
        if not mine or (note.exists() and time.time() - note.stat().st_mtime < START_SECONDS and _just_started(note)):
            return False
        with note.open("wb") as file:
            file.write(b"starting\n")
            file.flush()
            subprocess.Popen(
                [sys.executable, "-m", "dmcore", "worker", "--device", device],
                cwd=_HOME,
                env=_environment(root),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # the browser, the app and the terminal may go; the worker stays
            )
    return True


def _just_started(note: Path) -> bool:
    return note.read_bytes() == b"starting\n"


def cancel(queue: Queue, job_id: str) -> Job:
    """Cancel a job, also one whose worker is dead and can no longer be told."""
    job = queue.cancel(job_id)
    release_orphans(queue, job.lane)
    return queue.job(job_id)


def release_orphans(queue: Queue, lane: str) -> None:
    """Give back what a dead worker of the lane was running; does nothing while a worker owns the lane."""
    with lane_lock(queue.root, lane, "worker", 0) as free:
        if free:
            queue.recover(lane)


def attend(queue: Queue) -> None:
    """See to it that every active job has a living worker: for pages to call when they show the queue.

    Raises:
        DarkMatterError: the worker cannot be started.
    """
    active = [job for job in queue.jobs() if job.active]
    for lane, device in {job.lane: job.device for job in active}.items():
        if not worker_alive(queue.root, lane):
            release_orphans(queue, lane)
            if queue.waits(lane):
                try:
                    ensure_worker(queue.root, device)
                except OSError as error:
                    raise DarkMatterError(
                        f"The worker cannot be started ({error}): run `python -m dmcore worker`."
                    ) from error


def _environment(root: Path) -> dict[str, str]:
    """Of a worker and of its children: the same cache, tokens and paths; threads that sleep while they wait."""
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "DMCORE_CACHE": str(root), "PYTHONUNBUFFERED": "1"}
