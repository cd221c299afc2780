"""SAEs on the parts of an SAE's error: what is trained, with equal budget, on x and on each part of x - Sae(x).

[parts]
base = "saes/a"               # the SAE whose error is taken apart, as the study names it: its path, or release/id
on = ["x", "error", "linear", "nonlinear"]
width = 1024
l0 = 16
seeds = [0, 1, 2]
tokens = 20_000_000
[parts.texts]                 # optional: as [train.texts]
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dmcore.errors import SpecError
from dmcore.specs.inputs import TRAINABLE, TextsSpec, TrainSpec, check_training, check_whole

PARTS = ("x", "error", "linear", "nonlinear")
"""x itself, for reference; the error x - Sae(x); what a linear map of x predicts of it; and the rest."""


@dataclass(frozen=True)
class PartSae:
    """One of the SAEs that a [parts] table asks for."""

    part: str
    """Of `PARTS`."""
    seed: int
    path: str
    """Its folder, relative to the study."""


@dataclass(frozen=True)
class PartsSpec:
    """SAEs that `train-saes` makes on the parts of one SAE's error, once a sweep has fitted the linear map."""

    base: str
    """Name of the SAE whose error is taken apart."""
    width: int
    """Latents of each."""
    l0: int
    """Active latents a token: exact for TopK, a target for the others."""
    on: tuple[str, ...] = PARTS
    """Of `PARTS`: one SAE is trained on each."""
    architecture: str = "topk"
    """Of `TRAINABLE`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One SAE of each part for each: of its first weights and of the order of tokens, which its parts share."""
    tokens: int = 100_000_000
    """Training tokens of each SAE."""
    batch_tokens: int = 4096
    """Tokens in a step."""
    learning_rate: float = 0.0
    """Peak learning rate; 0 for the default of the architecture and width."""
    engine: str = "sae-lens"
    """As of [train]."""
    source: str = "live"
    """As of [train]."""
    folder: str = "parts"
    """Where the SAEs go, relative to the study."""
    texts: TextsSpec | None = None
    """What they are trained on. None: what [train] is, or the study's own source after the contexts it measures on."""

    def __post_init__(self) -> None:
        if not isinstance(self.base, str) or not self.base:
            raise SpecError(f"[parts] base is {self.base!r}: name an SAE of the study by its path, or release/id.")
        for name in ("on", "seeds"):
            values = getattr(self, name)
            if isinstance(values, str | int) or not values:
                raise SpecError(f"[parts] {name} is {values!r}: give a list with at least one value.")
            object.__setattr__(self, name, tuple(values))
            twice = [value for i, value in enumerate(values) if value in values[:i]]
            if twice:
                raise SpecError(f"[parts] {name} has {twice[0]!r} twice: delete one.")
        unknown = [part for part in self.on if part not in PARTS]
        if unknown:
            raise SpecError(f"[parts] on has {unknown[0]!r}: choose among {', '.join(PARTS)}.")
        for name in ("width", "l0"):
            check_whole("[parts]", name, getattr(self, name), 1)
        for seed in self.seeds:
            check_whole("[parts]", "seeds", seed, 0)
        if self.l0 > self.width:
            raise SpecError(f"[parts] l0 is {self.l0}, but width is {self.width}: lower l0, or raise width.")
        if self.architecture not in TRAINABLE:
            raise SpecError(f"[parts] architecture is {self.architecture!r}: choose one of {', '.join(TRAINABLE)}.")
        check_training("[parts]", self)

    @property
    def place(self) -> str:
        """Folder of the SAEs on this base, relative to the study: one name from all of the base's."""
        slug = re.sub(r"[^A-Za-z0-9._-]", "-", self.base.replace("/", "__")).lstrip("._") or "base"
        return f"{self.folder}/{slug}"

    def saes(self) -> tuple[PartSae, ...]:
        """The SAEs that training leaves, in the order of parts and seeds."""
        name = f"{self.architecture}_{self.width}_{self.l0}"
        return tuple(
            PartSae(part, seed, f"{self.place}/{part}/{name}_seed{seed}") for part in self.on for seed in self.seeds
        )

    def training(self, hook: str, seed: int) -> TrainSpec:
        """The training of the SAEs of one seed, all parts; `hook` is the site of the base."""
        return TrainSpec(
            hooks=(hook,),
            widths=(self.width,),
            l0s=(self.l0,),
            architectures=(self.architecture,),
            tokens=self.tokens,
            batch_tokens=self.batch_tokens,
            learning_rate=self.learning_rate,
            engine=self.engine,
            source=self.source,
            folder=self.place,
            seed=seed,
            texts=self.texts,
        )
