"""Write a study file: TOML that `load_study` reads back as the same study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

from dmcore.errors import SpecError
from dmcore.specs import SCHEMA, ModelSpec, PartsSpec, SaeSpec, Settings, Study, TextsSpec, TrainSpec

ALWAYS = {"dtype", "skip_positions", "n_contexts", "context_length"}
"""Written even where they have their default: what a reader of the file looks for first."""


def study_toml(
    name: str,
    title: str,
    model: ModelSpec,
    texts: TextsSpec,
    settings: Settings,
    saes: Sequence[SaeSpec],
    seed: int = 0,
    train: TrainSpec | None = None,
    *,
    parts: PartsSpec | None = None,
    comment: str = "",
) -> str:
    """A study as the text of its file.

    Args:
        name: letters, digits, - and _.
        title: what pages call it; the name where it is empty.
        model, texts, settings: its tables.
        saes: those that it names, in order; the ones that `train` makes may be among them, and are not written twice.
        seed: of everything that is drawn.
        train: SAEs to be trained first.
        parts: SAEs to be trained on the parts of the error of one of them.
        comment: opens the file, a `#` before each of its lines.

    Raises:
        SpecError: the parts do not make a study, or a text cannot be written in a file.
    """
    made = train.saes() if train else ()
    named = tuple(sae for sae in saes if sae not in made)
    study = Study(name, title or name, seed, model, texts, settings, (*named, *made), train=train, parts=parts)
    # Everything from the settings on is a table: a key after one would belong to it.
    lines = [*(f"# {line}".rstrip() for line in comment.splitlines()), f"schema = {SCHEMA}"]
    lines += [f"{key} = {toml_value(getattr(study, key))}" for key in ("name", "title", "seed")]
    for table, spec in (("model", model), ("texts", texts), ("settings", settings)):
        lines += ["", f"[{table}]", *_pairs(spec)]
    for table, spec in (("train", train), ("parts", parts)):
        if spec is not None:
            lines += ["", f"[{table}]", *_pairs(spec, skip=("texts",))]
            lines += ["", f"[{table}.texts]", *_pairs(spec.texts)] if spec.texts is not None else []
    for sae in named:
        lines += ["", "[[saes]]", *_pairs(sae)]
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """A text, number, truth value, or list of them as TOML writes it.

    Raises:
        SpecError: a text holds half a character (a lone surrogate), which no file can.
    """
    if isinstance(value, tuple | list):
        return f"[{', '.join(toml_value(one) for one in value)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SpecError(f"A text of the study cannot be written in a file ({error.reason}): type it again.") from error
    # JSON's escapes are TOML's, but TOML wants DEL escaped too.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _pairs(spec: Any, skip: Sequence[str] = ()) -> list[str]:
    """`key = value` of every field that a reader would miss: those that differ from their default, and `ALWAYS`."""
    found = []
    for f in fields(spec):
        value = getattr(spec, f.name)
        if f.name in skip or (f.default is not MISSING and value == f.default and f.name not in ALWAYS):
            continue
        found.append(f"{f.name} = {toml_value(value)}")
    return found
