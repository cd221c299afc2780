"""Train SAEs on x and on the parts of a base SAE's error, with equal budget.

1. A reader gives x at the base's hook, live or captured; `PartsReader` makes the parts of it: the error x - Sae(x), what
   the linear map predicts of it, and the rest.
2. The SAEs of one seed are trained side by side on one stream: the same tokens in the same order, the same first weights.
   Each sees its part centred and scaled to unit variance, and is stored in the part's own units.
3. The seeds follow one another; each has its own first weights and its own order of contexts and tokens.

The linear map is the one that a sweep fitted on all tokens of the study. Training texts are others, so here the parts are
predictions out of sample; but one map makes them all, while a measurement on the study's own tokens must take the maps of
the folds (`dmcore.analysis.part_saes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dmcore.analysis.activations import TOKENS_PER_CHUNK
from dmcore.analysis.encode import Autoencoder
from dmcore.math.linear_map import AffineMap
from dmcore.progress import Reporter
from dmcore.sources.models import check_layers
from dmcore.specs import PartsSpec, Study, TextsSpec
from dmcore.store.store import Store
from dmcore.training.loop import Run
from dmcore.training.records import TrainedSae
from dmcore.training.stream import Reader
from dmcore.training.target import PartTarget, SaeTarget
from dmcore.training.texts import training_texts
from dmcore.training.train import TrainingJob, train_missing


@dataclass(frozen=True)
class PartsBase:
    """What takes an activation apart."""

    sae: Autoencoder
    """The SAE whose error it is, on the device of the training."""
    linear: AffineMap
    """From x to its error, (d_model) to (d_model), fitted on all tokens of the study."""
    fingerprint: str
    """Of the SAE."""
    map_key: str
    """Of what the map was fitted to."""


@dataclass(frozen=True)
class PartsReader:
    """The parts of the activations that another reader gives."""

    reader: Reader
    """Gives x at `hook`."""
    hook: str
    base: PartsBase
    device: str
    """Where base and map work."""

    def read(self, rows: np.ndarray, hooks: Sequence[str]) -> dict[str, Float[Tensor, "n_tokens d_in"]]:
        """By name of the part (one of `dmcore.specs.PARTS`): float32, where the reader gives x."""
        x = self.reader.read(rows, (self.hook,))[self.hook]
        if set(hooks) == {"x"}:
            return {"x": x.float()}
        found = {name: torch.empty(x.shape, dtype=torch.float32, device=x.device) for name in hooks}
        for first in range(0, len(x), TOKENS_PER_CHUNK):
            some = slice(first, first + TOKENS_PER_CHUNK)
            for name, part in parts_of(x[some].to(self.device).float(), self.base).items():
                if name in found:
                    found[name][some] = part.to(x.device)
        return found


@torch.no_grad()
def parts_of(x: Float[Tensor, "n_tokens d_in"], base: PartsBase) -> dict[str, Float[Tensor, "n_tokens d_in"]]:
    """x and the parts of its error, by name; linear and nonlinear add up to the error."""
    error = x - base.sae.decode(base.sae.encode(x), x)
    linear = base.linear.predict(x)
    return {"x": x, "error": error, "linear": linear, "nonlinear": error - linear}


@dataclass
class PartsJob(TrainingJob):
    """The SAEs of one seed."""

    base: PartsBase
    parts: PartsSpec

    @property
    def streams(self) -> tuple[str, ...]:
        """The parts."""
        return self.parts.on

    def open_reader(self) -> Reader:
        """The parts of what the model or the disk gives."""
        return PartsReader(super().open_reader(), self.spec.hooks[0], self.base, self.device)

    def settings(self, target: SaeTarget) -> dict[str, Any]:
        """As of any SAE, and what the part is made with."""
        return super().settings(target) | {"base": self.base.fingerprint, "linear map": self.base.map_key}

    def metadata(self, run: Run) -> dict[str, Any]:
        """As of any SAE, and the part: what it reads is not what the model has at the hook."""
        assert isinstance(run.target, PartTarget), "a job of parts has targets of parts"
        return super().metadata(run) | {"part": run.target.part, "base": self.parts.base}


def train_parts(
    study: Study, base: PartsBase, device: torch.device | str, reporter: Reporter, store: Store | None = None
) -> list[TrainedSae]:
    """Train every SAE of a study's [parts] table that is not there yet.

    Args:
        study: with a [parts] table.
        base: the SAE that the table names, with the map of its error.
        device, reporter, store: as of `dmcore.training.train_study`.

    Returns:
        All SAEs of the table, in the order of its seeds and parts.

    Raises:
        As `dmcore.training.train_study`.
    """
    hook, parts = study.base.hook, study.parts
    assert parts is not None, "or it had no base"
    check_layers(study)
    store = store or Store()
    specs = [replace(parts.training(hook, seed), texts=_texts(study)) for seed in parts.seeds]
    texts = training_texts(replace(study, train=specs[0]), parts.tokens, store, reporter)
    job = PartsJob(study, specs[0], texts, str(device), store, reporter, base, parts)
    done: list[TrainedSae] = []
    for spec in specs:
        job.spec = spec  # the seed alone is another: model and reader stay
        done += train_missing(
            job,
            [
                PartTarget(hook, parts.architecture, parts.width, parts.l0, parts.place, part, spec.seed)
                for part in parts.on
            ],
        )
    return done


def _texts(study: Study) -> TextsSpec | None:
    """What [parts] says, or else [train]."""
    return next((table.texts for table in (study.parts, study.train) if table is not None and table.texts), None)
