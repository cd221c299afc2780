"""What a study reads: a model, texts, SAEs; and the SAEs that it trains."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmcore.errors import SpecError
from dmcore.specs.hooks import parse_hook, stream_of
from dmcore.specs.keys import added

DTYPES = ("float32", "bfloat16", "float16")
PROCESSING = {"fold_ln": "layer norms folded in", "center_writing_weights": "writing weights centred"}
"""Changes to a model's raw weights that an SAE's release may ask for, in words."""
SHORT_DOCUMENTS = ("skip", "pack")
TRAINABLE = ("topk", "batchtopk", "jumprelu", "standard", "gated", "matryoshka")
"""Architectures that `train-saes` can train."""
ENGINES = ("sae-lens", "lean")
"""Whose trainers `train-saes` uses."""
CUSTOM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


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
    processing: tuple[str, ...] = added(())
    """Of `PROCESSING`; empty for the raw weights, which is what nearly every SAE was trained on."""
    device_map: str = added("")
    """`auto` to spread the layers over the devices that there are; empty for one device. Does not change the numbers."""

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.id):
            raise SpecError("[model] needs either path (a local folder) or id (a Hugging Face id), and not both.")
        if self.dtype not in DTYPES:
            raise SpecError(f"[model] dtype is {self.dtype!r}: choose one of {', '.join(DTYPES)}.")
        object.__setattr__(self, "processing", tuple(self.processing))
        unknown = [step for step in self.processing if step not in PROCESSING]
        if unknown:
            raise SpecError(f"[model] processing has {unknown[0]!r}: choose among {', '.join(PROCESSING)}.")
        if self.device_map not in {"", "auto", "balanced", "sequential"}:
            raise SpecError(
                f"[model] device_map is {self.device_map!r}: give auto, balanced, sequential, or leave it out."
            )

    @property
    def name(self) -> str:
        """The model in a word or two."""
        return self.id or Path(self.path).name

    @property
    def described(self) -> str:
        """Its name, and what was done to its weights: `gpt2 (writing weights centred)`."""
        done = ", ".join(PROCESSING[step] for step in self.processing)
        return f"{self.name} ({done})" if done else self.name


@dataclass(frozen=True)
class TextsSpec:
    """The contexts that the model reads: a folder of tokens, local files, or a Hugging Face data set."""

    path: str = ""
    """Folder with `tokens.npy` (n_contexts, context_length) and `contexts.json`, relative to the study; or empty."""
    files: str = added("")
    """A .txt, .jsonl or .parquet file, or a folder of them or of source files, relative to the study; or empty."""
    dataset: str = added("")
    """Hugging Face data set, streamed; or empty."""
    config: str = added("")
    """Configuration of the data set."""
    split: str = added("train")
    """Split of the data set."""
    revision: str = added("main")
    """Branch, tag or commit of the data set."""
    column: str = added("text")
    """Column that holds the text (.jsonl, .parquet, data sets)."""
    domain: str = added("")
    """Column that names the domain of each document, dots for what is nested (`meta.pile_set_name`); or empty."""
    n_contexts: int = added(300)
    """Contexts to make; not for `path`."""
    context_length: int = added(1024)
    """Tokens in each, the BOS included; not for `path`."""
    short_documents: str = added("skip")
    """`skip` documents shorter than a context, or `pack` documents one after the other."""
    bos: str = added("tokenizer")
    """`tokenizer` begins a context as the tokenizer begins a text; `always` puts its BOS there even if it would not (GPT-2)."""
    shuffle_buffer: int = added(10_000)
    """Documents among which the next is drawn; 0 keeps the order."""
    seed: int = added(42)
    """Seed of the shuffle."""
    skip_contexts: int = added(0)
    """Contexts left out at the start: those that another part of the study uses."""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.path, self.files, self.dataset))) != 1:
            raise SpecError(
                "[texts] needs one of path (a folder of tokens), files (local texts) or dataset (a Hugging Face data set)."
            )
        if self.short_documents not in SHORT_DOCUMENTS:
            raise SpecError(f"[texts] short_documents is {self.short_documents!r}: give skip or pack.")
        if self.bos not in {"tokenizer", "always"}:
            raise SpecError(f"[texts] bos is {self.bos!r}: give tokenizer or always.")
        for name, least in (
            ("n_contexts", 1),
            ("context_length", 2),
            ("shuffle_buffer", 0),
            ("seed", 0),
            ("skip_contexts", 0),
        ):
            check_whole("[texts]", name, getattr(self, name), least)


@dataclass(frozen=True)
class SaeSpec:
    """A sparse autoencoder and the site that it reads."""

    hook: str
    """Hook name, e.g. `blocks.2.hook_resid_post`."""
    path: str = ""
    """Folder of an SAE (SAELens's, Gemma Scope's or Llama Scope's layout), relative to the study; or empty."""
    release: str = ""
    """SAELens release; or empty."""
    id: str = ""
    """SAE id in the release."""
    label: str = ""
    """What to call its architecture, where the saved form hides it (BatchTopK is saved as JumpReLU)."""
    custom: str = added("")
    """Name under which an object with `encode` and `decode` is given to `dmcore.sweep`; or empty."""
    check: bool = field(default=True, compare=False)
    """Whether a sweep refuses it where it was trained elsewhere or is worse than the mean; false for controls. Changes no
    number, and no key."""

    def __post_init__(self) -> None:
        parse_hook(self.hook)
        if not isinstance(self.check, bool):
            raise SpecError(f"[[saes]] check is {self.check!r}: give true or false.")
        if sum(map(bool, (self.path, self.release and self.id, self.custom))) != 1 or bool(self.release) != bool(
            self.id
        ):
            raise SpecError(f"The SAE at {self.hook} needs either path, or release and id, and not both.")
        if self.custom and not CUSTOM_NAME.fullmatch(self.custom):
            raise SpecError(f"custom is {self.custom!r}: use letters, digits, -, _ and . only, at most 64.")

    @property
    def name(self) -> str:
        """Its id in tables and links."""
        return self.path or self.custom or f"{self.release}/{self.id}"

    @property
    def layer(self) -> int:
        """Layer of its site, from 0."""
        return parse_hook(self.hook)[0]

    @property
    def stream(self) -> str:
        """`residual`, `mlp` or `attention`, in an encoder-decoder after its stack."""
        return stream_of(self.hook)


@dataclass(frozen=True)
class TrainSpec:
    """SAEs that `train-saes` makes before the study can be swept: a grid of widths, sparsities and architectures."""

    hooks: tuple[str, ...]
    """Sites; every SAE of the grid is trained at each."""
    widths: tuple[int, ...]
    """Latents."""
    l0s: tuple[int, ...]
    """Active latents a token: exact for TopK, a target for the others."""
    architectures: tuple[str, ...] = ("topk",)
    """Of `TRAINABLE`."""
    tokens: int = 100_000_000
    """Training tokens of each SAE."""
    batch_tokens: int = 4096
    """Tokens in a step."""
    learning_rate: float = 0.0
    """Peak learning rate; 0 for the default of the architecture and width."""
    engine: str = "sae-lens"
    """`sae-lens` for SAELens's own trainers, `lean` for the faster ones of this project (no matryoshka)."""
    source: str = "live"
    """`live` runs the model as training goes; `captured` writes the activations to disk first and reads them for as long
    as it takes."""
    folder: str = "saes"
    """Where the SAEs go, relative to the study."""
    seed: int = 0
    """Seed of initialisation and of the order of tokens."""
    texts: TextsSpec | None = None
    """What they are trained on. None: the study's own source of texts, after the contexts that the study measures on."""

    def __post_init__(self) -> None:
        for name in ("hooks", "widths", "l0s", "architectures"):
            values = getattr(self, name)
            if isinstance(values, str | int) or not values:
                raise SpecError(f"[train] {name} is {values!r}: give a list with at least one value.")
            object.__setattr__(self, name, tuple(values))
        for hook in self.hooks:
            parse_hook(hook)
        for name in ("widths", "l0s"):
            for value in getattr(self, name):
                check_whole("[train]", name, value, 1)
        check_whole("[train]", "seed", self.seed, 0)
        unknown = [name for name in self.architectures if name not in TRAINABLE]
        if unknown:
            raise SpecError(f"[train] architectures has {unknown[0]!r}: choose among {', '.join(TRAINABLE)}.")
        if min(self.l0s) > max(self.widths):
            raise SpecError(
                f"[train] l0s are {min(self.l0s)} and above, but widths at most {max(self.widths)}: lower one."
            )
        check_training("[train]", self)

    def saes(self) -> tuple[SaeSpec, ...]:
        """The SAEs that training leaves, in the order of hooks, architectures, widths and sparsities."""
        grid = itertools.product(self.hooks, self.architectures, self.widths, self.l0s)
        return tuple(
            SaeSpec(hook, f"{self.folder}/{hook}/{architecture}_{width}_{l0}", label=architecture)
            for hook, architecture, width, l0 in grid
            if l0 <= width
        )


def check_whole(table: str, name: str, value: object, least: int) -> None:
    """Raise a SpecError unless a value is a whole number, `least` or above."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SpecError(f"{table} {name} is {value!r}: give a whole number, {least} or above.")


def check_training(table: str, spec: Any) -> None:
    """Raise a SpecError if what every training is told (`tokens`, `batch_tokens`, `engine`, `learning_rate`, `source`,
    `folder` of a spec) cannot be; `table` is its name in the study."""
    for name in ("tokens", "batch_tokens"):
        check_whole(table, name, getattr(spec, name), 1)
    if spec.engine not in ENGINES:
        raise SpecError(f"{table} engine is {spec.engine!r}: give {' or '.join(ENGINES)}.")
    rate = spec.learning_rate
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < math.inf:
        raise SpecError(f"{table} learning_rate is {rate!r}: give a number, 0 for the default.")
    if spec.source not in {"live", "captured"}:
        raise SpecError(f"{table} source is {spec.source!r}: give live or captured.")
    if not Path(spec.folder).parts or Path(spec.folder).is_absolute() or ".." in Path(spec.folder).parts:
        raise SpecError(f"{table} folder is {spec.folder!r}: give a folder inside the study's own.")
