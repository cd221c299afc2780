"""Study files: a sound one with its text or its values hurt; read, written again, and asked for what it reads."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from dmcore.run.jobs.queue import Queue
from dmcore.sources.contexts import find_contexts
from dmcore.sources.saes import read_config, sae_fingerprint
from dmcore.sources.study_file import study_toml
from dmcore.specs import load_study
from dmcore.store.fingerprint import content_key
from dmcore.store.store import Store
from tests.fuzz.oracle import Sandbox, heard
from tests.fuzz.values import changed_nests, hurt_bytes, nests

SOUND: dict[str, Any] = {
    "schema": 1,
    "name": "my-study",
    "title": "What my SAEs miss",
    "seed": 0,
    "model": {"path": "model", "dtype": "float32", "processing": [], "device_map": ""},
    "texts": {"files": "corpus.jsonl", "column": "text", "n_contexts": 30, "context_length": 24, "short_documents": "skip"},
    "settings": {"skip_positions": 4, "n_folds": 5, "ridge": 0.0, "fit_bias": True, "compare_skips": [0, 1]},
    "saes": [
        {"hook": "blocks.1.hook_resid_post", "path": "saes/a", "check": True, "label": "topk"},
        {"hook": "blocks.1.hook_resid_post", "release": "gemma-scope-2b-pt-res", "id": "layer_12/width_16k/average_l0_82"},
    ],
    "train": {"hooks": ["blocks.2.hook_mlp_out"], "widths": [64, 128], "l0s": [4], "architectures": ["topk"], "tokens": 1000,
              "texts": {"path": "tokens"}},
    "parts": {"base": "saes/a", "width": 64, "l0": 4, "on": ["x", "linear"], "seeds": [0, 1]},
}  # fmt: skip


def toml(value: Any) -> str:
    """A value as TOML, whatever it is: inline tables, so that any nest can be written."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(key)} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf") if math.isinf(value) else repr(value)
    return (
        hex(value)
        if isinstance(value, int) and value > 10**300
        else str(value)
        if isinstance(value, int)
        else _text(value)
    )


def _text(value: Any) -> str:
    return json.dumps(str(value)).replace("\x7f", "\\u007f")


def whole(content: dict[str, Any]) -> bytes:
    """The bytes of a study file."""
    return "\n".join(f"{_text(key)} = {toml(value)}" for key, value in content.items()).encode("utf-8", "replace")


values = changed_nests(SOUND, nests).map(
    lambda nest: whole(nest) if isinstance(nest, dict) else toml(nest).encode("utf-8", "replace")
)
files = st.one_of(hurt_bytes(whole(SOUND)), st.binary(max_size=200))


def read(content: bytes, sandbox: Sandbox) -> None:
    """All that happens with a study file before anything is computed."""
    path = sandbox.studies / "study.toml"
    path.write_bytes(content)
    study = load_study(path)
    content_key(study.to_dict())
    again = sandbox.studies / "again.toml"
    text = study_toml(study.name, study.title, study.model, study.texts, study.settings, study.saes, study.seed,
                      study.train, parts=study.parts)  # fmt: skip
    again.write_text(text, encoding="utf-8")
    assert load_study(again).to_dict() == study.to_dict(), "a study that is written is another when it is read"
    Queue(sandbox.cache).submit("sweep", path, "cpu")
    ask_sources(study, Store(sandbox.cache))


def ask_sources(study: Any, store: Store) -> None:
    """What a sweep asks its sources first; each may refuse, in one line."""
    asked = [lambda: find_contexts(study, store)]
    for sae in study.saes[:2]:
        asked += [lambda sae=sae: read_config(study, sae), lambda sae=sae: sae_fingerprint(study, sae, store.root)]
    for ask in asked:
        verdict = heard(ask)
        if verdict.failure is not None:
            raise verdict.failure


def place(folder: Path) -> None:
    """Files that the study names, some of them folders where a file belongs."""
    (folder / "corpus.jsonl").write_text('{"text": "a b c"}\n')
    (folder / "saes" / "a").mkdir(parents=True)
