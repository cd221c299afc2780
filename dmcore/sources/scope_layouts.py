"""The folders in which Google's and OpenMOSS's SAEs come: Gemma Scope, Gemma Scope 2 and Llama Scope. All are JumpReLU.

Gemma Scope    params.npz (W_enc, W_dec, or w_enc, w_dec; b_enc, b_dec, threshold): b_dec is not taken off the input
Gemma Scope 2  params.safetensors, the same in lower case; config.json, which says where it was trained, if it is there
Llama Scope    hyperparams.json, checkpoints/final.safetensors: its weights expect activations scaled to a mean norm of
               sqrt(d_in), which is folded into them here. Its one threshold is one on what a latent adds to the
               reconstruction (pre-activation times the norm of its decoder column) where `sparsity_include_decoder_norm`
               says so, as all published ones do: each latent then has a threshold of its own. SAELens leaves the norms out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmcore.errors import SpecError
from dmcore.sources.disk_tensor import DiskTensor, npz_arrays, safetensors_header
from dmcore.sources.sae_weights import (
    LatentMatrix,
    SaeConfig,
    SaeWeights,
    check_scaling,
    read_json,
    shape_of,
    weights_of,
)

GEMMA_PARAMS, GEMMA_2_PARAMS, GEMMA_2_CONFIG = "params.npz", "params.safetensors", "config.json"
LLAMA_CONFIG, LLAMA_WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
GEMMA_VECTORS = ("b_enc", "b_dec", "threshold")
GEMMA_2_SITES = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "post_feedforward_layernorm.output": "hook_mlp_out",
}
"""Sites by what Gemma Scope 2 calls them, after the layer."""
ROWS_BYTES = 2**26
"""Bytes of a decoder's rows, in float64, that are read at once for the norms of its columns."""


def _gemma_arrays(path: Path) -> dict[str, DiskTensor]:
    """The arrays of `params.npz` by SAELens's names; published ones are called W_enc, older ones w_enc."""
    return _renamed(npz_arrays(path))


def _gemma_2_tensors(path: Path) -> dict[str, DiskTensor]:
    return _renamed(safetensors_header(path))


def _renamed(tensors: dict[str, DiskTensor]) -> dict[str, DiskTensor]:
    return {f"W_{name[2:]}" if name.startswith("w_") else name: tensor for name, tensor in tensors.items()}


def gemma_config(folder: Path) -> SaeConfig:
    """Shape of an SAE of Gemma Scope; its folder says nothing of its origin."""
    d_in, d_sae = shape_of(_gemma_arrays(folder / GEMMA_PARAMS), "W_enc", folder / GEMMA_PARAMS)
    return SaeConfig("jumprelu", d_in, d_sae)


def gemma_2_config(folder: Path) -> SaeConfig:
    """Shape of an SAE of Gemma Scope 2, and its origin, if its `config.json` is beside it."""
    path = folder / GEMMA_2_PARAMS
    tensors = _gemma_2_tensors(path)
    d_in, d_sae = shape_of(tensors, "W_enc", path)
    about = read_json(folder / GEMMA_2_CONFIG) if (folder / GEMMA_2_CONFIG).is_file() else {}
    into, out = (str(about.get(f"hf_hook_point_{end}") or "") for end in ("in", "out"))
    found = re.search(r"layers\.(\d+)\.(.+)$", into)
    hook = f"blocks.{found[1]}.{GEMMA_2_SITES.get(found[2], found[2])}" if found else ""
    model = str(about.get("model_name") or "").replace("-v3", "-3")
    is_transcoder = "affine_skip_connection" in tensors or out not in {"", into}
    kind = "jumprelu_transcoder" if is_transcoder else "jumprelu"
    return SaeConfig(kind, d_in, d_sae, hook, model.removesuffix("-pt") if "270m" in model else model)


def llama_config(folder: Path) -> SaeConfig:
    """Shape of an SAE of Llama Scope, and its site."""
    config = read_json(folder / LLAMA_CONFIG)
    hook = str(config.get("hook_point_in") or config.get("hook_point") or "")
    try:
        return SaeConfig("jumprelu", int(config["d_model"]), int(config["d_sae"]), hook)
    except (KeyError, TypeError, ValueError) as error:
        raise SpecError(f"{folder / LLAMA_CONFIG} is not a Llama Scope configuration (it lacks {error}).") from error


def open_gemma(folder: Path) -> SaeWeights:
    """The tensors of an SAE of Gemma Scope."""
    path = folder / GEMMA_PARAMS
    arrays = _gemma_arrays(path)
    check_scaling(path, arrays)
    return _gemma_weights(path, arrays)


def open_gemma_2(folder: Path) -> SaeWeights:
    """The tensors of an SAE of Gemma Scope 2."""
    return _gemma_weights(folder / GEMMA_2_PARAMS, _gemma_2_tensors(folder / GEMMA_2_PARAMS))


def _gemma_weights(path: Path, tensors: dict[str, DiskTensor]) -> SaeWeights:
    d_in, d_sae = shape_of(tensors, "W_enc", path)
    if shape_of(tensors, "W_dec", path) != (d_sae, d_in):
        raise SpecError(f"{path} has W_dec of shape {tensors['W_dec'].shape}: ({d_sae}, {d_in}) is needed.")
    lacking = [name for name in GEMMA_VECTORS if name not in tensors]
    if lacking:
        raise SpecError(f"{path} lacks {lacking[0]}: copy or download it again.")
    vectors = {name: tensors[name] for name in GEMMA_VECTORS}
    matrices = LatentMatrix(tensors["W_enc"], False), LatentMatrix(tensors["W_dec"], True)
    return weights_of(_jumprelu_config(d_in, d_sae), vectors, *matrices, {})


def open_llama(folder: Path) -> SaeWeights:
    """The tensors of an SAE of Llama Scope, in the model's own units."""
    path, about = folder / LLAMA_WEIGHTS, read_json(folder / LLAMA_CONFIG)
    tensors = safetensors_header(path)
    d_sae, d_in = shape_of(tensors, "encoder.weight", path)
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
    norms = _column_norms(decoder) if about.get("sparsity_include_decoder_norm", True) else torch.ones(d_sae)
    # In the model's own units: the encoder takes x * scale, and what it gives is divided by scale again. The publishers set the
    # threshold on pre-activations that are so divided, so that on the encoder's own it is larger by scale.
    vectors = {
        "b_enc": biases["b_enc"].float(),
        "b_dec": biases["b_dec"].float() / scale,
        "threshold": threshold * scale / norms,  # infinite for a column of zeros: such a latent adds nothing
    }
    matrices = LatentMatrix(tensors["encoder.weight"], True, scale), LatentMatrix(decoder, False, 1.0 / scale)
    return weights_of(_jumprelu_config(d_in, d_sae), {}, *matrices, vectors)


def _column_norms(decoder: DiskTensor) -> Tensor:
    """(d_sae,) norms of the columns of a matrix, read in ranges of rows."""
    d_in, d_sae = decoder.shape
    total = torch.zeros(d_sae, dtype=torch.float64)
    step = max(1, ROWS_BYTES // (8 * d_sae))
    for first in range(0, d_in, step):
        total += decoder.rows(first, min(first + step, d_in)).double().square().sum(0)
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
