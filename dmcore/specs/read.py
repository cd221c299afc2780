"""Study files: TOML, read into frozen objects and checked.

schema = 1
name = "demo"                 # letters, digits, - and _
title = "..."
seed = 0
[model]
path = "model"                # a folder beside the study, or: id = "google/gemma-2-2b", revision = "..."
dtype = "float32"
[texts]
path = "contexts"             # tokens.npy and contexts.json; or files = "corpus.jsonl", or dataset = "owner/name"
[settings]
skip_positions = 16
[[saes]]
hook = "blocks.2.hook_resid_post"
path = "saes/topk_1024_16"    # an SAE's folder beside the study, or: release = "...", id = "..."
[train]                       # SAEs that `train-saes` makes first
hooks = ["blocks.2.hook_resid_post"]
widths = [1024, 4096]
l0s = [16, 32]
[parts]                       # SAEs that `train-saes` makes on the parts of an SAE's error, after a sweep
base = "saes/topk_1024_16"
width = 1024
l0 = 16
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from dmcore.errors import SpecError
from dmcore.specs.inputs import ModelSpec, SaeSpec, TextsSpec, TrainSpec
from dmcore.specs.parts import PartsSpec
from dmcore.specs.study import Settings, Study

SCHEMA = 1
LONGEST = 1000
"""Characters of what is wrong with a study: a value of a megabyte is not repeated whole."""


def load_study(path: Path) -> Study:
    """Read and check a study file.

    Raises:
        SpecError: it cannot be read, or says something unknown or impossible; one sentence with the remedy.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"Cannot read the study {path} ({error.strerror}): check the path, or use `demo`.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not valid TOML ({error}): mend it there; studies/ has examples.") from error
    except ValueError as error:  # a path with a null byte
        raise SpecError(f"Cannot read the study {str(path)!r} ({error}): check the path, or use `demo`.") from error
    if content.get("schema") != SCHEMA:
        raise SpecError(f"{path} has schema {str(content.get('schema'))[:100]!r}: write schema = {SCHEMA} at its top.")
    try:
        return _parse(content, path.parent)
    except SpecError as error:
        said = str(error)
        raise SpecError(f"{path}: {said if len(said) <= LONGEST else said[:LONGEST] + '…'}") from error


def _parse(content: dict[str, Any], folder: Path) -> Study:
    known = {"schema", "name", "title", "seed", "model", "texts", "settings", "saes", "train", "parts"}
    _check_keys(content, known, "the study")
    saes = content.get("saes", [])
    if not isinstance(saes, list):
        raise SpecError("saes is a single table: write [[saes]] with two brackets.")
    train = _trained(TrainSpec, content, "train")
    settings = dict(_table(content, "settings", required=False))
    if isinstance(settings.get("compare_skips"), list):
        settings["compare_skips"] = tuple(settings["compare_skips"])
    return Study(
        name=content.get("name", ""),
        title=str(content.get("title") or content.get("name")),
        seed=content.get("seed", 0),
        model=_build(ModelSpec, _table(content, "model"), "[model]"),
        texts=_build(TextsSpec, _table(content, "texts"), "[texts]"),
        settings=_build(Settings, settings, "[settings]"),
        saes=(*(_build(SaeSpec, sae, "[[saes]]") for sae in saes), *(train.saes() if train else ())),
        folder=folder.absolute(),
        train=train,
        parts=_trained(PartsSpec, content, "parts"),
    )


def _trained(kind: Any, content: dict[str, Any], name: str) -> Any:
    """A table of SAEs to be trained, with its texts; None where there is none."""
    table = _table(content, name, required=False)
    if not table:
        return None
    if "texts" in table:
        table = {**table, "texts": _build(TextsSpec, table["texts"], f"[{name}.texts]")}
    return _build(kind, table, f"[{name}]")


def _table(content: dict[str, Any], name: str, *, required: bool = True) -> dict[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, dict) or (required and not table):
        raise SpecError(f"The study has no [{name}] table: add one.")
    return table


def _build(kind: Any, table: Any, where: str) -> Any:
    if not isinstance(table, dict):
        raise SpecError(f"{where} must be a table of keys and values.")
    _check_keys(table, {f.name for f in fields(kind)}, where)
    for f in fields(kind):
        if f.type == "str" and not isinstance(table.get(f.name, ""), str):
            raise SpecError(f"{where} {f.name} is {table[f.name]!r}: give text in quotes.")
    try:
        return kind(**table)
    except TypeError as error:
        missing = str(error).split(": ")[-1]
        raise SpecError(f"{where} lacks {missing}: add it.") from error


def _check_keys(table: dict[str, Any], known: set[str], where: str) -> None:
    for key in table:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys are {', '.join(sorted(known))}."
            raise SpecError(f"{where} has an unknown key {key!r}: {hint}")
