"""The build of the embedded default, stage by stage; each stage is skipped where its result is already there.

1. Corpus, tokenizer, contexts (`corpus`, `tokenizer`, `tokens`).
2. Language model (`language_model`), its loss against n-gram baselines (`ngrams`).
3. SAEs (`sae_training`).
4. Study file and report (`report`).
5. SAEs on the parts of one SAE's error (`parts`), by that study.

Unfinished work lives in the work folder, finished artifacts in the output folder; a folder there is complete.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dmcore.demo import language_model, ngrams, report, tokens
from dmcore.demo.contexts import write_contexts
from dmcore.demo.corpus import collect
from dmcore.demo.parts import TEXTS, part_paths, prepare_parts
from dmcore.demo.sae_plan import sae_groups
from dmcore.demo.sae_training import TrainingPlaces, train_group
from dmcore.demo.scale import Scale
from dmcore.demo.tokenizer import train_tokenizer
from dmcore.errors import SpecError
from dmcore.progress import Reporter
from dmcore.training.checkpoints import publish, read_json, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildPlan:
    """What to build, where."""

    scale: Scale
    """Sizes."""
    out: Path
    """Folder of the artifacts."""
    work: Path
    """Folder of unfinished work: token streams, checkpoints."""
    device: str
    """`cpu`, `cuda` or `cuda:N`."""

    @property
    def model(self) -> Path:
        """The model folder."""
        return self.out / "model"

    @property
    def fingerprint(self) -> str:
        """A hash of the scale: two builds may share a work folder only if theirs agree. What the SAEs on parts are is left
        out: they come last, and the work folder has nothing that depends on it."""
        sizes = {name: value for name, value in asdict(self.scale).items() if name != "parts"}
        return hashlib.sha256(json.dumps(sizes, sort_keys=True).encode()).hexdigest()[:16]


def prepare_text(plan: BuildPlan, reporter: Reporter) -> None:
    """Stage 1: write tokenizer, training stream, validation contexts and shipped contexts."""
    mark = plan.work / "text.json"
    if mark.exists() and (plan.out / "contexts" / "contexts.json").exists():
        return
    corpus = collect(plan.scale.corpus, reporter)
    folder = plan.work / "model"
    with reporter.stage("learn the tokenizer"):
        train_tokenizer(corpus, plan.scale, folder)
    tokenizer = tokens.load_tokenizer(folder)
    shipped, validation = tokens.held_out_contexts(corpus, tokenizer, plan.scale)
    stream = tokens.training_contexts(corpus, tokenizer, reporter)
    np.save(plan.work / "train.npy", stream)
    np.save(plan.work / "validation.npy", validation.tokens)
    write_contexts(plan.out / "contexts", shipped, folder / "tokenizer.json")
    summary = {"corpus": corpus.manifest(), "stream_tokens": int(stream.size)}
    write_json(mark, summary | {"validation_documents": sorted(set(validation.documents))})


def prepare_model(plan: BuildPlan, reporter: Reporter) -> None:
    """Stage 2: train the model and measure it on the validation contexts."""
    mark = plan.work / "model.json"
    if mark.exists() and (plan.model / "model.safetensors").exists():
        return
    stream = np.load(plan.work / "train.npy", mmap_mode="r")
    validation = np.load(plan.work / "validation.npy")
    folder = plan.work / "model"
    n_vocabulary = tokens.load_tokenizer(folder).get_vocab_size()
    model, training = language_model.train_model(
        stream, plan.scale.model, n_vocabulary, plan.work, plan.device, reporter
    )
    language_model.save_model(model, folder)
    rounded = language_model.load_model(folder, plan.device)
    losses = {
        "validation_loss": language_model.mean_loss(rounded, validation, plan.device),
        "validation_loss_before_rounding": language_model.mean_loss(model.eval(), validation, plan.device),
    }
    used = stream[: min(len(stream), training["contexts"])]
    with reporter.stage("fit the n-gram baselines"):
        losses |= ngrams.baseline_losses(used, validation, n_vocabulary)
    shape = {"parameters": sum(p.numel() for p in model.parameters()), "vocabulary": n_vocabulary}
    publish(folder, plan.model)
    write_json(mark, shape | training | losses | {"validation_contexts": len(validation)})


def prepare_saes(plan: BuildPlan, reporter: Reporter, minutes: float | None = None) -> None:
    """Stage 3: train every SAE; `minutes` bounds the constant-rate phases of all of them together."""
    stream = np.load(plan.work / "train.npy", mmap_mode="r")
    validation = np.load(plan.work / "validation.npy")
    places = TrainingPlaces(plan.model, plan.out, plan.work, plan.device)
    groups = sae_groups(plan.scale)
    started = time.monotonic()
    for number, group in enumerate(groups, 1):
        deadline = None if minutes is None else started + 60 * minutes * number / len(groups)
        train_group(group, plan.scale.saes, stream, validation, places, reporter, deadline)


def write_reports(plan: BuildPlan) -> None:
    """Stage 4: the study file, `build_report.json` and `README.md`, from the records of the other stages."""
    places = TrainingPlaces(plan.model, plan.out, plan.work, plan.device)
    specs = sorted(spec for group in sae_groups(plan.scale) for spec in group if places.finished(spec))
    found = {
        "text": read_json(plan.work / "text.json"),
        "model": read_json(plan.work / "model.json"),
        "saes": [read_json(places.record(spec)) for spec in specs],
        "scale": asdict(plan.scale),
    }
    report.write_study(plan.out, specs, plan.scale)
    report.write_report(plan.out, found)


def is_complete(plan: BuildPlan) -> bool:
    """Whether everything that this scale asks for is in the output folder."""
    return not missing(plan) and not (plan.out / TEXTS).exists()


def missing(plan: BuildPlan) -> list[str]:
    """What is not there yet, as paths relative to the output folder."""
    wanted = ["contexts/contexts.json", "model/config.json", "model/model.safetensors", "model/tokenizer.json"]
    wanted += [f"{spec.path}/cfg.json" for group in sae_groups(plan.scale) for spec in group]
    wanted += [f"{path}/cfg.json" for path in part_paths(plan.scale)]
    wanted += ["study.toml", "build_report.json", "README.md"]
    return [path for path in wanted if not (plan.out / path).exists()]


def build(plan: BuildPlan, reporter: Reporter, sae_minutes: float | None = None) -> None:
    """All stages, each skipped where its result is there; nothing at all where the artifacts are complete."""
    if is_complete(plan):
        return
    check_work_folder(plan)
    prepare_text(plan, reporter)
    prepare_model(plan, reporter)
    prepare_saes(plan, reporter, sae_minutes)
    write_reports(plan)
    prepare_parts(plan, reporter)


def check_work_folder(plan: BuildPlan) -> None:
    """Refuse a work folder that belongs to a build of another scale."""
    plan.work.mkdir(parents=True, exist_ok=True)
    mark = plan.work / "build.json"
    if mark.exists() and read_json(mark)["fingerprint"] != plan.fingerprint:
        raise SpecError(f"{plan.work} holds a build of another scale: pass another --work folder or delete it.")
    write_json(mark, {"scale": plan.scale.name, "fingerprint": plan.fingerprint})
