"""The worker: a small process without torch that owns a lane and runs its jobs, one after the other, each in a child process.

1. Hold the lane's lock; a second worker of the lane finds it held and ends, or takes the place of one that hangs (`takeover`).
   Give back what a dead worker was running.
2. Take the oldest waiting job and run `python -m dmcore worker --run-job ID`: its memory ends with it, and its crash is its own.
3. While it runs: say every few seconds that the worker lives (`heartbeat`); if the job was cancelled and has not stopped by
   itself, or shows no sign of life for too long (`liveness`), end it. Every stage may be killed at any point.
4. Say how it ended if it could not, delete what it left, go on; end after some idle minutes.
"""

from __future__ import annotations

import logging
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from dmcore.errors import DarkMatterError, StoreError
from dmcore.places import HOME
from dmcore.run.jobs.files import lane_lock, tidy, worker_alive
from dmcore.run.jobs.heartbeat import ENDED, IDLE, Heart, first_beat, notify
from dmcore.run.jobs.job import Job, lane_of
from dmcore.run.jobs.liveness import HangPolicy
from dmcore.run.jobs.process import POLL_SECONDS, Lane, environment, now_of, run_in_child
from dmcore.run.jobs.queue import Queue
from dmcore.run.jobs.takeover import WATCH_SECONDS, end_stuck, is_silent
from dmcore.store.disk import is_writable

log = logging.getLogger(__name__)

IDLE_SECONDS = 600.0
START_SECONDS = 15
"""How long a worker that was started may take to own its lane, before another one is started."""


def run_worker(device: str = "auto", *, idle_seconds: float = IDLE_SECONDS, once: bool = False,
               say: Callable[[str], None] = log.info, policy: HangPolicy | None = None) -> int:  # fmt: skip
    """Own the lane of a device and run its jobs until none has come for `idle_seconds`; the exit status.

    Args:
        device: as for `lane_of`.
        idle_seconds: how long to wait for another job.
        once: end when no job is waiting.
        say: where the worker's own lines go.
        policy: when a job's process counts as hung; None as the environment says.

    Raises:
        DarkMatterError: it is no device, or the environment holds no number where one belongs.
    """
    lane, queue, policy = lane_of(device), Queue(), policy or HangPolicy.of_environment()
    ends = policy.seconds if policy.seconds < math.inf else 0.0
    beat = replace(first_beat(lane), hang_seconds=ends, hang_retries=policy.retries)
    with _stopping_in_order():
        return _own_and_work(Lane(queue, lane, Heart(queue.root, beat), policy, say), idle_seconds, once=once)


@contextmanager
def _stopping_in_order() -> Iterator[None]:
    """SIGTERM as an exit, so that the job's process is ended and the job given back before this one goes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _own_and_work(own: Lane, idle_seconds: float, *, once: bool) -> int:
    queue, lane = own.queue, own.name
    while True:
        # Two seconds: somebody may be holding the lock for a moment, to see whether there is a worker.
        with lane_lock(queue.root, lane, "worker", 2.0) as mine:
            if not mine and not _took_over(queue.root, lane, own.say):
                own.say(f"Another worker owns {lane} already; it will run the jobs.")
                return 0
            if mine:
                own.heart.beat(force=True)
                notify("READY=1")
                try:
                    own.recover()
                    _work(own, 0.0 if once else idle_seconds)
                finally:
                    own.heart.beat(state=ENDED, job="", job_pid=0, silent=0.0)
        # A job that came after the last look and before the lock was free would find no worker: look again.
        if mine and not queue.waits(lane):
            return 0


def _took_over(root: Path, lane: str, say: Callable[[str], None]) -> bool:
    """Whether the worker that holds the lane hung, and was ended; looks for some seconds at one that says nothing."""
    until = time.monotonic() + WATCH_SECONDS + 1
    while is_silent(root, lane) and time.monotonic() < until:
        ended = end_stuck(root, lane)
        if ended is not None:
            say(f"The worker that owned {lane} (process {ended.pid}) hung and was ended.")
            return True
        time.sleep(POLL_SECONDS)
    return False


def _work(own: Lane, idle_seconds: float) -> None:
    queue = own.queue
    tidy(queue.root)
    idle_since = time.monotonic()
    while True:
        if own.heart.beat(state=IDLE, job="", job_pid=0, silent=0.0):
            own.recover()  # what the worker of another host has let go of meanwhile
        job = _take(queue, own.name, own.say)
        if job is not None:
            own.say(f"{job.id} {job.study}: {job.kind} begins, attempt {job.attempt}.")
            try:
                run_in_child(own, job)
            except (
                StoreError
            ) as error:  # how it ended cannot be written: it is given back when the queue can be used again
                own.say(str(error))
            ended = now_of(queue, job)
            words = f"{ended.state}. {ended.error or ended.note}".rstrip() if ended else ""
            own.say(f"{job.id} {job.study}: {words}" if ended else f"{job.id} was removed.")
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


def ensure_worker(root: Path, device: str = "auto") -> bool:
    """Start a worker for a device, detached from this process, if there is none; True if one was started.

    Raises:
        DarkMatterError: it is no device, or the environment has a setting with which a worker would end at once.
    """
    lane = lane_of(device)
    if worker_alive(root, lane):
        return False
    HangPolicy.of_environment()
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
                cwd=HOME,
                env=environment(root),
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
    """Give back what a dead worker of the lane was running; does nothing while a worker owns the lane, or to a cache that can
    only be read."""
    if not is_writable(queue.folder):
        return
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
        if is_silent(queue.root, lane):
            end_stuck(queue.root, lane)
        if not worker_alive(queue.root, lane):
            release_orphans(queue, lane)
            if queue.waits(lane):
                try:
                    ensure_worker(queue.root, device)
                except OSError as error:
                    raise DarkMatterError(
                        f"The worker cannot be started ({error}): run `python -m dmcore worker`."
                    ) from error
