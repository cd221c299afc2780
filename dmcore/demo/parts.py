"""The demo's SAEs on the parts of an error: a sweep of the base SAE fits the linear map, then `train-saes --parts` trains.

Their training texts are random contexts of the training stream. They lie in the study's folder for as long as the training
takes, and are deleted afterwards: they are not shipped.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dmcore.demo.sae_plan import middle_layer
from dmcore.demo.sae_rounding import round_matrices
from dmcore.demo.scale import CONTEXT_LENGTH, Scale
from dmcore.progress import Reporter
from dmcore.specs import PartsSpec
from dmcore.training.checkpoints import write_json
from dmcore.training.target import SaeTarget

if TYPE_CHECKING:
    from dmcore.demo.build import BuildPlan

TEXTS = "train"
"""Folder of the training texts, relative to the study."""
TEXTS_SEED = 7
"""Of the choice of training texts."""


def part_table(scale: Scale) -> list[str]:
    """The [parts] table of the study file, line by line."""
    parts = scale.parts
    return [
        "[parts]",
        f'base = "{base_of(scale)}"',
        f"width = {parts.width}",
        f"l0 = {parts.l0}",
        f"seeds = {list(parts.seeds)}",
        f"tokens = {parts.tokens:_}",
        'engine = "lean"',
        'source = "captured"',
        "[parts.texts]",
        f'path = "{TEXTS}"',
    ]


def base_of(scale: Scale) -> str:
    """Path of the SAE whose error is taken apart."""
    hook = f"blocks.{middle_layer(scale)}.hook_resid_post"
    return SaeTarget(hook, "topk", scale.saes.architecture_width, scale.saes.site_l0).path


def part_paths(scale: Scale) -> list[str]:
    """Folders of the SAEs, relative to the study."""
    parts = scale.parts
    spec = PartsSpec(base_of(scale), parts.width, parts.l0, seeds=parts.seeds)
    return [sae.path for sae in spec.saes()]


def prepare_parts(plan: BuildPlan, reporter: Reporter) -> None:
    """Train the SAEs of the study's [parts] table; the study file must be there.

    Raises:
        SpecError: the base SAE has no usable result.
    """
    from dmcore.run.parts import train_all
    from dmcore.run.pipeline import Pipeline
    from dmcore.specs import load_study
    from dmcore.store.store import Store

    texts, paths = plan.out / TEXTS, [plan.out / path for path in part_paths(plan.scale)]
    if not texts.exists() and all((path / "cfg.json").exists() for path in paths):
        return
    write_texts(texts, plan)
    study, store = load_study(plan.out / "study.toml"), Store(plan.work / "cache")
    base = study.saes.index(study.base)
    Pipeline(store, plan.device, reporter).sweep(study, only=lambda number: number == base, scale=False)
    train_all(study, plan.device, reporter, store, parts_only=True)
    for path in paths:
        round_matrices(path)
        (path / ".training.lock").unlink(missing_ok=True)
    shutil.rmtree(texts)


def write_texts(folder: Path, plan: BuildPlan) -> None:
    """Random contexts of the training stream, in its order."""
    stream = np.load(plan.work / "train.npy", mmap_mode="r")
    wanted = min(plan.scale.parts.contexts, len(stream))
    chosen = np.sort(np.random.default_rng(TEXTS_SEED).choice(len(stream), wanted, replace=False))
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "tokens.npy", stream[chosen])
    description = {
        "tokenizer": hashlib.sha256((plan.model / "tokenizer.json").read_bytes()).hexdigest(),
        "context_length": CONTEXT_LENGTH,
        "n_contexts": wanted,
    }
    write_json(folder / "contexts.json", description)
