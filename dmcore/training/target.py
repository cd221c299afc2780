"""What one training run is to make."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from dmcore.specs import SaeSpec


@dataclass(frozen=True, order=True)
class SaeTarget:
    """One SAE to train."""

    hook: str
    """Name of the activation that it reconstructs, e.g. `blocks.2.hook_resid_post`."""
    architecture: str
    """One of `dmcore.specs.TRAINABLE`."""
    width: int
    """Number of latents."""
    l0: int
    """Active latents a token: exact for TopK, a target for the others."""
    folder: str = "saes"
    """Folder of all SAEs, relative to the study."""

    @property
    def stream(self) -> str:
        """What the reader of activations calls what it reconstructs: the hook."""
        return self.hook

    @property
    def name(self) -> str:
        """Its folder's name, e.g. `topk_1024_16`."""
        return f"{self.architecture}_{self.width}_{self.l0}"

    @property
    def path(self) -> str:
        """Its folder, relative to the study."""
        return f"{self.folder}/{self.hook}/{self.name}"

    @property
    def spec(self) -> SaeSpec:
        """As a study names it once it is trained."""
        return SaeSpec(self.hook, self.path, label=self.architecture)

    def seed(self, seed: int) -> int:
        """Seed of its first weights: another one for every SAE, the same wherever it is stored."""
        return zlib.crc32(f"{seed} saes/{self.hook}/{self.name}".encode())


@dataclass(frozen=True, order=True)
class PartTarget(SaeTarget):
    """One SAE to train on a part of the error of another at the same hook; `folder` is that of all on this base."""

    part: str = "x"
    """One of `dmcore.specs.PARTS`."""
    number: int = 0
    """Its seed, as the study numbers it."""

    @property
    def stream(self) -> str:
        """The part."""
        return self.part

    @property
    def name(self) -> str:
        """Its folder's name, e.g. `topk_1024_16_seed0`."""
        return f"{super().name}_seed{self.number}"

    @property
    def path(self) -> str:
        """Its folder, relative to the study."""
        return f"{self.folder}/{self.part}/{self.name}"

    @property
    def spec(self) -> SaeSpec:
        """As an SAE; it reads a part, so that it does not belong to the hook's own activations."""
        return SaeSpec(self.hook, self.path, label=self.architecture, check=False)

    def seed(self, seed: int) -> int:
        """Seed of its first weights: the same for every part, so that parts differ in nothing else."""
        return zlib.crc32(f"{seed} parts/{self.hook}/{self.name}".encode())
