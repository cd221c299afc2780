"""Trains a group of SAEs side by side on one live stream of activations, each until its own plateau.

1. Read a block of contexts, take its activations at every hook of the group, shuffle its tokens.
2. Every unfinished SAE goes through the block in batches; SAEs run in parallel, one thread each.
3. After the block, look at each one's validation FVU; its schedule decides (`plateau`).
4. A finished SAE is stored, measured on the whole validation set as stored, and never trained again.
"""

from __future__ import annotations

import logging
import os
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dmcore.demo.activations import ActivationSource
from dmcore.demo.checkpoints import load_checkpoint, publish, save_checkpoint, write_json
from dmcore.demo.language_model import load_model
from dmcore.demo.plateau import PlateauRule, Schedule
from dmcore.demo.sae_base import ActivationStats, SaeTraining
from dmcore.demo.sae_files import measure_sae, save_sae
from dmcore.demo.sae_plan import SaeSpec
from dmcore.demo.scale import SEED, SaeScale
from dmcore.errors import Cancelled
from dmcore.progress import Reporter

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_QUICK_STRIDE = 4
_CHECKPOINT_SECONDS = 150.0
_SETTLED = 0.05
_TOPK_RATE = 8e-3
_PEAK_RATES = {"standard": 6e-3, "gated": 6e-3, "jumprelu": 6e-3}


@dataclass(frozen=True)
class TrainingPlaces:
    """Where a group finds and leaves things."""

    model: Path
    """Folder of the finished language model."""
    out: Path
    """Folder of the artifacts."""
    work: Path
    """Folder of unfinished work."""
    device: str
    """Device of model and SAEs."""

    def record(self, spec: SaeSpec) -> Path:
        """The JSON record of a finished SAE."""
        return self.work / "records" / spec.hook / f"{spec.name}.json"

    def finished(self, spec: SaeSpec) -> bool:
        """Whether an SAE is trained and stored."""
        return self.record(spec).exists() and (self.out / spec.path / "cfg.json").exists()


@dataclass
class Run:
    """One SAE in training."""

    spec: SaeSpec
    """Which one."""
    training: SaeTraining
    """Its parameters and optimizer."""
    schedule: Schedule
    """Its learning rate and when to stop."""
    seconds: float = field(default=0.0)
    """Time spent in its steps."""


def train_group(
    specs: Sequence[SaeSpec],
    scale: SaeScale,
    stream: np.ndarray,
    validation: np.ndarray,
    places: TrainingPlaces,
    reporter: Reporter,
    deadline: float | None = None,
) -> None:
    """Train what is not finished of a group; contexts are (n, 256) tokens.

    After `deadline` (seconds of `time.monotonic`), SAEs still at a constant rate start their decay, and say so.
    """
    name = f"{zlib.crc32(' '.join(spec.path for spec in specs).encode()):08x}"
    specs = [spec for spec in specs if not places.finished(spec)]
    if not specs:
        return
    source = ActivationSource(load_model(places.model, places.device), tuple(sorted({spec.hook for spec in specs})))
    held_out = source.read(validation)
    quick = {hook: acts[::_QUICK_STRIDE].contiguous() for hook, acts in held_out.items()}
    first_block = source.shuffled_block(_block(stream, 0, scale.block_contexts), 0)
    stats = {hook: ActivationStats.of(acts) for hook, acts in first_block.items()}
    runs = [
        Run(spec, new_training(spec, stats[spec.hook], places.device), Schedule(plateau_rule(scale))) for spec in specs
    ]
    checkpoint = places.work / "sae-checkpoints" / name
    index, tokens, runs = _restore(runs, checkpoint)
    workers = 1 if places.device != "cpu" else max(1, os.cpu_count() or 1)
    saved_at = time.monotonic()
    with _single_threaded_pool(workers, places.device) as pool:
        while runs:
            acts = source.shuffled_block(_block(stream, index, scale.block_contexts), index)
            n_tokens = len(next(iter(acts.values())))
            title = f"train {len(runs)} SAEs, block {index + 1}"
            with reporter.stage(title, total=n_tokens * len(runs), unit="SAE tokens") as stage:
                jobs = [
                    pool.submit(_run_block, run, acts[run.spec.hook], quick[run.spec.hook], tokens, scale, reporter)
                    for run in sorted(runs, key=lambda run: -run.spec.width)
                ]
                for job in as_completed(jobs):
                    job.result()
                    stage.advance(n_tokens)
            index, tokens = index + 1, tokens + n_tokens
            _decide(runs, tokens, deadline)
            done = [run for run in runs if run.schedule.finished(tokens)]
            for job in [pool.submit(_finish, run, tokens, held_out[run.spec.hook], places) for run in done]:
                job.result()
            runs = [run for run in runs if not run.schedule.finished(tokens)]
            if runs and (done or time.monotonic() - saved_at > _CHECKPOINT_SECONDS):
                _save(runs, index, tokens, checkpoint)
                saved_at = time.monotonic()


def new_training(spec: SaeSpec, stats: ActivationStats, device: str) -> SaeTraining:
    """A freshly initialised SAE of this architecture."""
    from dmcore.demo.penalised_training import GatedTraining, JumpReLUTraining, StandardTraining
    from dmcore.demo.topk_training import BatchTopKTraining, TopKTraining

    classes = {
        "topk": TopKTraining,
        "batchtopk": BatchTopKTraining,
        "standard": StandardTraining,
        "gated": GatedTraining,
        "jumprelu": JumpReLUTraining,
    }
    seed = zlib.crc32(f"{SEED} {spec.path}".encode())
    return classes[spec.architecture](spec, stats, peak_rate(spec), seed, device)


def peak_rate(spec: SaeSpec) -> float:
    """Peak learning rate: tried at width 1024, and lower for wider dictionaries (Gao et al. 2024, appendix A.3)."""
    return _PEAK_RATES.get(spec.architecture, _TOPK_RATE) * (1024 / spec.width) ** 0.25


def plateau_rule(scale: SaeScale) -> PlateauRule:
    """The plateau rule at this scale, in tokens."""
    return PlateauRule(
        scale.min_tokens,
        scale.max_tokens,
        scale.plateau_window,
        scale.plateau_improvement,
        scale.decay_share,
        warmup_tokens=scale.min_tokens // 20,
    )


def _block(stream: np.ndarray, index: int, size: int) -> np.ndarray:
    """The contexts of a block, taken from the end of the stream, where the text is least known to the model."""
    rows = len(stream) - 1 - np.arange(index * size, (index + 1) * size) % len(stream)
    return np.asarray(stream[rows])


def _run_block(
    run: Run, acts: torch.Tensor, quick: torch.Tensor, tokens: int, scale: SaeScale, reporter: Reporter
) -> None:
    """Train one SAE on a block, then look at its validation FVU."""
    started = time.monotonic()
    for start in range(0, len(acts), scale.batch_tokens):
        if reporter.should_cancel():
            raise Cancelled(f"Training of {run.spec.path} was cancelled; the same command goes on from its checkpoint.")
        if run.schedule.finished(tokens + start):
            break
        run.training.step(acts[start : start + scale.batch_tokens], run.schedule.rate(tokens + start))
    fvu, l0 = run.training.fvu(quick)
    run.schedule.look(tokens + len(acts), fvu, settled=abs(l0 / run.spec.l0 - 1) < _SETTLED)
    run.seconds += time.monotonic() - started
    log.info(
        "%s at %s tokens: FVU %.4f, L0 %.2f, dead %.1f %%%s",
        run.spec.path,
        f"{tokens + len(acts):,}",
        fvu,
        l0,
        100 * _dead_share(run, len(acts)),
        f", decaying ({run.schedule.stopped_by})" if run.schedule.stopped_by else "",
    )


def _decide(runs: list[Run], tokens: int, deadline: float | None) -> None:
    """Start the decay of whatever is late."""
    if deadline is not None and time.monotonic() > deadline:
        for run in runs:
            if run.schedule.decay_from is None:
                run.schedule.start_decay(tokens, "time budget")


def _dead_share(run: Run, window: int) -> float:
    """Share of latents that fired on none of the last `window` training tokens."""
    return float((run.training.since_fired >= window).float().mean())


def _finish(run: Run, tokens: int, held_out: torch.Tensor, places: TrainingPlaces) -> None:
    """Store an SAE, measure it as stored, and write its record."""
    fresh = places.work / "finished" / run.spec.hook / run.spec.name
    save_sae(run.spec, {name: value.cpu() for name, value in run.training.export().items()}, fresh)
    fvu, l0 = measure_sae(fresh, held_out)
    publish(fresh, places.out / run.spec.path)
    record = {
        "hook": run.spec.hook,
        "architecture": run.spec.architecture,
        "width": run.spec.width,
        "target_l0": run.spec.l0,
        "path": run.spec.path,
        "l0": l0,
        "fvu": fvu,
        "dead_share": _dead_share(run, min(tokens, 245_760)),
        "tokens": min(tokens, run.schedule.end or tokens),
        "constant_rate_tokens": run.schedule.decay_from,
        "stopped_by": run.schedule.stopped_by,
        "improvement_at_decay": _improvement_at_decay(run.schedule),
        "peak_learning_rate": run.training.peak_rate,
        "seconds": round(run.seconds, 1),
        "curve": [[at, round(value, 6)] for at, value in run.schedule.curve],
        "control": run.training.control_state(),
    }
    write_json(places.record(run.spec), record)
    log.info("%s is finished: FVU %.4f, L0 %.2f, stopped by %s", run.spec.path, fvu, l0, run.schedule.stopped_by)


def _improvement_at_decay(schedule: Schedule) -> float:
    """The relative improvement that the rule saw when the constant phase ended."""
    until = [look for look in schedule.curve if look[0] <= (schedule.decay_from or 0)]
    return Schedule(schedule.rule, until, unsettled=schedule.unsettled).relative_improvement()


def _save(runs: list[Run], index: int, tokens: int, folder: Path) -> None:
    """Checkpoint every unfinished SAE of a group."""
    tensors = {
        f"{run.spec.name}@{run.spec.hook}/{name}": value
        for run in runs
        for name, value in run.training.tensors().items()
    }
    states = {
        run.spec.path: {
            "curve": run.schedule.curve,
            "decay_from": run.schedule.decay_from,
            "unsettled": run.schedule.unsettled,
            "stopped_by": run.schedule.stopped_by,
            "control": run.training.control_state(),
            "seconds": run.seconds,
        }
        for run in runs
    }
    save_checkpoint(folder, tensors, {"index": index, "tokens": tokens, "runs": states})


def _restore(runs: list[Run], folder: Path) -> tuple[int, int, list[Run]]:
    """Load a checkpoint; the next block, the tokens so far, and the runs to go on with."""
    found = load_checkpoint(folder)
    if found is None:
        return 0, 0, runs
    tensors, state = found
    for run in runs:
        saved = state["runs"][run.spec.path]
        prefix = f"{run.spec.name}@{run.spec.hook}/"
        run.training.restore({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        run.training.restore_control(saved["control"])
        run.schedule.curve = [(int(at), float(value)) for at, value in saved["curve"]]
        run.schedule.decay_from, run.schedule.stopped_by = saved["decay_from"], saved["stopped_by"]
        run.schedule.unsettled = saved.get("unsettled", 0)
        run.seconds = saved["seconds"]
    return int(state["index"]), int(state["tokens"]), runs


def _single_threaded_pool(workers: int, device: str) -> ThreadPoolExecutor:
    """Threads that each run torch on one core: many small products are faster so than shared between cores."""
    import torch

    def start() -> None:
        if device == "cpu":
            torch.set_num_threads(1)

    return ThreadPoolExecutor(workers, initializer=start)
