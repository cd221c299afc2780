"""Studies: what is asked, as frozen objects read from a TOML file. A study and its seed determine every number.

schema = 1
name = "demo"                 # letters, digits, - and _
title = "..."
seed = 0
[model]
path = "model"                # a folder beside the study, or: id = "google/gemma-2-2b", revision = "..."
dtype = "float32"
[texts]
path = "contexts"             # a folder with tokens.npy and contexts.json
[settings]
skip_positions = 16
[[saes]]
hook = "blocks.2.hook_resid_post"
path = "saes/topk_1024_16"    # a SAELens folder beside the study, or: release = "...", id = "..."
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from dmcore.errors import SpecError

SCHEMA = 1
DTYPES = ("float32", "bfloat16", "float16")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
SITES = {
    "hook_resid_pre": "residual",
    "hook_resid_mid": "residual",
    "hook_resid_post": "residual",
    "hook_mlp_out": "mlp",
    "hook_attn_out": "attention",
    "attn.hook_z": "attention",
}
"""The sites of a layer, and the stream to which each belongs."""
HOOK = re.compile(r"blocks\.(\d{1,4})\.(.+)")


def parse_hook(hook: str) -> tuple[int, str]:
    """Layer and site of a hook name: `blocks.2.hook_resid_post` -> `(2, "hook_resid_post")`.

    Raises:
        SpecError: it is not the name of a site; names the nearest ones.
    """
    found = HOOK.fullmatch(hook)
    if found and found[2] in SITES:
        return int(found[1]), found[2]
    layer = int(found[1]) if found else 0
    names = [f"blocks.{layer}.{site}" for site in SITES]
    nearest = difflib.get_close_matches(hook, names, n=2, cutoff=0.3) or names
    raise SpecError(f"There is no hook {hook!r}: did you mean {' or '.join(nearest)}?")


@dataclass(frozen=True)
class ModelSpec:
    """A language model."""

    path: str = ""
    """Hugging Face folder, relative to the study; or empty."""
    id: str = ""
    """Hugging Face id; or empty."""
    revision: str = "main"
    """Branch, tag or commit of the id."""
    dtype: str = "float32"
    """In which the model computes and activations are kept."""

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.id):
            raise SpecError("[model] needs either path (a local folder) or id (a Hugging Face id), and not both.")
        if self.dtype not in DTYPES:
            raise SpecError(f"[model] dtype is {self.dtype!r}: choose one of {', '.join(DTYPES)}.")

    @property
    def name(self) -> str:
        """The model in a word or two."""
        return self.id or Path(self.path).name


@dataclass(frozen=True)
class TextsSpec:
    """The contexts that the model reads."""

    path: str
    """Folder with `tokens.npy` (n_contexts, context_length) and `contexts.json`, relative to the study."""


@dataclass(frozen=True)
class Settings:
    """How the error is split."""

    skip_positions: int = 16
    """First positions of each context left out (position 0 is an attention sink)."""
    n_folds: int = 5
    """Folds of whole contexts."""
    ridge: float = 0.0
    """Penalty on the squared weights, as scikit-learn's `alpha`."""
    fit_bias: bool = True
    """Whether the linear map has a bias."""
    compare_skips: tuple[int, ...] = (0, 1)
    """Other values of skip_positions for which the split is also reported; empty for none."""

    def __post_init__(self) -> None:
        for name in ("skip_positions", "n_folds"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < (2 if name == "n_folds" else 0):
                least = 2 if name == "n_folds" else 0
                raise SpecError(f"[settings] {name} is {value!r}: give a whole number, {least} or above.")
        if isinstance(self.ridge, bool) or not isinstance(self.ridge, int | float) or not 0 <= self.ridge < math.inf:
            raise SpecError(f"[settings] ridge is {self.ridge!r}: give a finite number, 0 or above.")
        if not isinstance(self.fit_bias, bool):
            raise SpecError(f"[settings] fit_bias is {self.fit_bias!r}: give true or false.")
        if any(not isinstance(s, int) or isinstance(s, bool) or s < 0 for s in self.compare_skips):
            raise SpecError(
                f"[settings] compare_skips is {list(self.compare_skips)!r}: give whole numbers, 0 or above."
            )
        object.__setattr__(self, "compare_skips", tuple(sorted(set(self.compare_skips) - {self.skip_positions})))
        object.__setattr__(self, "ridge", float(self.ridge))


@dataclass(frozen=True)
class SaeSpec:
    """A sparse autoencoder and the site that it reads."""

    hook: str
    """Hook name, e.g. `blocks.2.hook_resid_post`."""
    path: str = ""
    """SAELens folder, relative to the study; or empty."""
    release: str = ""
    """SAELens release; or empty."""
    id: str = ""
    """SAE id in the release."""
    label: str = ""
    """What to call its architecture, where the saved form hides it (BatchTopK is saved as JumpReLU)."""

    def __post_init__(self) -> None:
        parse_hook(self.hook)
        if bool(self.path) == bool(self.release and self.id):
            raise SpecError(f"The SAE at {self.hook} needs either path, or release and id, and not both.")

    @property
    def name(self) -> str:
        """Its id in tables and links."""
        return self.path or f"{self.release}/{self.id}"

    @property
    def layer(self) -> int:
        """Layer of its site, from 0."""
        return parse_hook(self.hook)[0]

    @property
    def stream(self) -> str:
        """`residual`, `mlp` or `attention`."""
        return SITES[parse_hook(self.hook)[1]]


@dataclass(frozen=True)
class Study:
    """Everything that determines a set of results."""

    name: str
    title: str
    seed: int
    model: ModelSpec
    texts: TextsSpec
    settings: Settings
    saes: tuple[SaeSpec, ...]
    folder: Path = field(compare=False, default=Path())
    """Where the study file is; paths are relative to it."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise SpecError(f"The study's name is {self.name!r}: use letters, digits, - and _ only, at most 64.")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise SpecError(f"The study's seed is {self.seed!r}: give a whole number, 0 or above.")
        if not self.saes:
            raise SpecError("The study names no SAE: add a [[saes]] table with hook and path, or release and id.")
        twice = [sae.name for i, sae in enumerate(self.saes) if any(sae == other for other in self.saes[:i])]
        if twice:
            raise SpecError(f"The study names the SAE {twice[0]} twice: delete one.")

    @property
    def hooks(self) -> tuple[str, ...]:
        """Its sites, each once, in the order of the SAEs."""
        return tuple(dict.fromkeys(sae.hook for sae in self.saes))

    def to_dict(self) -> dict[str, Any]:
        """What the study file says; the same wherever the file is."""
        content = asdict(self)
        del content["folder"]
        return content

    def resolve(self, path: str) -> Path:
        """A path of the study file, from the study's folder."""
        return (self.folder / path).absolute()


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
        raise SpecError(f"{path} is not valid TOML: {error}.") from error
    if content.get("schema") != SCHEMA:
        raise SpecError(f"{path} has schema {content.get('schema')!r}: this version reads schema = {SCHEMA}.")
    try:
        return _parse(content, path.parent)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error


def _parse(content: dict[str, Any], folder: Path) -> Study:
    _check_keys(content, {"schema", "name", "title", "seed", "model", "texts", "settings", "saes"}, "the study")
    saes = content.get("saes", [])
    if not isinstance(saes, list):
        raise SpecError("saes is a single table: write [[saes]] with two brackets.")
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
        saes=tuple(_build(SaeSpec, sae, "[[saes]]") for sae in saes),
        folder=folder.absolute(),
    )


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
