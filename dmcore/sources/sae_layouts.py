"""The folders in which SAEs come: SAELens's, Gemma Scope's, Llama Scope's; each as one `SaeWeights`, read when needed.

SAELens      cfg.json, sae_weights.safetensors
Gemma Scope  params.npz (W_enc, W_dec, or w_enc, w_dec; b_enc, b_dec, threshold): JumpReLU, b_dec not taken off the input
Llama Scope  hyperparams.json, checkpoints/final.safetensors: JumpReLU; its weights expect activations scaled to a mean norm of
             sqrt(d_in), which is folded into them here. Its one threshold is one on what a latent adds to the
             reconstruction (pre-activation times the norm of its decoder column) where `sparsity_include_decoder_norm` says
             so, as all published ones do: each latent then has a threshold of its own. SAELens leaves the norms out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmcore.errors import SpecError
from dmcore.sources.disk_tensor import DiskTensor, npz_arrays, safetensors_header

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
GEMMA_PARAMS = "params.npz"
LLAMA_CONFIG, LLAMA_WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
GEMMA_VECTORS = ("b_enc", "b_dec", "threshold")
STEPS = ("fold_ln", "center_writing_weights")
"""SAELens's options of loading a model that change what its activations are."""
LAYOUTS = {"SAELens": (CONFIG, WEIGHTS), "Gemma Scope": (GEMMA_PARAMS,), "Llama Scope": (LLAMA_CONFIG, LLAMA_WEIGHTS)}
"""The files of each layout; the first tells which it is."""
ROWS_BYTES = 2**26
"""Bytes of a decoder's rows, in float64, that are read at once for the norms of its columns."""


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


def layout_of(folder: Path) -> str:
    """`SAELens`, `Gemma Scope` or `Llama Scope`.

    Raises:
        SpecError: there is no such folder, or it is none of these.
    """
    for layout, files in LAYOUTS.items():
        if (folder / files[0]).is_file():
            return layout
    if not folder.is_dir():
        raise SpecError(
            f"There is no SAE at {folder} (no such folder): check the path; a SAELens folder holds cfg.json."
        )
    raise SpecError(
        f"{folder} is no SAE folder: it needs cfg.json (SAELens), params.npz (Gemma Scope) or hyperparams.json (Llama Scope)."
    )


def layout_files(folder: Path) -> tuple[str, ...]:
    """The files of an SAE's folder that determine what it computes."""
    return LAYOUTS[layout_of(folder)]


def read_sae_config(folder: Path) -> SaeConfig:
    """Architecture, shape and origin, from the small files of a folder.

    Raises:
        SpecError: a file or a key is missing.
    """
    readers: dict[str, Callable[[Path], SaeConfig]] = {
        "SAELens": _saelens_config,
        "Gemma Scope": _gemma_config,
        "Llama Scope": _llama_config,
    }
    return readers[layout_of(folder)](folder)


def _saelens_config(folder: Path) -> SaeConfig:
    config = _json(folder / CONFIG)
    metadata = config.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    _check_scaling(folder, config)
    try:
        return SaeConfig(
            architecture=str(config.get("architecture", "standard")),
            d_in=int(config["d_in"]),
            d_sae=int(config["d_sae"]),
            hook=str(metadata.get("hook_name") or config.get("hook_name") or ""),
            model=str(metadata.get("model_name") or config.get("model_name") or ""),
            processing=processing_of(metadata, config),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpecError(
            f"{folder / CONFIG} is not a SAELens configuration (d_in and d_sae are needed): {error}."
        ) from error


def processing_of(*tables: dict[str, Any]) -> tuple[str, ...] | None:
    """The changes to the raw weights that the first table which says how its model was loaded asks for; None if none says."""
    for table in tables:
        kwargs = table.get("model_from_pretrained_kwargs")
        if isinstance(kwargs, dict):
            return tuple(step for step in STEPS if kwargs.get(step) is True)
    return None


def _check_scaling(folder: Path, config: dict[str, Any]) -> None:
    """Raise a SpecError where activations must be scaled by a mean norm that the folder does not hold."""
    if config.get("normalize_activations") == "expected_average_only_in":
        raise SpecError(
            f"{folder} expects activations scaled by their mean norm, which it does not hold: fold it into the weights "
            "(SAELens's fold_activation_norm_scaling_factor), and save the SAE again."
        )


def _gemma_arrays(path: Path) -> dict[str, DiskTensor]:
    """The arrays of `params.npz` by SAELens's names; published ones are called W_enc, older ones w_enc."""
    found = npz_arrays(path)
    return {f"W_{name[2:]}" if name.startswith("w_") else name: array for name, array in found.items()}


def _gemma_config(folder: Path) -> SaeConfig:
    d_in, d_sae = _shape_of(_gemma_arrays(folder / GEMMA_PARAMS), "W_enc", folder / GEMMA_PARAMS)
    return SaeConfig("jumprelu", d_in, d_sae)


def _llama_config(folder: Path) -> SaeConfig:
    config = _json(folder / LLAMA_CONFIG)
    hook = str(config.get("hook_point_in") or config.get("hook_point") or "")
    try:
        return SaeConfig("jumprelu", int(config["d_model"]), int(config["d_sae"]), hook)
    except (KeyError, TypeError, ValueError) as error:
        raise SpecError(f"{folder / LLAMA_CONFIG} is not a Llama Scope configuration (it lacks {error}).") from error


def open_weights(folder: Path) -> SaeWeights:
    """The tensors of an SAE's folder; its matrices are read in ranges of latents, later.

    Raises:
        SpecError: a file or a tensor is missing or not as it should be.
    """
    layout = layout_of(folder)
    if layout == "Gemma Scope":
        return _open_gemma(folder)
    if layout == "Llama Scope":
        return _open_llama(folder)
    config, tensors = _json(folder / CONFIG), safetensors_header(folder / WEIGHTS)
    for name in ("W_enc", "W_dec"):
        _shape_of(tensors, name, folder / WEIGHTS)
    return _weights(config, tensors, LatentMatrix(tensors["W_enc"], False), LatentMatrix(tensors["W_dec"], True), {})


def _open_gemma(folder: Path) -> SaeWeights:
    path = folder / GEMMA_PARAMS
    arrays = _gemma_arrays(path)
    d_in, d_sae = _shape_of(arrays, "W_enc", path)
    if _shape_of(arrays, "W_dec", path) != (d_sae, d_in):
        raise SpecError(f"{path} has W_dec of shape {arrays['W_dec'].shape}: ({d_sae}, {d_in}) is needed.")
    lacking = [name for name in GEMMA_VECTORS if name not in arrays]
    if lacking:
        raise SpecError(f"{path} lacks {lacking[0]}: copy or download it again.")
    scaling = arrays.get("scaling_factor")
    if scaling is not None and not bool((scaling.read() == 1).all()):
        raise SpecError(f"{path} has a scaling_factor that is not 1, which is not read: fold it into W_dec.")
    vectors = {name: arrays[name] for name in GEMMA_VECTORS}
    matrices = LatentMatrix(arrays["W_enc"], False), LatentMatrix(arrays["W_dec"], True)
    return _weights(_jumprelu_config(d_in, d_sae), vectors, *matrices, {})


def _open_llama(folder: Path) -> SaeWeights:
    path, about = folder / LLAMA_WEIGHTS, _json(folder / LLAMA_CONFIG)
    tensors = safetensors_header(path)
    d_sae, d_in = _shape_of(tensors, "encoder.weight", path)
    try:
        mean_norm = float(about["dataset_average_activation_norm"]["in"])
        threshold = float(about["jump_relu_threshold"])
        biases = {"b_enc": tensors["encoder.bias"].read(), "b_dec": tensors["decoder.bias"].read()}
        decoder = tensors["decoder.weight"]
    except (KeyError, TypeError, ValueError) as error:
        raise SpecError(f"{folder} is not a whole Llama Scope SAE (it lacks {error}): copy it again.") from error
    if decoder.shape != (d_in, d_sae) or not mean_norm > 0:
        raise SpecError(f"{folder} is not a Llama Scope SAE: its decoder has shape {decoder.shape}.")
    scale = d_in**0.5 / mean_norm
    norms = _column_norms(decoder) if about.get("sparsity_include_decoder_norm") else torch.ones(d_sae)
    # In the model's own units: the encoder takes x * scale, and what it gives is divided by scale again. The publishers set the
    # threshold on pre-activations that are so divided, so that on the encoder's own it is larger by scale.
    vectors = {
        "b_enc": biases["b_enc"].float(),
        "b_dec": biases["b_dec"].float() / scale,
        "threshold": threshold * scale / norms,
    }
    matrices = LatentMatrix(tensors["encoder.weight"], True, scale), LatentMatrix(decoder, False, 1.0 / scale)
    return _weights(_jumprelu_config(d_in, d_sae), {}, *matrices, vectors)


def _column_norms(decoder: DiskTensor) -> Tensor:
    """(d_sae,) norms of the columns of a matrix, read in ranges of rows."""
    d_in, d_sae = decoder.shape
    total = torch.zeros(d_sae, dtype=torch.float64)
    step = max(1, ROWS_BYTES // (8 * d_sae))
    for first in range(0, d_in, step):
        total += decoder.rows(first, min(first + step, d_in)).double().square().sum(0)
    if not bool((total > 0).all()):
        raise SpecError(f"{decoder.path} has a decoder column of zeros: copy or download it again.")
    return total.sqrt().float()


def _jumprelu_config(d_in: int, d_sae: int) -> dict[str, Any]:
    from sae_lens import __version__

    return {
        "architecture": "jumprelu",
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "metadata": {"sae_lens_version": __version__},
    }


def _weights(
    config: dict[str, Any],
    tensors: dict[str, DiskTensor],
    W_enc: LatentMatrix,
    W_dec: LatentMatrix,
    vectors: dict[str, Tensor],
) -> SaeWeights:
    read = {name: tensor.read() for name, tensor in tensors.items() if len(tensor.shape) == 1}
    if "log_threshold" in read:  # JumpReLU as older versions of SAELens saved it
        read["threshold"] = read.pop("log_threshold").exp()
    return SaeWeights(config, W_enc, W_dec, {**read, **vectors})


def _shape_of(tensors: dict[str, DiskTensor], name: str, path: Path) -> tuple[int, int]:
    if name not in tensors or len(tensors[name].shape) != 2:
        raise SpecError(f"{path} lacks the matrix {name}: copy or download it again.")
    first, second = tensors[name].shape
    return first, second


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"There is no SAE at {path.parent} ({error.strerror}): check the path.") from error
    except ValueError as error:
        raise SpecError(f"{path} is not valid JSON ({error}): copy or download it again.") from error
    if not isinstance(content, dict):
        raise SpecError(f"{path} is not a configuration: copy or download it again.")
    return content
