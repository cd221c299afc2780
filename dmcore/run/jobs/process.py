"""The process of one job, as its worker sees it: begun, watched, ended where it must be, and what became of it written down."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dmcore.errors import DarkMatterError, StoreError
from dmcore.places import HOME
from dmcore.progress import format_seconds
from dmcore.run.jobs.files import shorten, tail
from dmcore.run.jobs.heartbeat import WORKING, Heart
from dmcore.run.jobs.job import CANCELLED, FAILED, Job
from dmcore.run.jobs.liveness import HANG_VARIABLE, HangPolicy, Signs
from dmcore.run.jobs.queue import Queue, finish_patiently

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
TERM_SECONDS, KILL_SECONDS = 1.0, 1.4
"""After a cancel: when a process that has not stopped by itself is asked by the system, and when it is killed."""
DUMP_SECONDS = 1.0
"""How long a process that hangs may take to write where."""


@dataclass(frozen=True)
class Lane:
    """What a worker owns while it holds its lane."""

    queue: Queue
    name: str
    heart: Heart
    policy: HangPolicy
    say: Callable[[str], None]

    def recover(self) -> None:
        """Give back what a dead worker was running; where the queue cannot be written now, with the next beat."""
        try:
            recovered = self.queue.recover(self.name)
        except StoreError as error:
            self.say(str(error))
            return
        for job in recovered:
            self.say(f"{job.id} {job.study}: its worker had died; now {job.state}.")


def command_of(job: Job) -> list[str]:
    """What runs a job; its parent is this process."""
    return [sys.executable, "-m", "dmcore", "worker", "--run-job", job.id, "--parent", str(os.getpid())]


def environment(root: Path) -> dict[str, str]:
    """Of a worker and of its children: the same cache, tokens and paths; threads that sleep while they wait."""
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "DMCORE_CACHE": str(root), "PYTHONUNBUFFERED": "1"}


def now_of(queue: Queue, job: Job) -> Job | None:
    """The job as it is now; None if it has been removed, or the queue cannot be read for the moment."""
    try:
        return queue.job(job.id)
    except DarkMatterError:
        return None


def run_in_child(own: Lane, job: Job) -> None:
    """Run a job in a process of its own until it has ended, and write how it ended if it did not itself."""
    queue = own.queue
    path = queue.log_path(job.id)
    shorten(path, 2**20)
    with path.open("ab") as log_file:
        child = subprocess.Popen(
            command_of(job),
            cwd=HOME,
            env=environment(queue.root),
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
        )
    try:
        why = _watch(own, job, child, path)
    except (KeyboardInterrupt, SystemExit):
        child.kill()
        stopped = f"Attempt {job.attempt} was interrupted: its worker was stopped. The next worker goes on from what is finished."
        try:
            queue.interrupt(job, stopped, job.hangs)
        except (
            StoreError
        ) as error:  # whoever asked the worker to stop is not to wait for a disk: the next one finds it out
            own.say(str(error))
        raise
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if why == HUNG:
        _give_back(queue, job, own.policy)
    elif why == ASKED:
        finish_patiently(queue, job, CANCELLED)
    finish_patiently(
        queue, job, FAILED, _why_it_died(child.returncode, path)
    )  # says nothing if the child, the cancel or the one who gave it back has


ASKED, HUNG = "asked", "hung"


def _watch(own: Lane, job: Job, child: subprocess.Popen[bytes], path: Path) -> str:
    """Wait for the child; end it if it was cancelled and goes on, or hangs. Returns `ASKED`, `HUNG` or nothing."""
    asked_at: float | None = None
    signs = Signs(child.pid, own.policy)
    while child.poll() is None:
        now = time.monotonic()
        seen = now_of(own.queue, job)
        if asked_at is None:
            asked_at = now if seen is not None and seen.cancel else None
        if asked_at is not None:
            if now - asked_at > KILL_SECONDS:
                child.kill()
            elif now - asked_at > TERM_SECONDS:
                child.terminate()
        silent = signs.look((seen.updated, seen.stage) if seen is not None else None)
        if own.heart.beat(state=WORKING, job=job.id, job_pid=child.pid, silent=round(silent, 1)):
            _beat(own.queue, job)
        if signs.hung and asked_at is None:
            _end_hung(child)
            return HUNG
        shorten(path)
        time.sleep(POLL_SECONDS / 2)
    return ASKED if asked_at is not None else ""


def _beat(queue: Queue, job: Job) -> None:
    try:
        queue.beat(job)
    except StoreError as error:
        log.warning("%s", error)


def _end_hung(child: subprocess.Popen[bytes]) -> None:
    """End a process that hangs; first it writes to its log where it hangs, if it still can."""
    if hasattr(signal, "SIGUSR1"):
        child.send_signal(signal.SIGUSR1)
        try:
            child.wait(DUMP_SECONDS)
        except subprocess.TimeoutExpired:
            log.debug("it is there still")
    if child.poll() is None:
        child.kill()
        child.wait()


def _give_back(queue: Queue, job: Job, policy: HangPolicy) -> None:
    """Have a job whose process hung begun again, or say that it failed."""
    hung = f"Attempt {job.attempt} showed no sign of life for {format_seconds(policy.seconds)} and was ended"
    if job.hangs < policy.retries:
        queue.interrupt(job, f"{hung}; the job goes on from what is finished.", job.hangs + 1)
        return
    again = f", as {job.hangs} before it" if job.hangs else ""
    error = (
        f"{hung}{again}: its log says where it hung; look whether a disk or the network hangs, then retry, with a larger "
        f"{HANG_VARIABLE} if it only was slow. Finished work is kept."
    )
    finish_patiently(queue, job, FAILED, error)


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
