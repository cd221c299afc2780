"""Small studies with a [train] table: a tiny random model, contexts to measure on and others to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dmcore.specs import Study, TextsSpec, TrainSpec, load_study
from tests.model_builders import VOCABULARY, save_model

LENGTH = 24
TRAIN: dict[str, Any] = {
    "hooks": ("blocks.1.hook_resid_post",),
    "widths": (32,),
    "l0s": (4,),
    "tokens": 6000,
    "batch_tokens": 128,
    "texts": TextsSpec(path="train"),
}


def save_tokens(folder: Path, n_contexts: int, seed: int) -> None:
    """A folder of random tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "tokens.npy", np.random.default_rng(seed).integers(7, VOCABULARY, (n_contexts, LENGTH), np.uint16))
    (folder / "contexts.json").write_text("{}")


def build_train_study(folder: Path, model: str = "llama2", *, n_train: int = 120, **train: Any) -> Study:
    """A study whose only SAEs are those to be trained."""
    from dmcore.sources.study_file import study_toml
    from dmcore.specs import ModelSpec, Settings

    if not (folder / "model").exists():
        save_model(model, folder / "model")
        save_tokens(folder / "contexts", 30, seed=0)
        save_tokens(folder / "train", n_train, seed=1)
    texts, settings = TextsSpec(path="contexts"), Settings(skip_positions=4)
    spec = TrainSpec(**{**TRAIN, **train})
    text = study_toml("tiny", "Tiny", ModelSpec(path="model"), texts, settings, (), train=spec)
    (folder / "study.toml").write_text(text)
    return load_study(folder / "study.toml")
