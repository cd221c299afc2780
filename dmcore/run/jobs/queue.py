"""The queue of jobs: one SQLite file in the cache folder, shared by the app, the workers and the command line. No torch.

1. `submit` adds a job unless one with the same key is waiting or running: an index of the database sees to it, whoever asks.
2. The worker of a lane takes the oldest waiting job (`take`), its child writes how far it is (`report`) and how it ended
   (`finish`). Both name the attempt, so that a process which has been given up cannot speak for its successor.
3. A new worker gives back what a dead one was running (`recover`): as interrupted, to be gone on with, or, after three sudden
   deaths, as failed. A worker does so itself with a job whose process hangs (`interrupt`).

Every operation opens the file, makes one short transaction, and closes it (`queue_file`).
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from pathlib import Path
from typing import Any

from dmcore.errors import DarkMatterError, StoreError
from dmcore.progress import Progress
from dmcore.run.jobs.heartbeat import host_of, owner
from dmcore.run.jobs.job import (
    ACTIVE,
    FRESH,
    KINDS,
    OF_ONE_SAE,
    RUNNING,
    TO_TAKE,
    WAITING,
    Job,
    after_death,
    check_job_id,
    interrupted,
    lane_of,
)
from dmcore.run.jobs.queue_file import QueueFile
from dmcore.run.jobs.queue_table import COLUMNS, IS_ACTIVE
from dmcore.specs import load_study
from dmcore.store.fingerprint import content_key

OWNER_SECONDS = 60.0
"""A worker of another host that has said nothing for so long has lost its job."""


class Queue(QueueFile):
    """The jobs of one cache folder."""

    # Asking and looking

    def submit(self, kind: str, study_path: Path, device: str = "auto", target: str = "", asked_by: str = "") -> Job:
        """The job that does this: the one that is waiting or running, or a new one; `target`: its SAE, for a kind of one.

        Raises:
            SpecError: the study cannot be read.
            DarkMatterError: there is no such kind of job or device.
            StoreError: the queue cannot be written.
        """
        asked = self._asked(kind, study_path, device, target)
        with self.transaction() as db:
            job = Job(id=secrets.token_hex(6), state=WAITING, created=time.time(), asked_by=asked_by, **asked)
            marks = ", ".join("?" * len(COLUMNS))
            values = [getattr(job, name) for name in COLUMNS]
            db.execute(f"INSERT INTO jobs ({', '.join(COLUMNS)}) VALUES ({marks}) ON CONFLICT DO NOTHING", values)
            return self._rows(db, f"key = ? AND {IS_ACTIVE}", job.key)[0]

    def jobs(self) -> list[Job]:
        """Every job, the newest first."""
        if not self.file.exists():
            return []
        with self.transaction(write=False) as db:
            return self._rows(db, "1 ORDER BY created DESC, id")

    def job(self, job_id: str) -> Job:
        """One job.

        Raises:
            DarkMatterError: there is none with this id.
        """
        check_job_id(job_id)
        with self.transaction(write=False) as db:
            return self._one(db, job_id)

    def log_path(self, job_id: str) -> Path:
        """Where a job's process writes its lines. Beside the queue, not in a folder of its own: the store would take a
        folder for an entry."""
        return self.folder / f"{check_job_id(job_id)}.log"

    # What a user does

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop; one that waits is cancelled at once. One that has ended stays as it is."""
        check_job_id(job_id)
        with self.transaction() as db:
            now = time.time()
            db.execute("UPDATE jobs SET cancel = 1 WHERE id = ? AND state = 'running'", [job_id])
            stopped = (
                "UPDATE jobs SET state = 'cancelled', ended = ? WHERE id = ? AND state IN ('waiting', 'interrupted')"
            )
            db.execute(stopped, [now, job_id])
            return self._one(db, job_id)

    def retry(self, job_id: str, asked_by: str = "") -> Job:
        """Put a job that has ended back into the queue, with its study file as it is now; finished work is not done again.

        Args:
            job_id: the job.
            asked_by: who wants it now; the new attempt is theirs.

        Returns:
            the job; or the active one that asks for the same thing.
        """
        before = self.job(job_id)
        if before.active:
            return before
        asked = self._asked(before.kind, Path(before.path), before.device, before.target)
        with self.transaction() as db:
            there = self._rows(db, f"key = ? AND {IS_ACTIVE}", asked["key"])
            if there:
                return there[0]
            now = self._one(db, job_id)
            fresh = {**FRESH, **asked, "created": time.time(), "attempt": now.attempt + 1, "sudden_deaths": 0,
                     "hangs": 0, "asked_by": asked_by}  # fmt: skip
            self._set(db, job_id, fresh)
            return self._one(db, job_id)

    def remove(self, job_id: str) -> None:
        """Forget a job that has ended, and its log. What it computed stays in the cache.

        Raises:
            DarkMatterError: it is waiting or running.
        """
        if self.job(job_id).active:
            raise DarkMatterError("The job is waiting or running: cancel it first.")
        with self.transaction() as db:
            db.execute(f"DELETE FROM jobs WHERE id = ? AND NOT {IS_ACTIVE}", [job_id])
        self.log_path(job_id).unlink(missing_ok=True)

    # What a worker does

    def take(self, lane: str) -> Job | None:
        """The oldest job of a lane that waits, or waits to go on, now running and this process's; None where there is none."""
        with self.transaction() as db:
            states = f"state IN ({', '.join('?' * len(TO_TAKE))})"
            found = self._rows(db, f"lane = ? AND {states} ORDER BY created, id LIMIT 1", lane, *TO_TAKE)
            if not found:
                return None
            now = time.time()
            values = {"state": RUNNING, "started": now, "updated": now, "stage": "start", "owner": owner(), "beat": now}
            self._set(db, found[0].id, values)
            return self._one(db, found[0].id)

    def waits(self, lane: str) -> bool:
        """Whether a job of this lane waits, or waits to go on."""
        return any(job.state in TO_TAKE and job.lane == lane for job in self.jobs())

    def beat(self, job: Job) -> None:
        """Write that the worker which runs a job lives."""
        with self.transaction() as db:
            self._set(db, job.id, {"beat": time.time()}, "AND state = 'running' AND attempt = ?", job.attempt)

    def recover(self, lane: str) -> list[Job]:
        """Give back what the lane's dead worker was running; only for who holds the lane's lock. Returns those jobs.

        The lock proves that a worker of this host is dead. On a shared disk whose locks do not reach other hosts it proves
        nothing of theirs: their jobs are left alone until they have been silent for `OWNER_SECONDS`.
        """
        if not self.file.exists():
            return []
        with self.transaction() as db:
            running = self._rows(db, "state = 'running' AND lane = ?", lane)
            lost = [job for job in running if not _may_run_elsewhere(job, time.time())]
            for job in lost:
                self._set(db, job.id, after_death(job, time.time()))
            return [self._one(db, job.id) for job in lost]

    def interrupt(self, job: Job, note: str, hangs: int) -> bool:
        """Give a running job back, to be gone on with, because its process hung; False if it is no longer this attempt's."""
        with self.transaction() as db:
            values = interrupted(job, note, hangs=hangs)
            return self._set(db, job.id, values, "AND state = 'running' AND attempt = ?", job.attempt) == 1

    def report(self, job: Job, progress: Progress | None, **more: Any) -> None:
        """Write how far a running job is; `more`: stages_done, saes_done, saes_total, memory, gpu_memory."""
        values: dict[str, Any] = {"updated": time.time(), **more}
        if progress is not None:
            names = ("stage", "done", "total", "unit", "rate", "seconds_left")
            values |= {name: getattr(progress, name) for name in names}
        with self.transaction() as db:
            self._set(db, job.id, values, "AND state = 'running' AND attempt = ?", job.attempt)

    def cancel_asked(self, job: Job) -> bool:
        """Whether a running job should stop: it was cancelled, or its row is no longer this attempt's."""
        with self.transaction(write=False) as db:
            row = db.execute("SELECT cancel, attempt, state FROM jobs WHERE id = ?", [job.id]).fetchone()
        return row is None or bool(row[0]) or row[1] != job.attempt or row[2] != RUNNING

    def finish(self, job: Job, state: str, error: str = "") -> bool:
        """Write how an attempt ended; False if that has been said already."""
        with self.transaction() as db:
            values = {
                "state": state,
                "error": error,
                "ended": time.time(),
                "seconds_left": None,
                "all_seconds_left": None,
                "rate": 0.0,
            }
            return self._set(db, job.id, values, "AND state = 'running' AND attempt = ?", job.attempt) == 1

    # The file

    def _asked(self, kind: str, study_path: Path, device: str, target: str) -> dict[str, Any]:
        if kind not in KINDS:
            raise DarkMatterError(f"There is no such kind of job: choose {' or '.join(KINDS)}.")
        path, lane = Path(study_path).absolute(), lane_of(device)
        study = load_study(path)
        if device.startswith("ray") and kind != "sweep":
            raise DarkMatterError("Only sweeps run on Ray: leave --device ray out for this.")
        if kind == "train-saes" and study.train is None and study.parts is None:
            raise DarkMatterError("The study trains no SAEs: add a [train] table, or sweep it.")
        if kind in OF_ONE_SAE:
            target = study.sae_called(target).name
        content = study.to_dict()
        return {
            "key": content_key([kind, target, content, str(study.folder), lane]),
            "kind": kind,
            "target": target,
            "study": study.name,
            "title": study.title,
            "path": str(path),
            "spec_key": content_key(content),
            "device": device,
            "lane": lane,
        }

    def _one(self, db: sqlite3.Connection, job_id: str) -> Job:
        found = self._rows(db, "id = ?", job_id)
        if not found:
            raise DarkMatterError(f"There is no job {job_id}: `python -m dmcore jobs ls` lists them.")
        return found[0]

    @staticmethod
    def _rows(db: sqlite3.Connection, where: str, *values: Any) -> list[Job]:
        rows = db.execute(f"SELECT {', '.join(COLUMNS)} FROM jobs WHERE {where}", values).fetchall()
        jobs = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        return [Job(**{**job, "cancel": bool(job["cancel"])}) for job in jobs]

    @staticmethod
    def _set(db: sqlite3.Connection, job_id: str, values: dict[str, Any], also: str = "", *more: Any) -> int:
        assignments = ", ".join(f"{name} = ?" for name in values)
        return db.execute(
            f"UPDATE jobs SET {assignments} WHERE id = ? {also}", [*values.values(), job_id, *more]
        ).rowcount


def _may_run_elsewhere(job: Job, now: float) -> bool:
    """Whether a worker of another host has said lately that it runs the job."""
    elsewhere = bool(job.owner) and host_of(job.owner) != host_of(owner())
    return elsewhere and now - max(job.beat or 0.0, job.updated or 0.0) < OWNER_SECONDS


def active_jobs(jobs: list[Job]) -> list[Job]:
    """Those that wait or run, the running first and then as they will be taken."""
    chosen = [job for job in jobs if job.state in ACTIVE]
    return sorted(chosen, key=lambda job: (job.state != RUNNING, job.created, job.id))


def finish_patiently(queue: Queue, job: Job, state: str, error: str = "") -> None:
    """`Queue.finish`, tried again for a few seconds: a disk that was full may be why the job ended.

    Raises:
        StoreError: the queue still cannot be written.
    """
    for wait in (0.5, 2.0, 5.0):
        try:
            queue.finish(job, state, error)
            return
        except StoreError:
            time.sleep(wait)
    queue.finish(job, state, error)
