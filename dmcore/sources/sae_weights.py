"""An SAE on disk, as every layout of folder gives it: its configuration, and its tensors, which are read when needed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dmcore.errors import SpecError
from dmcore.sources.disk_tensor import DiskTensor

VECTORS = {
    "standard": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "topk": ("b_enc",),
    "gated": ("b_gate", "r_mag", "b_mag"),
}
"""Tensors with an entry a latent that an SAE cannot do without, by its architecture."""


@dataclass(frozen=True)
class LatentMatrix:
    """`W_enc` or `W_dec` on disk, read in ranges of latents."""

    tensor: DiskTensor
    latents_first: bool
    """Whether the file's first axis is the latents."""
    scale: float = 1.0

    @property
    def d_sae(self) -> int:
        """Latents."""
        return self.tensor.shape[0 if self.latents_first else 1]

    @property
    def d_in(self) -> int:
        """The other axis."""
        return self.tensor.shape[1 if self.latents_first else 0]

    def by_row(self, first: int, last: int) -> Tensor:
        """(last - first, d_in) a row a latent, in the file's type, or in float32 where it is scaled."""
        read = self.tensor.rows if self.latents_first else self.tensor.columns
        found = read(first, last) if self.latents_first else read(first, last).T
        return found if self.scale == 1.0 else found.float() * self.scale


@dataclass(frozen=True)
class SaeWeights:
    """An SAE on disk, whose matrices have not been read."""

    config: dict[str, Any]
    """SAELens's configuration."""
    W_enc: LatentMatrix
    W_dec: LatentMatrix
    vectors: dict[str, Tensor] = field(repr=False)
    """Its tensors with one axis: `b_enc`, `b_dec`, `threshold`, ..."""

    @property
    def nbytes(self) -> int:
        """Bytes of both matrices in float32."""
        return 4 * 2 * self.W_enc.d_sae * self.W_enc.d_in

    def state_dict(self) -> dict[str, Tensor]:
        """Everything, as SAELens names it, in float32."""
        matrices = {"W_enc": self.W_enc.by_row(0, self.W_enc.d_sae).T, "W_dec": self.W_dec.by_row(0, self.W_dec.d_sae)}
        return {name: tensor.float().contiguous() for name, tensor in {**matrices, **self.vectors}.items()}


@dataclass(frozen=True)
class SaeConfig:
    """What is known of an SAE before its weights are read."""

    architecture: str
    d_in: int
    d_sae: int
    hook: str = ""
    """Where it was trained; empty if the files do not say."""
    model: str = ""
    """Model on which it was trained; empty if the files do not say."""
    processing: tuple[str, ...] | None = None
    """Changes to the model's raw weights under which it was trained; None if the files do not say."""


def weights_of(
    config: dict[str, Any],
    tensors: dict[str, DiskTensor],
    W_enc: LatentMatrix,
    W_dec: LatentMatrix,
    vectors: dict[str, Tensor],
) -> SaeWeights:
    """An SAE of its matrices and of those of its tensors that have one axis; `vectors`: read already.

    Raises:
        SpecError: one that its architecture needs is lacking, or is not as long as the matrices say.
    """
    read = {name: tensor.read() for name, tensor in tensors.items() if len(tensor.shape) == 1}
    if "log_threshold" in read:  # JumpReLU as older versions of SAELens saved it
        read["threshold"] = read.pop("log_threshold").exp()
    found = SaeWeights(config, W_enc, W_dec, {**read, **vectors})
    path, architecture = W_enc.tensor.path, str(config.get("architecture", "standard"))
    for name in ("b_dec", *VECTORS.get(architecture, ())):
        length = W_enc.d_in if name == "b_dec" else W_enc.d_sae
        if name not in found.vectors:
            raise SpecError(
                f"{path} lacks {name}, which an SAE of the kind {architecture} has: copy or download it again."
            )
        if found.vectors[name].shape != (length,):
            raise SpecError(
                f"{path} has {name} of length {len(found.vectors[name])}, not {length}: copy or download it again."
            )
    return found


def check_scaling(path: Path, tensors: dict[str, DiskTensor]) -> None:
    """Refuse an SAE whose latents are scaled after they were encoded, unless by 1.

    Raises:
        SpecError: it has such a factor.
    """
    scaling = tensors.get("scaling_factor")
    if scaling is not None and not bool((scaling.read() == 1).all()):
        raise SpecError(f"{path} has a scaling_factor that is not 1, which is not read: fold it into W_dec.")


def shape_of(tensors: dict[str, DiskTensor], name: str, path: Path) -> tuple[int, int]:
    """The shape of a matrix.

    Raises:
        SpecError: there is none of that name.
    """
    if name not in tensors or len(tensors[name].shape) != 2:
        raise SpecError(
            f"{path} lacks the matrix {name}, or holds it in a type that is not read (float64, 32, 16 and bfloat16 are): copy, "
            "download or convert it again."
        )
    first, second = tensors[name].shape
    return first, second


def read_json(path: Path) -> dict[str, Any]:
    """A configuration in an SAE's folder.

    Raises:
        SpecError: it is not there, or is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"There is no SAE at {path.parent} ({error.strerror}): check the path.") from error
    except ValueError as error:
        raise SpecError(f"{path} is not valid JSON ({error}): copy or download it again.") from error
    if not isinstance(content, dict):
        raise SpecError(f"{path} is not a configuration: copy or download it again.")
    return content
