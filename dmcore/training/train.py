"""Train the SAEs that a study's [train] table asks for.

1. Find the contexts to train on; see which SAEs are there already, made with these settings.
2. Open the stream: the model itself, or its activations captured on disk. Both give the same blocks.
3. Train what is missing, side by side, as many at once as memory holds: first what a checkpoint has, then the rest.
4. Store each SAE as it is finished: a SAELens folder with `train.json`, measured on held-out contexts as stored.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from dmcore.errors import SpecError, StoreError
from dmcore.memory import available_memory
from dmcore.progress import Reporter
from dmcore.sources.models import LanguageModel, check_layers, load_model, model_fingerprint
from dmcore.specs import Study, TrainSpec
from dmcore.store.fingerprint import content_key
from dmcore.store.store import Store
from dmcore.training.checkpoints import publish, write_json, writing
from dmcore.training.engines import memory_of, new_trainer
from dmcore.training.loop import LoopOptions, Run, halfway, train_runs
from dmcore.training.readers import LiveReader, captured_reader
from dmcore.training.records import LOG, TrainedSae, measure, read_trained, set_aside, what_is_there
from dmcore.training.sae_trainer import ActivationStats
from dmcore.training.schedule import Budget
from dmcore.training.stream import EpochOrder, Reader, Stream, contexts_per_block
from dmcore.training.target import SaeTarget
from dmcore.training.texts import HELD_OUT_FLOATS, TrainingTexts, training_texts

log = logging.getLogger(__name__)

VERSION = 1
"""Raised when the same settings make another SAE than before."""
DEAD_WINDOW = 1_000_000
"""Training tokens without firing after which a latent counts as dead; a fifth of a short training."""
LOOKS = 100
"""About how many points a curve has."""


def train_study(
    study: Study,
    device: torch.device | str,
    reporter: Reporter,
    store: Store | None = None,
) -> list[TrainedSae]:
    """Train every SAE of a study's grid that is not there yet.

    Args:
        study: with a [train] table.
        device: where model and SAEs are.
        reporter: told how far it is; may cancel at any step.
        store: where contexts and captured activations are kept.

    Returns:
        All SAEs of the grid, in its order.

    Raises:
        SpecError: the study has no [train] table, or what it names is missing or cannot be as it says.
        DataError: an activation, loss or FVU became NaN or infinite; the last checkpoint is kept.
        StoreError: the disk is full, or another process trains this study.
        Cancelled: the user asked for it; the same call goes on from the last checkpoint.
    """
    train = study.train
    if train is None:
        raise SpecError("The study has no [train] table: add one with hooks, widths and l0s.")
    check_layers(study)
    store = store or Store()
    texts = training_texts(study, train.tokens, store, reporter)
    return train_missing(TrainingJob(study, train, texts, str(device), store, reporter), grid(train))


def train_missing(job: TrainingJob, targets: Sequence[SaeTarget]) -> list[TrainedSae]:
    """Train what is not there yet of some targets of one folder; all of them, in order.

    Raises:
        As `train_study`.
    """
    folder = job.study.resolve(job.spec.folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".training.lock", timeout=0)
    try:
        with lock:
            missing = [target for target in targets if not job.finished(target)]
            if missing:
                job.train(missing)
    except Timeout as error:
        raise StoreError(f"Another process is training the SAEs in {folder}: wait for it, or cancel it.") from error
    return [read_trained(t.spec, job.study.resolve(t.path), trained=t in missing) for t in targets]


def grid(train: TrainSpec) -> list[SaeTarget]:
    """The SAEs of a [train] table, in the order of the study's."""
    found = []
    for spec in train.saes():
        architecture, width, l0 = spec.path.rsplit("/", 1)[1].rsplit("_", 2)
        found.append(SaeTarget(spec.hook, architecture, int(width), int(l0), train.folder))
    if not found:
        raise SpecError(
            f"[train] asks for l0s of {min(train.l0s)} and above, but widths are at most {max(train.widths)}."
        )
    return found


@dataclass
class TrainingJob:
    """SAEs to train on one stream of activations, its inputs found."""

    study: Study
    spec: TrainSpec
    texts: TrainingTexts
    device: str
    store: Store
    reporter: Reporter

    @cached_property
    def fingerprint(self) -> str:
        """Of the model."""
        return model_fingerprint(self.study, self.store.root / "fingerprints")

    @cached_property
    def model(self) -> LanguageModel:
        """Loaded when first needed."""
        with self.reporter.stage("load the model"):
            model = load_model(self.study, self.device)
        model.check_hooks(self.spec.hooks)
        return model

    @cached_property
    def reader(self) -> Reader:
        """Opened when first needed."""
        return self.open_reader()

    @property
    def streams(self) -> tuple[str, ...]:
        """What the reader gives, by name: the hooks."""
        return tuple(dict.fromkeys(self.spec.hooks))

    def open_reader(self) -> Reader:
        """Live or captured."""
        skip, contexts = self.texts.skip_positions, self.texts.contexts
        if self.spec.source == "live":
            return LiveReader(self.model, contexts.tokens, skip)
        hooks, load = self.spec.hooks, lambda: self.model
        return captured_reader(hooks, contexts, self.fingerprint, skip, load, self.store, self.reporter)

    def settings(self, target: SaeTarget) -> dict[str, Any]:
        """What determines an SAE. Not whether its activations came from disk, nor the device: they change it by rounding."""
        return {
            "version": VERSION,
            "engine": self.spec.engine,
            "model": self.fingerprint,
            "texts": self.texts.contexts.fingerprint,
            "contexts": len(self.texts.train),
            "skip_positions": self.texts.skip_positions,
            **{name: value for name, value in asdict(target).items() if name != "folder"},
            "tokens": self.spec.tokens,
            "batch_tokens": self.spec.batch_tokens,
            "learning_rate": self.spec.learning_rate,
            "seed": self.spec.seed,
        }

    def finished(self, target: SaeTarget) -> bool:
        """Whether an SAE is there, made with these settings."""
        there, changed = what_is_there(self.study.resolve(target.path), self.settings(target))
        if changed:
            log.warning("%s is trained anew: %s.", target.path, changed)
        return there

    def train(self, targets: Sequence[SaeTarget]) -> None:
        """Train some SAEs, in groups that fit in memory."""
        one = self.reader.read(self.texts.held_out[:1], self.streams)
        widths = {name: acts.shape[1] for name, acts in one.items()}
        size = contexts_per_block(
            self.spec.tokens,
            self.spec.batch_tokens,
            self.texts.used_length,
            len(self.texts.train),
            sum(widths.values()),
        )
        order = EpochOrder(self.texts.train, size, self.spec.seed)
        stream = Stream(self.reader, order, self.spec.seed)
        self._say(size)
        # Held-out activations stay in memory all along.
        rows = self.texts.held_out[: max(1, HELD_OUT_FLOATS // (self.texts.used_length * sum(widths.values())))]
        wanted = sorted({target.stream for target in targets})
        held_out = {name: acts.cpu() for name, acts in self.reader.read(rows, wanted).items()}
        stats = {name: ActivationStats.of(acts) for name, acts in stream.sample(wanted).items()}
        folder = self.study.resolve(self.spec.folder)
        n_blocks = -(-self.spec.tokens // (size * self.texts.used_length))
        for group in self._groups(targets, widths, halfway(folder / ".checkpoint", size)):
            runs = [self._run(target, stats[target.stream]) for target in group]
            options = LoopOptions(
                self.spec.batch_tokens,
                self.device,
                folder / ".checkpoint",
                min(DEAD_WINDOW, self.spec.tokens // 5),
                size,
                look_every=max(1, n_blocks // LOOKS),
            )
            train_runs(
                runs,
                stream,
                held_out,
                options,
                self.reporter,
                lambda run: self._store(run, held_out[run.target.stream], len(rows)),
            )

    def _run(self, target: SaeTarget, stats: ActivationStats) -> Run:
        trainer = new_trainer(self.spec.engine, target, stats, self.spec, self.device)
        return Run(target, trainer, Budget(self.spec.tokens), content_key(self.settings(target)))

    def _groups(
        self, targets: Sequence[SaeTarget], widths: dict[str, int], begun: dict[str, str]
    ) -> list[list[SaeTarget]]:
        """First what a checkpoint has `begun`, then the rest, each as many at once as memory holds."""
        first = [t for t in targets if begun.get(t.path) == content_key(self.settings(t))]
        groups = [first] if first else []
        room = _room(self.device)
        used = room
        for target in (t for t in targets if t not in first):
            need = memory_of(target, widths[target.stream])
            if used + need > room:
                groups.append([])
                used = 0
            groups[-1].append(target)
            used += need
        return groups

    def _say(self, size: int) -> None:
        epochs, texts = self.texts.epochs(self.spec.tokens), self.texts
        log.info("%d contexts in blocks of %d, %d held out", len(texts.train), size, len(texts.held_out))
        if epochs > 1:
            log.warning(
                "There are %s training tokens for the %s asked for, so they are gone through %.1f times.",
                f"{len(texts.train) * texts.used_length:,}",
                f"{self.spec.tokens:,}",
                epochs,
            )

    def _store(self, run: Run, held_out: Tensor, n_held_out: int) -> None:
        """Write an SAE's folder, measured as stored; it appears whole or not at all."""
        target, settings = run.target, self.settings(run.target)
        final = self.study.resolve(target.path)
        fresh = final.with_name(f".{final.name}.tmp")
        window = min(DEAD_WINDOW, self.spec.tokens // 5)
        with writing(final.parent):
            shutil.rmtree(fresh, ignore_errors=True)
            run.trainer.save(fresh, self.metadata(run))
            fvu, l0 = measure(fresh, held_out, self.device)
            about = {
                "key": content_key(settings),
                "settings": settings,
                "fvu": fvu,
                "l0": l0,
                "dead_share": run.trainer.dead_share(window),
                "dead_window": window,
                "tokens": run.tokens,
                "epochs": round(self.texts.epochs(run.tokens), 3),
                "seconds": round(run.seconds, 2),
                "held_out_contexts": n_held_out,
                "held_out_tokens": len(held_out),
                "peak_learning_rate": run.trainer.peak_rate,
                "control": run.trainer.control_state(),
                "curve": [asdict(look) for look in run.looks],
            }
            write_json(fresh / LOG, about)
            aside = set_aside(final)
            if aside is not None:
                log.warning("What was at %s, made with other settings, is kept as %s.", target.path, aside.name)
            publish(fresh, final)
        log.info("%s is finished: FVU %.4f, L0 %.2f", target.path, fvu, l0)

    def metadata(self, run: Run) -> dict[str, Any]:
        """For `cfg.json`."""
        model = self.study.model
        processing: dict[str, Any] = dict.fromkeys(model.processing, True)
        return {
            "model_name": model.name,
            "context_size": self.texts.contexts.length,
            "training_tokens": run.tokens,
            **({"model_from_pretrained_kwargs": processing} if processing else {}),
        }


def _room(device: str) -> int:
    """Bytes that the SAEs in training may take together."""
    return int(0.6 * available_memory(torch.device(device)))
