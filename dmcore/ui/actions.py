"""Everything by which a page changes something: jobs, study files, the cache. Each asks first whether who is looking may.

Nothing else in `dmcore.ui` or `pages` submits, cancels, removes, writes or deletes; `tests/pages/test_sign_in.py` sees to it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from dmcore.errors import SpecError, StoreError
from dmcore.run.jobs import worker
from dmcore.run.jobs.job import Job
from dmcore.run.jobs.queue import Queue
from dmcore.specs import NAME, load_study
from dmcore.ui.sign_in import require_runner

log = logging.getLogger(__name__)


def submit(kind: str, path: Path, device: str = "auto", target: str = "") -> Job:
    """Put a job into the queue and see that a worker is there.

    Raises:
        AccessError: who is looking may not.
        DarkMatterError: the study cannot be read, or the queue not written.
        OSError: the worker cannot be started.
    """
    name, queue = require_runner(), Queue()
    job = queue.submit(kind, path, device, target, asked_by=name)
    worker.ensure_worker(queue.root, device)
    _note(name, f"asked for job {job.id} ({kind} of {job.study})")
    return job


def cancel(job_id: str) -> None:
    """Ask a job to stop."""
    name = require_runner()
    worker.cancel(Queue(), job_id)
    _note(name, f"cancelled job {job_id}")


def retry(job_id: str) -> None:
    """Put a job that has ended back into the queue."""
    name = require_runner()
    Queue().retry(job_id, asked_by=name)
    _note(name, f"retried job {job_id}")


def remove(job_id: str) -> None:
    """Take a job that has ended off the list."""
    name = require_runner()
    Queue().remove(job_id)
    _note(name, f"removed job {job_id}")


def delete_entries(keys: list[tuple[str, str]]) -> int:
    """Delete entries of the cache, by stage and key; what a job has come to need meanwhile is refused. Bytes freed."""
    from dmcore.run.jobs.disk import delete_holdings, holdings
    from dmcore.store.store import Store

    name, queue, store, wanted = require_runner(), Queue(), Store(), set(keys)
    chosen = [h for h in holdings(store) if (h.stage, h.entry.key) in wanted]
    freed = delete_holdings(store, chosen, [job.study for job in queue.jobs() if job.active])
    _note(name, f"deleted {len(chosen)} cache entries")
    return freed


def delete_unfinished() -> int:
    """Delete what stopped captures have left. Bytes freed."""
    from dmcore.run.jobs.files import delete_leftovers

    name = require_runner()
    freed = delete_leftovers(Queue().root)
    _note(name, "deleted unfinished work")
    return freed


def save_study(folder: Path, name: str, toml: str) -> Path:
    """Write a study file that is whole or not there, and read it back.

    Raises:
        AccessError: who is looking may not.
        StoreError: the folder cannot be written.
        SpecError: what was written is no study.
    """
    who = require_runner()
    path, draft = folder / f"{name}.toml", folder / f".{name}.{os.getpid()}.draft"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft.write_text(toml, encoding="utf-8")
        load_study(draft)
        draft.replace(path)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written ({error.strerror}): set DMCORE_CACHE to a folder that can."
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    _note(who, f"wrote the study {name}")
    return path


def delete_study(folder: Path, name: str) -> None:
    """Delete a study file that was written here.

    Raises:
        AccessError: who is looking may not.
        SpecError: it is no name of a study.
        StoreError: it cannot be deleted, or a job is at it.
    """
    who = require_runner()
    if not NAME.fullmatch(name):
        raise SpecError("That is not the name of a study: choose one of the list.")
    path = folder / f"{name}.toml"
    if any(job.active and job.path == str(path) for job in Queue().jobs()):
        raise StoreError(f"A job is at work on {name}: cancel it first.")
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be deleted ({error.strerror}): delete it on the machine itself.") from error
    _note(who, f"deleted the study {name}")


def _note(name: str, what: str) -> None:
    """A line of the app's log on who did what, on a host with sign-in."""
    if name:
        log.info("%s %s", name.encode("unicode_escape").decode(), what)
