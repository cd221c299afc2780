"""The unembedding of a decoder-only model: what turns a direction of the residual stream into changes of the logits.

1. Only two tensors are read from the model's safetensors files: the output matrix (the token embedding where they are tied)
   and the weight of the final norm.
2. The norm's weight is folded in: RMS norms scale each dimension (Gemma's by one plus its weight); LayerNorms take the mean
   over dimensions off first, and so does what is returned.

Left out, because they do not depend on the direction alone or change no order of tokens: the norm's division by the token's
scale, biases of the norm and of the output, soft caps and constant scales of the logits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from dmcore.errors import SpecError
from dmcore.sources.disk_tensor import DiskTensor, safetensors_header
from dmcore.sources.hub import file_of_commit, resolve_commit
from dmcore.sources.model_files import model_kind, read_model_config
from dmcore.specs import Study, parse_hook

OUTPUTS = ("lm_head.weight", "embed_out.weight")
"""Names of output matrices (of the end of them: a model of text and pictures puts more before)."""
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
FINAL_NORMS = (
    "model.norm.weight",
    "language_model.norm.weight",
    "ln_f.weight",
    "final_layer_norm.weight",
    "final_layernorm.weight",
    "decoder.final_layer_norm.weight",
)
ONE_PLUS = (
    "gemma", "gemma2", "gemma3", "gemma3_text", "recurrent_gemma", "vaultgemma", "qwen3_next", "qwen3_5", "qwen3_5_text",
    "qwen3_5_moe", "qwen3_5_moe_text", "nemotron", "minimax_m3_vl", "minimax_m3_vl_text", "step3p5", "step3p7",
)  # fmt: skip
"""Model types whose norms scale by one plus their weight."""
CENTRED = ("cohere", "cohere2", "olmo")
"""Model types whose LayerNorms have no bias by which they could be told from RMS norms."""
WITHOUT_WEIGHT = ("olmo",)
"""Model types whose final norm has no weight."""
INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"


def writes_to_residual(hook: str) -> bool:
    """Whether what is read at a hook is a vector of the residual stream, or is added to it; attention's z is not."""
    return not parse_hook(hook)[1].endswith("hook_z")


def unembedding(study: Study) -> Float[Tensor, "d_model n_vocabulary"] | None:
    """What a vector of the residual stream adds to the logits, but for the final norm's scale; float32, on the host.

    Returns:
        None for encoders and encoder-decoders, and where the files are not here or name no such tensors.

    Raises:
        SpecError: a file is damaged, or a tensor holds NaN.
    """
    config = read_model_config(study)
    if config is None or model_kind(config) != "causal":
        return None
    tensors = _tensors(study)
    matrix = _output(tensors)
    norm = _ending(tensors, FINAL_NORMS, n_dims=1)
    kind = _model_type(config)
    if matrix is None or (norm is None and kind not in WITHOUT_WEIGHT):
        return None
    # (n_vocabulary, d_model) in the file; worked on in place.
    weight = tensors[matrix].read().float()
    if norm is not None:
        scale = tensors[norm].read().float()
        if scale.shape[0] != weight.shape[1]:  # a projection lies between the norm and the output
            return None
        weight *= scale + 1.0 if kind in ONE_PLUS else scale
    if kind in CENTRED or f"{(norm or '').removesuffix('weight')}bias" in tensors:
        weight -= weight.mean(1, keepdim=True)
    if bool(weight.isnan().any()):
        raise SpecError("The unembedding of the model holds NaN: copy or download the model again.")
    return weight.T


def _model_type(config: dict[str, Any]) -> str:
    nested = config.get("text_config")
    own = nested.get("model_type") if isinstance(nested, dict) else None
    return str(own or config.get("model_type", ""))


def _output(tensors: dict[str, DiskTensor]) -> str | None:
    """Name of the output matrix: stored by itself, or the embedding, if nothing else could be the output."""
    own = _ending(tensors, OUTPUTS, n_dims=2)
    tied = None if own else _ending(tensors, EMBEDDINGS, n_dims=2)
    if tied is None:
        return own
    alike = [name for name, tensor in tensors.items() if tensor.shape == tensors[tied].shape and not _in_block(name)]
    return tied if alike == [tied] else None


def _in_block(name: str) -> bool:
    """Whether a tensor belongs to one of the layers: their names have a number."""
    return any(part.isdigit() for part in name.split("."))


def _ending(tensors: dict[str, DiskTensor], endings: tuple[str, ...], n_dims: int) -> str | None:
    """The first of these names, whatever stands before it (at a dot); parts of layers are none."""
    for ending in endings:
        for name in sorted(tensors):
            whole = name == ending or name.endswith(f".{ending}")
            if whole and len(tensors[name].shape) == n_dims and not _in_block(name):
                return name
    # Some models are stored without the first part of their names (`norm.weight` for `model.norm.weight`).
    short = {ending.rsplit(".", 2)[-2] + ".weight" for ending in endings}
    return next((name for name in sorted(short & set(tensors)) if len(tensors[name].shape) == n_dims), None)


def _tensors(study: Study) -> dict[str, DiskTensor]:
    """Every tensor of a model's safetensors files, by name; empty where they are not here."""
    spec = study.model
    folder = None if spec.id else study.resolve(spec.path)
    commit = resolve_commit(spec.id, spec.revision) if spec.id else None

    def find(name: str) -> Path | None:
        if folder is not None:
            return folder / name if (folder / name).is_file() else None
        return file_of_commit(spec.id, name, commit) if commit else None

    index = find(INDEX)
    if index is not None:
        try:
            places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (OSError, ValueError, KeyError) as error:
            raise SpecError(f"{index} cannot be read: copy or download the model again.") from error
        names = sorted(set(places.values()))
    else:
        names = [WHOLE] if find(WHOLE) else sorted(p.name for p in folder.glob("*.safetensors")) if folder else []
    found: dict[str, DiskTensor] = {}
    for name in names:
        path = find(name)
        if path is not None:
            found |= safetensors_header(path, others=True)  # layers may be of a type that is not read here
    return found
