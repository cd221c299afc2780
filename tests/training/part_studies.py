"""Small studies with a [parts] table: a random model and a random TopK SAE, contexts to measure on and others to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dmcore.specs import Study, load_study
from tests.builders import HOOKS, LENGTH, VOCABULARY, build_study

BASE = f"saes/{HOOKS[0]}/topk"
PARTS: dict[str, Any] = {"width": 40, "l0": 4, "seeds": [0, 1], "tokens": 3000, "batch_tokens": 128}


def build_parts_study(folder: Path, **changes: Any) -> Study:
    """A study whose [parts] table asks for 2 seeds of SAEs on each part of a TopK SAE's error."""
    from dmcore.sources.study_file import toml_value

    table = {"base": BASE, **PARTS, **changes}
    lines = ["[parts]", *(f"{key} = {toml_value(value)}" for key, value in table.items())]
    path = build_study(folder, extra="\n".join([*lines, "[parts.texts]", 'path = "train"']), architectures=("topk",))
    write_training_texts(folder / "train")
    return load_study(path)


def write_training_texts(folder: Path, n_contexts: int = 60) -> None:
    """A folder of random tokens that the study does not measure on."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "tokens.npy", np.random.default_rng(1).integers(3, VOCABULARY, (n_contexts, LENGTH), np.uint16))
    (folder / "contexts.json").write_text("{}")
