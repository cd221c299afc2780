"""Trains a group of the demo's SAEs with `dmcore.training`'s loop and lean engine, each until its own plateau.

1. The stream is the model's own training text from its end, where the text is least known to the model.
2. After every block each SAE's validation FVU is looked at; its schedule decides when the rate falls.
3. A finished SAE is stored, its matrices rounded, measured on the whole validation set as stored, and never trained again.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dmcore.demo.activations import ActivationSource
from dmcore.demo.language_model import load_model
from dmcore.demo.sae_rounding import round_matrices
from dmcore.demo.scale import CONTEXT_LENGTH, SEED, SaeScale
from dmcore.progress import Reporter
from dmcore.training.checkpoints import publish, write_json
from dmcore.training.schedule import Plateau, PlateauRule
from dmcore.training.target import SaeTarget

if TYPE_CHECKING:
    import torch

    from dmcore.training.loop import Run

log = logging.getLogger(__name__)

MODEL_NAME = "dark-matter-demo"
"""The model's name in the SAEs' metadata."""
DEAD_WINDOW = 245_760
"""Training tokens without firing after which a latent is called dead: a block of the full build."""


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

    def record(self, target: SaeTarget) -> Path:
        """The JSON record of a finished SAE."""
        return self.work / "records" / target.hook / f"{target.name}.json"

    def finished(self, target: SaeTarget) -> bool:
        """Whether an SAE is trained and stored."""
        return self.record(target).exists() and (self.out / target.path / "cfg.json").exists()


@dataclass(frozen=True)
class FromTheEnd:
    """Blocks of contexts from the end of the stream backwards, again from the end when it is used up."""

    n_contexts: int
    """Contexts of the stream."""
    block_contexts: int
    """Contexts in a block."""

    def rows(self, index: int) -> np.ndarray:
        """Numbers of the contexts of a block."""
        size = self.block_contexts
        return self.n_contexts - 1 - np.arange(index * size, (index + 1) * size) % self.n_contexts


@dataclass(frozen=True)
class DemoReader:
    """Activations of the stored model on rows of a token file."""

    source: ActivationSource
    tokens: np.ndarray
    """(n_contexts, 256)."""

    def read(self, rows: np.ndarray, hooks: Sequence[str]) -> dict[str, torch.Tensor]:
        """By hook: (n_tokens, d) float32."""
        found = self.source.read(np.asarray(self.tokens[rows]))
        return {hook: found[hook] for hook in hooks}


def train_group(
    targets: Sequence[SaeTarget],
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
    from dmcore.training.lean import lean_trainer
    from dmcore.training.loop import LoopOptions, Run, train_runs
    from dmcore.training.sae_trainer import ActivationStats
    from dmcore.training.stream import Stream

    name = f"{zlib.crc32(' '.join(target.path for target in targets).encode()):08x}"
    targets = [target for target in targets if not places.finished(target)]
    if not targets:
        return
    hooks = tuple(sorted({target.hook for target in targets}))
    source = ActivationSource(load_model(places.model, places.device), hooks)
    held_out = source.read(validation)
    blocks = Stream(DemoReader(source, stream), FromTheEnd(len(stream), scale.block_contexts), SEED)
    stats = {hook: ActivationStats.of(acts) for hook, acts in blocks.sample(hooks).items()}
    runs = [
        Run(target, lean_trainer(target, stats[target.hook], SEED, places.device), Plateau(plateau_rule(scale)))
        for target in targets
    ]
    options = LoopOptions(
        scale.batch_tokens,
        places.device,
        places.work / "sae-checkpoints" / name,
        DEAD_WINDOW,
        scale.block_contexts,
        deadline=deadline,
    )
    train_runs(runs, blocks, held_out, options, reporter, lambda run: _finish(run, held_out[run.target.hook], places))


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


def _finish(run: Run, held_out: torch.Tensor, places: TrainingPlaces) -> None:
    """Store an SAE, measure it as stored, and write its record."""
    from dmcore.training.records import measure

    target, schedule = run.target, run.schedule
    assert isinstance(schedule, Plateau)
    fresh = places.work / "finished" / target.hook / target.name
    run.trainer.save(fresh, {"model_name": MODEL_NAME, "context_size": CONTEXT_LENGTH, "prepend_bos": True})
    round_matrices(fresh)
    fvu, l0 = measure(fresh, held_out, places.device)
    publish(fresh, places.out / target.path)
    record = {
        "hook": target.hook,
        "architecture": target.architecture,
        "width": target.width,
        "target_l0": target.l0,
        "path": target.path,
        "l0": l0,
        "fvu": fvu,
        "dead_share": run.trainer.dead_share(min(run.tokens, DEAD_WINDOW)),
        "tokens": run.tokens,
        "constant_rate_tokens": schedule.decay_from,
        "stopped_by": schedule.stopped_by,
        "improvement_at_decay": _improvement_at_decay(schedule),
        "peak_learning_rate": run.trainer.peak_rate,
        "seconds": round(run.seconds, 1),
        "curve": [[at, round(value, 6)] for at, value in schedule.curve],
        "control": run.trainer.control_state(),
    }
    write_json(places.record(target), record)
    log.info("%s is finished: FVU %.4f, L0 %.2f, stopped by %s", target.path, fvu, l0, schedule.stopped_by)


def _improvement_at_decay(schedule: Plateau) -> float:
    """The relative improvement that the rule saw when the constant phase ended."""
    until = [look for look in schedule.curve if look[0] <= (schedule.decay_from or 0)]
    return Plateau(schedule.rule, unsettled=schedule.unsettled, curve=until).relative_improvement()
