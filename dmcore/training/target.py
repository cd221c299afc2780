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
