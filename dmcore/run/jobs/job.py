"""A job: a study to be swept, its SAEs to be trained, or one of them to be looked into, as a row of the queue; and its lane.

A lane is a device that one worker owns: `cpu`, `cuda-0`, `mps`. No torch here: pages read jobs.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dmcore.errors import DarkMatterError

OF_ONE_SAE = {
    "inspect": "Look into an SAE",
    "reduce": "Reduce an SAE's error",
    "downstream": "What an SAE's error costs",
    "shrinkage": "Shrinkage in an SAE's error",
    "transfer": "Transfer of an SAE's map",
    "synthetic": "Plant errors in an SAE",
    "controls": "Controls of an SAE's numbers",
}
"""Kinds of jobs that have an SAE as their target."""
KINDS = {"sweep": "Sweep", "train-saes": "Train SAEs", **OF_ONE_SAE}
"""What a job does, and its name."""
STATES = ("waiting", "running", "interrupted", "done", "failed", "cancelled")
WAITING, RUNNING, INTERRUPTED, DONE, FAILED, CANCELLED = STATES
"""`interrupted`: its worker died, or its process hung; the next worker goes on with it."""
TO_TAKE = (WAITING, INTERRUPTED)
ACTIVE = (WAITING, RUNNING, INTERRUPTED)
JOB_ID = re.compile(r"[0-9a-f]{12}")
DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,2})?|ray(:auto|:[A-Za-z0-9_.-]{1,253}:[0-9]{1,5})?")


SUDDEN_DEATHS = 3
"""Attempts that may die before they finish a stage, one after the other, until the job counts as failed."""
SUDDEN_SECONDS = 60
"""An attempt that has run for longer did not die suddenly."""

FRESH: dict[str, Any] = {
    "state": WAITING, "started": None, "ended": None, "updated": None, "stages_done": 0, "stage": "", "done": 0, "total": 0,
    "unit": "", "rate": 0.0, "seconds_left": None, "all_seconds_left": None, "saes_done": 0, "saes_total": 0, "memory": 0,
    "gpu_memory": 0, "cancel": False, "error": "", "note": "", "owner": "", "beat": None,
}  # fmt: skip
"""What a job forgets when it goes back to waiting."""


@dataclass(frozen=True)
class Job:
    """What is known of a job at one moment. Times are UTC seconds since 1970."""

    id: str
    """Twelve hexadecimal digits."""
    key: str
    """Hash of kind, target, study, folder and lane: two active jobs never share it."""
    kind: str
    """Of `KINDS`."""
    study: str
    """The study's name."""
    title: str
    """The study's title."""
    path: str
    """The study's file."""
    spec_key: str
    """Hash of what the study file said when the job was asked for."""
    device: str
    """As asked for: auto, cpu, cuda, cuda:1, ...; ray, ray:auto or ray:HOST:PORT."""
    lane: str
    """The device whose worker takes the job."""
    state: str
    """Of `STATES`."""
    created: float
    started: float | None = None
    """When the present attempt began."""
    ended: float | None = None
    updated: float | None = None
    """When the job last said how far it is."""
    attempt: int = 1
    """1, and one more for every time that the job went on after its worker had died or it was retried."""
    sudden_deaths: int = 0
    """Attempts in a row in which the worker died before the job had finished a stage."""
    stages_done: int = 0
    """Stages finished in this attempt."""
    stage: str = ""
    """What is being done, in words."""
    done: int = 0
    """Units of the stage finished."""
    total: int = 0
    """Units of the stage; 0 while it is not known."""
    unit: str = ""
    rate: float = 0.0
    """Units a second."""
    seconds_left: float | None = None
    """To the end of the stage."""
    all_seconds_left: float | None = None
    """To the end of the sweep, at the pace of the SAEs of this attempt; None until one has been computed."""
    saes_done: int = 0
    """SAEs of the study that have their result."""
    saes_total: int = 0
    """SAEs of the study; 0 where they are not counted."""
    memory: int = 0
    """Resident bytes of the job's process."""
    gpu_memory: int = 0
    """Bytes that it holds on its GPU."""
    cancel: bool = False
    """Whether it has been asked to stop."""
    target: str = ""
    """Name of the SAE that a job of a kind in `OF_ONE_SAE` is about; empty for the others."""
    error: str = ""
    """One sentence with its remedy; in a job that is done: which SAEs have no result, and why."""
    asked_by: str = ""
    """Who asked for it, as the host's sign-in names them; empty without sign-in and from the command line."""
    note: str = ""
    """What happened to the attempt before this one, in one sentence."""
    hangs: int = 0
    """Attempts that were ended because they showed no sign of life."""
    owner: str = ""
    """The worker that runs it: `host:pid`."""
    beat: float | None = None
    """When that worker last said that it lives."""

    @property
    def active(self) -> bool:
        """Waiting, running, or waiting to go on."""
        return self.state in ACTIVE

    def seconds(self, now: float) -> float | None:
        """How long the present attempt has run, or ran; None before it has begun."""
        return None if self.started is None else max((self.ended or now) - self.started, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Its fields as JSON has them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def check_job_id(job_id: str) -> str:
    """The id, if it looks like one: ids come from links and must never become a path or an echo.

    Raises:
        DarkMatterError: it does not.
    """
    if not JOB_ID.fullmatch(job_id):
        raise DarkMatterError("That is not the id of a job: `python -m dmcore jobs ls` lists them.")
    return job_id


def lane_of(device: str) -> str:
    """The lane of a device: `cuda` and `cuda:0` are one, and `auto` is the first GPU where there is one; clusters have one too.

    Raises:
        DarkMatterError: it is not the name of a device.
    """
    if not DEVICE.fullmatch(device):
        raise DarkMatterError(
            "That is not a device: give auto, cpu, mps, cuda, cuda:1 and so on, ray, or ray:HOST:PORT."
        )
    if device in {"auto", "ray"}:  # a Ray cluster that is started here works on this machine's own device
        return "cuda-0" if has_gpu() else "cpu"
    name, _, number = device.partition(":")
    return f"cuda-{int(number or 0)}" if name == "cuda" else name


def has_gpu() -> bool:
    """Whether an NVIDIA GPU can be seen, without asking torch. A wrong answer moves a job to another lane, nothing more."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in {"", "-1"}:
        return False
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()


def after_death(job: Job, now: float) -> dict[str, Any]:
    """What becomes of a running job whose worker has died; `now` in UTC seconds since 1970."""
    if job.cancel:
        return {"state": CANCELLED, "ended": now}
    ran = (job.updated or 0.0) - (job.started or 0.0)
    sudden = job.sudden_deaths + 1 if job.stages_done == 0 and ran < SUDDEN_SECONDS else 0
    if sudden >= SUDDEN_DEATHS:
        error = (
            f"The worker died {sudden} times before this job had finished a stage, so it was given up: look at its log, "
            "check that memory suffices, then retry."
        )
        return {"state": FAILED, "ended": now, "sudden_deaths": sudden, "error": error}
    note = f"Attempt {job.attempt} was interrupted: its worker died. The next worker goes on from what is finished."
    return interrupted(job, note, sudden)


def interrupted(job: Job, note: str, sudden_deaths: int = 0, hangs: int | None = None) -> dict[str, Any]:
    """What a running job becomes so that the next worker goes on with it; `note`: what happened, in one sentence."""
    kept = {"saes_done": job.saes_done, "saes_total": job.saes_total, "hangs": job.hangs if hangs is None else hangs}
    return {
        **FRESH,
        **kept,
        "state": INTERRUPTED,
        "attempt": job.attempt + 1,
        "sudden_deaths": sudden_deaths,
        "note": note,
    }
