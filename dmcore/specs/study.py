"""A study: everything that determines a set of results, as frozen objects."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dmcore.errors import SpecError
from dmcore.specs.inputs import ModelSpec, SaeSpec, TextsSpec, TrainSpec
from dmcore.specs.keys import added, spec_dict
from dmcore.specs.parts import PartsSpec

PRECISIONS = ("float32", "tf32", "bfloat16")
"""In which the encoder's product can be made; float32 is the reference."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


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
    precision: str = added("float32")
    """Of the encoder's product, of `PRECISIONS`: it changes which latents are active, so it is part of every key."""

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
        if self.precision not in PRECISIONS:
            raise SpecError(f"[settings] precision is {self.precision!r}: choose one of {', '.join(PRECISIONS)}.")
        object.__setattr__(self, "compare_skips", tuple(sorted(set(self.compare_skips) - {self.skip_positions})))
        object.__setattr__(self, "ridge", float(self.ridge))


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
    """Those that it names, then those that it trains."""
    folder: Path = field(compare=False, default=Path())
    """Where the study file is; paths are relative to it."""
    train: TrainSpec | None = added(None)
    """SAEs to be trained before a sweep; None for none."""
    parts: PartsSpec | None = added(None)
    """SAEs to be trained on the parts of the error of one of these; None for none."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise SpecError(f"The study's name is {self.name!r}: use letters, digits, - and _ only, at most 64.")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise SpecError(f"The study's seed is {self.seed!r}: give a whole number, 0 or above.")
        if not self.saes:
            raise SpecError(
                "The study names no SAE: add a [[saes]] table with hook and path, or release and id; or a [train] table."
            )
        twice = [sae.name for i, sae in enumerate(self.saes) if any(sae == other for other in self.saes[:i])]
        if twice:
            raise SpecError(f"The study names the SAE {twice[0]} twice: delete one.")
        if self.parts is not None:
            self._check_base(self.parts.base)

    def _check_base(self, name: str) -> None:
        found = [sae for sae in self.saes if sae.name == name]
        if not found:
            names = [sae.name for sae in self.saes]
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.3) or names[:1]
            raise SpecError(f"[parts] base is {name!r}, which is no SAE of the study: did you mean {near[0]!r}?")
        if len(found) > 1:
            raise SpecError(f"[parts] base is {name!r}, which the study reads at {len(found)} hooks: keep one of them.")
        if found[0].custom:
            raise SpecError(
                f"[parts] base is {name!r}, an object of Python, which cannot be loaded again: give an SAE of a folder "
                "or release."
            )

    @property
    def base(self) -> SaeSpec:
        """The SAE whose error [parts] takes apart.

        Raises:
            SpecError: there is no [parts] table.
        """
        if self.parts is None:
            raise SpecError("The study has no [parts] table: add one with base, width and l0.")
        return next(sae for sae in self.saes if sae.name == self.parts.base)

    def sae_called(self, name: str) -> SaeSpec:
        """An SAE by its name, or by the end of it.

        Raises:
            SpecError: there is none, or there are several.
        """
        exact = [sae for sae in self.saes if sae.name == name]
        found = exact or [sae for sae in self.saes if sae.name.endswith(f"/{name}")]
        if len(found) == 1:
            return found[0]
        if not found:
            raise SpecError(f"The study has no SAE called {name}: `python -m dmcore show STUDY` lists them.")
        raise SpecError(f"{len(found)} SAEs of the study are called {name}: give the whole name, e.g. {found[0].name}.")

    @property
    def hooks(self) -> tuple[str, ...]:
        """Its sites, each once, in the order of the SAEs."""
        return tuple(dict.fromkeys(sae.hook for sae in self.saes))

    def with_precision(self, precision: str | None) -> Study:
        """The study with its encoders in another precision, under a name of its own; itself for None or the same.

        Raises:
            SpecError: there is no such precision.
        """
        if precision is None or precision == self.settings.precision:
            return self
        settings = replace(self.settings, precision=precision)
        name = f"{self.name[: 63 - len(precision)]}-{precision}"
        return replace(self, name=name, title=f"{self.title} ({precision})", settings=settings)

    def to_dict(self) -> dict[str, Any]:
        """What the study file says; the same wherever the file is."""
        return spec_dict(self)

    def resolve(self, path: str) -> Path:
        """A path of the study file, from the study's folder."""
        return (self.folder / path).absolute()
