"""The loop that trains SAEs side by side on one stream of activations, each until its own schedule ends.

1. Take a block of activations at every hook that an unfinished SAE reads: one run of the model feeds all.
2. Every unfinished SAE goes through the block in batches; on a CPU they run in parallel, one thread each.
3. Now and then, look at each one's FVU, L0 and dead latents on held-out activations; its schedule decides.
4. Hand over what is finished. Every few minutes, and whenever one is finished, write a checkpoint of all others.

A training that is killed goes on from its checkpoint, and its result is what it would have been.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmcore.errors import Cancelled, DataError
from dmcore.progress import Reporter, Stage
from dmcore.training.checkpoints import drop_checkpoint, load_checkpoint, read_state, save_checkpoint, writing
from dmcore.training.sae_trainer import SaeTrainer
from dmcore.training.schedule import Schedule
from dmcore.training.stream import Stream, batches
from dmcore.training.target import SaeTarget

log = logging.getLogger(__name__)

QUICK_STRIDE = 4
"""A look uses every fourth held-out token."""
CHECKPOINT_SECONDS = 150.0
"""Least time between two checkpoints."""
_CHECKPOINT_SHARE = 0.05
_SETTLED = 0.05


@dataclass(frozen=True)
class Look:
    """An SAE seen in training, on held-out activations."""

    tokens: int
    """Trained so far."""
    fvu: float
    """Pooled, about the mean."""
    l0: float
    dead_share: float
    """Of latents that fired on none of the last `LoopOptions.dead_window` training tokens."""


@dataclass
class Run:
    """One SAE in training."""

    target: SaeTarget
    """Which one."""
    trainer: SaeTrainer
    """Its parameters and optimizer."""
    schedule: Schedule
    """Its learning rate and when to stop."""
    key: str = ""
    """Of what determines it: a checkpoint of another key is not its own."""
    tokens: int = 0
    """Trained so far."""
    seconds: float = 0.0
    """Time spent in its steps and looks."""
    looks: list[Look] = field(default_factory=list)
    """The curve."""

    @property
    def finished(self) -> bool:
        """Whether its schedule has ended."""
        return self.schedule.finished(self.tokens)


@dataclass(frozen=True)
class LoopOptions:
    """How the loop runs."""

    batch_tokens: int
    """Tokens in a step."""
    device: str
    """Where the SAEs are."""
    checkpoint: Path
    """Folder of the checkpoint."""
    dead_window: int
    """Training tokens without firing after which a latent is called dead."""
    block_contexts: int = 0
    """Contexts in a block: a checkpoint with other blocks is of another stream."""
    look_every: int = 1
    """Blocks between two looks."""
    deadline: float | None = None
    """Seconds of `time.monotonic` after which schedules without an end start their decay."""


def train_runs(
    runs: Sequence[Run],
    stream: Stream,
    held_out: dict[str, Tensor],
    options: LoopOptions,
    reporter: Reporter,
    finish: Callable[[Run], None],
) -> None:
    """Train all runs to their ends, going on from the checkpoint if there is one; `finish` stores each.

    Raises:
        Cancelled: the user asked for it; the last checkpoint stays.
        DataError: the loss of an SAE became NaN or infinite; the last checkpoint stays.
        StoreError: the disk is full, or may not be written.
    """
    quick = {hook: acts[::QUICK_STRIDE].contiguous() for hook, acts in held_out.items()}
    index = restore(runs, options)
    active = [run for run in runs if not run.finished]
    saves = _Saves()
    total = sum(run.schedule.expected_end for run in runs)
    done = sum(run.tokens for run in runs)
    with (
        _pool(len(runs), options.device) as pool,
        reporter.stage(f"train {len(runs)} SAEs", total, "SAE tokens", done) as stage,
    ):
        ticker = _Ticker(stage)
        while active:
            hooks = sorted({run.target.stream for run in active})
            ticker.tick(0)
            acts = stream.block(index, hooks)
            # The widest first, so that no thread is left with one when the others have done.
            jobs = [
                pool.submit(_block, run, acts[run.target.stream], options, ticker)
                for run in sorted(active, key=lambda run: -run.target.width)
            ]
            try:
                _results(jobs)
            except BaseException:
                ticker.stop()  # or leaving the pool would wait for whole blocks
                raise
            index += 1
            due = [run for run in active if index % options.look_every == 0 or run.finished or saves.due]
            _results([pool.submit(_look, run, quick[run.target.stream], options) for run in due])
            _hurry(active, options.deadline)
            over = [run for run in active if run.finished]
            _results([pool.submit(finish, run) for run in over])
            active = [run for run in active if not run.finished]
            if active and (over or (saves.due and len(due) >= len(active))):
                saves.save(active, index, options)
            stage.total = sum(run.schedule.expected_end for run in runs)
    drop_checkpoint(options.checkpoint)


def save(runs: Sequence[Run], index: int, options: LoopOptions) -> None:
    """Write a checkpoint of some runs; `index` is the next block."""
    tensors = {f"{i}/{name}": value for i, run in enumerate(runs) for name, value in run.trainer.tensors().items()}
    states = [
        {
            "path": run.target.path,
            "key": run.key,
            "tokens": run.tokens,
            "seconds": run.seconds,
            "schedule": run.schedule.state(),
            "looks": [asdict(look) for look in run.looks],
            "control": run.trainer.control_state(),
        }
        for run in runs
    ]
    state = {"index": index, "block_contexts": options.block_contexts, "runs": states}
    with writing(options.checkpoint.parent):
        save_checkpoint(options.checkpoint, tensors, state)


def halfway(folder: Path, block_contexts: int) -> dict[str, str]:
    """The runs of a checkpoint, path to key; none of a stream with other blocks."""
    state = read_state(folder)
    if state is None or state["block_contexts"] != block_contexts:
        return {}
    return {saved["path"]: saved["key"] for saved in state["runs"]}


def restore(runs: Sequence[Run], options: LoopOptions) -> int:
    """Load the checkpoint into the runs; returns the next block, 0 if there is none that has them all."""
    keys = halfway(options.checkpoint, options.block_contexts)
    found = load_checkpoint(options.checkpoint)
    if found is None or any(keys.get(run.target.path) != run.key for run in runs):
        return 0
    tensors, state = found
    numbers = {saved["path"]: i for i, saved in enumerate(state["runs"])}
    for run in runs:
        number = numbers[run.target.path]
        saved, prefix = state["runs"][number], f"{number}/"
        run.trainer.restore({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        run.trainer.restore_control(saved["control"])
        run.schedule.restore(saved["schedule"])
        run.tokens, run.seconds = saved["tokens"], saved["seconds"]
        run.looks = [Look(**look) for look in saved["looks"]]
    return int(state["index"])


def _block(run: Run, acts: Tensor, options: LoopOptions, ticker: _Ticker) -> None:
    """Train one SAE on a block."""
    started = time.monotonic()
    finite = torch.zeros((), device=options.device)
    for batch in batches(acts, options.batch_tokens):
        if run.finished:
            break
        finite += run.trainer.step(batch, run.schedule.rate(run.tokens)).float()
        run.tokens += len(batch)
        ticker.tick(len(batch))
    # NaN and infinity stay in a sum; reading it once a block keeps a GPU busy.
    if not math.isfinite(float(finite)):
        raise DataError(
            f"The loss of {run.target.path} became NaN or infinite within {run.tokens:,} tokens: lower learning_rate; "
            "the last checkpoint is kept."
        )
    run.seconds += time.monotonic() - started


def _look(run: Run, quick: Tensor, options: LoopOptions) -> None:
    """Note how good an SAE is, and let its schedule decide."""
    started = time.monotonic()
    fvu, l0 = run.trainer.fvu(quick)
    if not math.isfinite(fvu):
        raise DataError(
            f"The FVU of {run.target.path} is {fvu} after {run.tokens:,} tokens: the activations at {run.target.stream} do "
            "not vary, or learning_rate is too high; the last checkpoint is kept."
        )
    dead = run.trainer.dead_share(min(options.dead_window, run.tokens))
    run.looks.append(Look(run.tokens, round(fvu, 6), round(l0, 4), dead))
    run.schedule.look(run.tokens, fvu, settled=abs(l0 / run.target.l0 - 1) < _SETTLED)
    run.seconds += time.monotonic() - started
    log.info("%s: %s", run.target.path, run.looks[-1])


def _hurry(runs: Sequence[Run], deadline: float | None) -> None:
    """Start the decay of whatever is late."""
    if deadline is not None and time.monotonic() > deadline:
        for run in runs:
            run.schedule.hurry(run.tokens, "time budget")


def _results(jobs: Sequence[Any]) -> None:
    """Wait for all, or for the first failure, which is raised."""
    wait(jobs, return_when=FIRST_EXCEPTION)
    for job in jobs:
        if job.done():
            job.result()
    for job in jobs:
        job.result()


class _Saves:
    """When to write a checkpoint: rarely enough that writing takes a small share of the time."""

    def __init__(self) -> None:
        self._pause, self._last = CHECKPOINT_SECONDS, time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._last > self._pause

    def save(self, runs: Sequence[Run], index: int, options: LoopOptions) -> None:
        started = time.monotonic()
        save(runs, index, options)
        self._last = time.monotonic()
        self._pause = max(CHECKPOINT_SECONDS, (self._last - started) / _CHECKPOINT_SHARE)


class _Ticker:
    """Counts tokens from several threads, and passes on the wish to cancel."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._lock, self._stopped = stage, threading.Lock(), False

    def stop(self) -> None:
        self._stopped = True

    def tick(self, tokens: int) -> None:
        with self._lock:
            if self._stopped:
                raise Cancelled("The training was stopped.")
            # The last step of an SAE may go past its last token: what is shown ends at the end.
            left = self._stage.total - self._stage.done
            self._stage.advance(max(0, min(tokens, left)) if self._stage.total else tokens)


@contextmanager
def _pool(n_runs: int, device: str) -> Iterator[ThreadPoolExecutor]:
    """On a CPU, threads that each run torch on one core: many small products are faster so than shared between cores.

    A GPU gets one thread, and may round its float32 products to TensorFloat-32.
    """
    on_cpu = torch.device(device).type == "cpu"
    before = torch.get_float32_matmul_precision()

    def start() -> None:
        if on_cpu:
            torch.set_num_threads(1)

    workers = min(n_runs, max(1, os.cpu_count() or 1)) if on_cpu else 1
    if not on_cpu:
        torch.set_float32_matmul_precision("high")
    try:
        with ThreadPoolExecutor(max(1, workers), initializer=start) as pool:
            yield pool
    finally:
        torch.set_float32_matmul_precision(before)
