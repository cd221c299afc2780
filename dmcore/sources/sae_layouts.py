"""The folders in which SAEs come: SAELens's own, and those of `scope_layouts`; each as one `SaeWeights`, read when needed.

SAELens  cfg.json, sae_weights.safetensors
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmcore.errors import SpecError
from dmcore.sources import scope_layouts
from dmcore.sources.disk_tensor import safetensors_header
from dmcore.sources.sae_weights import (
    LatentMatrix,
    SaeConfig,
    SaeWeights,
    check_scaling,
    read_json,
    shape_of,
    weights_of,
)
from dmcore.store.fingerprint import content_key, files_fingerprint

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
STEPS = ("fold_ln", "center_writing_weights")
"""SAELens's options of loading a model that change what its activations are."""
LAYOUTS = {
    "SAELens": (CONFIG, WEIGHTS),
    "Gemma Scope": (scope_layouts.GEMMA_PARAMS,),
    "Llama Scope": (scope_layouts.LLAMA_CONFIG, scope_layouts.LLAMA_WEIGHTS),
    "Gemma Scope 2": (scope_layouts.GEMMA_2_PARAMS,),
}
"""The files of each layout; the first tells which it is."""

CHANGED = {"Llama Scope": {"reader": 2}}
"""What goes into the key of an SAE of a layout whose numbers have changed with how it is read here."""


def layout_of(folder: Path) -> str:
    """One of `LAYOUTS`.

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
        f"{folder} is no SAE folder: it needs cfg.json (SAELens), params.npz (Gemma Scope), params.safetensors (Gemma Scope 2) "
        "or hyperparams.json (Llama Scope)."
    )


def layout_files(folder: Path) -> tuple[str, ...]:
    """The files of an SAE's folder that determine what it computes."""
    return LAYOUTS[layout_of(folder)]


def folder_fingerprint(folder: Path, memory: Path | None = None) -> str:
    """Hash of an SAE's folder: of its files, and of how they are read; `memory` as `files_fingerprint` has it.

    Raises:
        SpecError: it is no SAE's, or a file is missing.
    """
    files, changed = files_fingerprint(folder, list(layout_files(folder)), memory), CHANGED.get(layout_of(folder))
    return content_key({"files": files, **changed}) if changed else files


def read_sae_config(folder: Path) -> SaeConfig:
    """Architecture, shape and origin, from the small files of a folder.

    Raises:
        SpecError: a file or a key is missing.
    """
    read_config, _ = _READERS[layout_of(folder)]
    return read_config(folder)


def _saelens_config(folder: Path) -> SaeConfig:
    config = read_json(folder / CONFIG)
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


def open_weights(folder: Path) -> SaeWeights:
    """The tensors of an SAE's folder; its matrices are read in ranges of latents, later.

    Raises:
        SpecError: a file or a tensor is missing or not as it should be.
    """
    _, read_weights = _READERS[layout_of(folder)]
    return read_weights(folder)


def _open_saelens(folder: Path) -> SaeWeights:
    config, tensors = read_json(folder / CONFIG), safetensors_header(folder / WEIGHTS)
    d_in, d_sae = shape_of(tensors, "W_enc", folder / WEIGHTS)
    if shape_of(tensors, "W_dec", folder / WEIGHTS) != (d_sae, d_in):
        raise SpecError(f"{folder / WEIGHTS} has W_dec of shape {tensors['W_dec'].shape}: ({d_sae}, {d_in}) is needed.")
    check_scaling(folder / WEIGHTS, tensors)
    return weights_of(config, tensors, LatentMatrix(tensors["W_enc"], False), LatentMatrix(tensors["W_dec"], True), {})


_READERS: dict[str, tuple[Callable[[Path], SaeConfig], Callable[[Path], SaeWeights]]] = {
    "SAELens": (_saelens_config, _open_saelens),
    "Gemma Scope": (scope_layouts.gemma_config, scope_layouts.open_gemma),
    "Gemma Scope 2": (scope_layouts.gemma_2_config, scope_layouts.open_gemma_2),
    "Llama Scope": (scope_layouts.llama_config, scope_layouts.open_llama),
}
"""What reads the configuration and the tensors of each layout."""
