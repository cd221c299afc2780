"""A job's own process: `python -m dmcore worker --run-job ID --parent PID`, started by the worker.

1. Bind its life to the worker's, and take the device's lock: the child of a worker that has just died may still hold it.
2. Check that the study still says what it said when the job was asked for.
3. Sweep it, train its SAEs or look into one, reporting to the queue; write how that ended.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from dmcore.errors import Cancelled, DarkMatterError, StoreError
from dmcore.progress import Progress, Reporter
from dmcore.run import logs
from dmcore.run.jobs.files import lane_lock
from dmcore.run.jobs.heartbeat import BEAT_SECONDS, note_device
from dmcore.run.jobs.job import CANCELLED, DONE, FAILED, OF_ONE_SAE, RUNNING, Job
from dmcore.run.jobs.queue import Queue, finish_patiently
from dmcore.specs import Study, load_study
from dmcore.store.disk import disk_words
from dmcore.store.fingerprint import content_key
from dmcore.store.store import Store

log = logging.getLogger("dmcore.job")

REPORT_SECONDS = 0.35
CANCEL_SECONDS = 0.25
DEVICE_WAIT = 30.0
"""How long the process of a dead worker may take to let go of the device."""
_PR_SET_PDEATHSIG = 1


def run_job(job_id: str, parent: int) -> int:
    """Run a job that the worker `parent` has taken; the exit status."""
    die_with(parent)
    show_where_it_hangs()
    queue = Queue()
    logs.configure("job", logs.LogSettings.of_environment(), level="info", root=queue.root)
    job = queue.job(job_id)
    logs.note(job=job.id, study=job.study, sae=job.target)
    if job.state != RUNNING:
        raise DarkMatterError("The job is not running: `python -m dmcore jobs submit STUDY` asks for one.")
    with lane_lock(queue.root, job.lane, "device", DEVICE_WAIT) as mine:
        if not mine:
            return _end(queue, job, FAILED, "Another process holds the device: wait until it has ended, then retry.")
        return _guarded(queue, job)


def _guarded(queue: Queue, job: Job) -> int:
    log.info("%s %s, attempt %d", job.kind, job.study, job.attempt)
    try:
        state, error = _run(queue, job)
    except Cancelled:
        return _end(queue, job, CANCELLED, "")
    except DarkMatterError as error:
        return _end(queue, job, FAILED, str(error))
    except MemoryError:
        return _end(queue, job, FAILED, _OUT_OF_MEMORY.format(where="Memory"))
    except OSError as error:
        log.exception("the system refused")
        if words := disk_words(error, queue.root):
            return _end(queue, job, FAILED, words)
        return _end(queue, job, FAILED, f"{error.strerror or error}: see the log, mend it, then retry.")
    except Exception as error:
        log.exception("the job failed")
        first = (str(error).splitlines() or [""])[0][:200]
        if type(error).__name__ == "OutOfMemoryError":
            return _end(queue, job, FAILED, _OUT_OF_MEMORY.format(where="GPU memory"))
        if "can't allocate memory" in str(error):  # how torch says it on a CPU
            return _end(queue, job, FAILED, _OUT_OF_MEMORY.format(where="Memory"))
        return _end(queue, job, FAILED, f"{type(error).__name__}: {first} (see the log; retry goes on from here).")
    return _end(queue, job, state, error)


_OUT_OF_MEMORY = (
    "{where} ran out: use fewer or narrower SAEs, shorter contexts or a smaller dtype, then retry. "
    "Finished work is kept."
)


def _end(queue: Queue, job: Job, state: str, error: str) -> int:
    log.info("%s%s", state, f": {error}" if error else "")
    finish_patiently(queue, job, state, error)
    return 0 if state == DONE else 1


def _run(queue: Queue, job: Job) -> tuple[str, str]:
    """Do what the job asks; returns the final state, and the sentence that goes with it."""
    study = load_study(Path(job.path))
    if content_key(study.to_dict()) != job.spec_key:
        raise DarkMatterError("The study file has changed since this job was asked for: retry it to run the new one.")
    from dmcore.run.commands.shared import device_named

    watch = Watch(queue, job, len(study.saes) if job.kind == "sweep" else 0)
    reporter = Reporter(watch.sink, watch.should_cancel)
    watch.say("load libraries")
    if job.device.startswith("ray"):
        return _sweep(study, job.device, reporter, watch)
    device = device_named(job.device)
    note_device(queue.root, job.lane)
    store = Store(queue.root)
    store.waiting = watch.should_cancel
    if job.kind == "train-saes":
        return _train(study, device, reporter, store)
    if job.kind in OF_ONE_SAE:
        return _look(job, study, device, reporter, store)
    return _sweep(study, job.device, reporter, watch)


def _sweep(study: Study, device: str, reporter: Reporter, watch: Watch) -> tuple[str, str]:
    from dmcore.run.engines import engine_of_job, open_pipeline

    class Counting(Store):
        """A store that counts the results of this study as they are made."""

        def get_or_make(self, stage: str, *arguments: Any, **more: Any) -> Any:
            entry = super().get_or_make(stage, *arguments, **more)
            if stage == "summary":
                watch.count(entry.key, made=True)
            return entry

    engine, device = engine_of_job(device)
    store = Counting(watch.queue.root)
    store.waiting = watch.should_cancel
    store.seen = lambda stage, key: watch.count(key) if stage == "summary" else None
    pipeline = open_pipeline(engine, device, reporter, store=store, made=lambda key: watch.count(key, made=True))
    outcome = pipeline.sweep(study)
    watch.flush()
    if not outcome.failures:
        told = [f"The SAEs at {hook} could not be compared: {reason}" for hook, reason in outcome.unscaled.items()]
        if outcome.parts:
            told.append(f"The SAEs on the parts could not be measured: {outcome.parts}")
        return DONE, " ".join(told[:1])
    first = next(iter(outcome.failures.values()))
    if not outcome.records:
        return FAILED, first
    n_failed, n_saes = len(outcome.failures), len(study.saes)
    verb = "has" if n_failed == 1 else "have"
    return DONE, f"{n_failed} of {n_saes} SAEs {verb} no result ({', '.join(list(outcome.failures)[:3])}). {first}"


def _train(study: Study, device: Any, reporter: Reporter, store: Store) -> tuple[str, str]:
    from dmcore.run.parts import train_all

    _, left = train_all(study, device, reporter, store)
    return DONE, left


def _look(job: Job, study: Study, device: Any, reporter: Reporter, store: Store) -> tuple[str, str]:
    from dmcore.run.looks.inspect import Inspector
    from dmcore.run.pipeline import Pipeline

    inspector = Inspector(Pipeline(store, device, reporter), study)
    if job.kind == "inspect":
        return DONE, inspector.everything(job.target)
    if job.kind == "transfer":
        return DONE, inspector.transfers(job.target)
    if job.kind == "shrinkage":
        inspector.shrinkage(job.target)
        return DONE, ""
    looks = {"reduce": inspector.reduction, "downstream": inspector.downstream, "controls": inspector.controls}
    looks |= {"synthetic": inspector.synthetic}
    looks[job.kind](job.target)
    return DONE, ""


class Watch:
    """Carries a job's progress to the queue, a few times a second, and its cancel flag back."""

    def __init__(self, queue: Queue, job: Job, saes_total: int) -> None:
        self.queue, self.job = queue, job
        self._saes_total, self._found = saes_total, set[str]()
        self._made, self._saes_began = set[str](), 0.0
        self._stages_done, self._stage_started = 0, 0.0
        self._last: Progress | None = None
        self._written = self._looked = 0.0
        self._cancelled = False

    def say(self, what: str) -> None:
        """Name what is being done where no stage says so."""
        self.sink(Progress(what, 0, 0, "", 0.0, None))

    def sink(self, progress: Progress) -> None:
        """Take an observation; for `Reporter`."""
        now, last = time.monotonic(), self._last
        began = last is None or last.stage != progress.stage
        if began:
            self._stage_started = now
            log.info("%s", progress.stage)
        if not self._saes_began and progress.stage.startswith(("encode ", "split ")):
            self._saes_began = now
        full = bool(progress.total) and progress.done >= progress.total
        finished = full and (began or last is None or last.done < last.total)
        if finished:
            self._stages_done += 1
            took = f"{now - self._stage_started:.1f} s"
            log.info("%s: %s %s in %s", progress.stage, f"{progress.done:,}", progress.unit, took)
        self._last = progress
        if began or finished or now - self._written >= REPORT_SECONDS:
            self.flush()

    def count(self, key: str, *, made: bool = False) -> None:
        """Note that an SAE has its result; `made`: that it took this attempt's time."""
        self._found.add(key)
        if made:
            self._made.add(key)

    def flush(self) -> None:
        """Write the last observation."""
        self._written = time.monotonic()
        # A queue that cannot be written for a moment must not cost the work.
        try:
            self.queue.report(
                self.job,
                self._last,
                stages_done=self._stages_done,
                saes_done=min(len(self._found), self._saes_total),
                saes_total=self._saes_total,
                all_seconds_left=self._all_seconds_left(),
                memory=resident_bytes(),
                gpu_memory=_gpu_bytes(),
            )
        except StoreError as error:
            log.warning("%s", error)

    def _all_seconds_left(self) -> float | None:
        if not self._made:
            return None
        pace = (time.monotonic() - self._saes_began) / len(self._made)
        return pace * max(self._saes_total - len(self._found), 0)

    def should_cancel(self) -> bool:
        """Whether to stop; asks the queue at most every `CANCEL_SECONDS`."""
        now = time.monotonic()
        if now - self._written >= BEAT_SECONDS:  # whoever asks is alive, though nothing may be finished for long
            self.flush()
        if not self._cancelled and now - self._looked >= CANCEL_SECONDS:
            self._looked = now
            try:
                self._cancelled = self.queue.cancel_asked(self.job)
            except StoreError as error:
                log.warning("%s", error)
        return self._cancelled


def show_where_it_hangs() -> None:
    """Write the place of every thread to the log when the worker asks (SIGUSR1), as it does before it ends what hangs."""
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, all_threads=True)


def die_with(parent: int) -> None:
    """End this process when the process `parent` ends, also if that is killed."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        except (OSError, AttributeError):
            log.debug("no prctl here; the watchdog does it")

    def watchdog() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if os.getppid() != parent:  # it died before we could ask to be told
        os._exit(1)
    threading.Thread(target=watchdog, name="watchdog", daemon=True).start()


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not say."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0


def _gpu_bytes() -> int:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return 0
    return int(torch.cuda.memory_reserved())
