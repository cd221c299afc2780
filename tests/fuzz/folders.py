"""Folders of tokens and of SAEs, with a file of them hurt."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from dmcore.sources.contexts import load_contexts
from dmcore.sources.sae_layouts import open_weights, read_sae_config
from dmcore.sources.saes import load_dictionary
from dmcore.specs import ModelSpec, SaeSpec, Settings, Study, TextsSpec
from tests.fuzz.values import changed_nests, hurt_bytes, json_values

HOOK = "blocks.1.hook_resid_post"
D_IN, D_SAE = 6, 8


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _safetensors(**tensors: torch.Tensor) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def _npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def sound_folders() -> dict[str, dict[str, bytes]]:
    """Sound folders by name: of tokens, and of an SAE in each layout."""
    g = torch.Generator().manual_seed(0)
    enc, dec = torch.randn(D_IN, D_SAE, generator=g), torch.randn(D_SAE, D_IN, generator=g)
    biases = {"b_enc": torch.zeros(D_SAE), "b_dec": torch.zeros(D_IN)}
    topk = {"architecture": "topk", "d_in": D_IN, "d_sae": D_SAE, "k": 3, "dtype": "float32", "device": "cpu",
            "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
            "rescale_acts_by_decoder_norm": False, "metadata": {"hook_name": HOOK, "sae_lens_version": "6.0.0"}}  # fmt: skip
    llama = {"d_model": D_IN, "d_sae": D_SAE, "hook_point_in": HOOK, "jump_relu_threshold": 0.1,
             "dataset_average_activation_norm": {"in": 2.0, "out": 2.0}}  # fmt: skip
    sidecar = {"domains": ["a", "b"], "documents": ["d"] * 8}
    tokens = np.random.default_rng(0).integers(3, 60, (8, 12)).astype(np.uint16)
    return {
        "tokens": {"tokens.npy": _npy(tokens), "contexts.json": json.dumps(sidecar).encode(),
                   "domains.npy": _npy((tokens % 2).astype(np.uint8))},
        "saelens": {"cfg.json": json.dumps(topk).encode(),
                    "sae_weights.safetensors": _safetensors(W_enc=enc, W_dec=dec, **biases)},
        "gemma": {"params.npz": _npz(w_enc=enc.numpy(), w_dec=dec.numpy(), b_enc=np.zeros(D_SAE, np.float32),
                                     b_dec=np.zeros(D_IN, np.float32), threshold=np.ones(D_SAE, np.float32))},
        "gemma 2": {"config.json": b'{"hf_hook_point_in": "model.layers.1.output", "model_name": "gemma-v3-1b-pt"}',
                    "params.safetensors": _safetensors(w_enc=enc, w_dec=dec, threshold=torch.ones(D_SAE), **biases)},
        "llama": {"hyperparams.json": json.dumps(llama).encode(), "checkpoints/final.safetensors": _safetensors(
            **{"encoder.weight": enc.T, "decoder.weight": dec.T},
            **{"encoder.bias": biases["b_enc"], "decoder.bias": biases["b_dec"]})},
    }  # fmt: skip


SOUND = sound_folders()


@st.composite
def hurts(draw: st.DrawFn, kinds: tuple[str, ...]) -> tuple[str, str, bytes | None]:
    """(kind of folder, file, its new content); None for a file that is gone."""
    kind = draw(st.sampled_from(kinds))
    name = draw(st.sampled_from(sorted(SOUND[kind])))
    content = SOUND[kind][name]
    how = draw(st.sampled_from(["bytes", "nest", "nest", "header", "gone", "array"]))
    if how == "gone":
        return kind, name, None
    if how == "nest" and name.endswith(".json"):
        return kind, name, json.dumps(draw(changed_nests(json.loads(content), json_values))).encode("utf-8", "replace")
    if how in ("nest", "header") and name.endswith(".safetensors"):
        return kind, name, draw(_headers(content))
    if how == "array" and name.endswith(".npy"):
        shape = tuple(draw(st.lists(st.integers(0, 9), max_size=3)))
        dtype = draw(st.sampled_from(["uint16", "int64", "float32", "bool", "U2", "complex64", "datetime64[s]"]))
        return kind, name, _npy(np.zeros(shape, dtype))
    return kind, name, draw(hurt_bytes(content))


@st.composite
def _headers(draw: st.DrawFn, content: bytes) -> bytes:
    """A safetensors file whose header says something else, with a length that fits."""
    length = int.from_bytes(content[:8], "little")
    header: Any = draw(changed_nests(json.loads(content[8 : 8 + length]), json_values))
    written = json.dumps(header).encode("utf-8", "replace")
    return len(written).to_bytes(8, "little") + written + content[8 + length :]


def open_hurt(hurt: tuple[str, str, bytes | None], folder: Path) -> None:
    """Write the folder, and read it in every way in which a sweep does."""
    kind, name, content = hurt
    where = folder / "given"
    shutil.rmtree(where, ignore_errors=True)
    for file, sound in SOUND[kind].items():
        (where / file).parent.mkdir(parents=True, exist_ok=True)
        if file != name or content is not None:
            (where / file).write_bytes(sound if file != name or content is None else content)
    study = Study("fuzz", "Fuzz", 0, ModelSpec(path="model"), TextsSpec(path="given"), Settings(skip_positions=1),
                  (SaeSpec(HOOK, "given"),), folder=folder)  # fmt: skip
    if kind == "tokens":
        contexts = load_contexts(study)
        assert contexts.tokens.ndim == 2 and contexts.tokens.size
        return
    config = read_sae_config(where)
    assert config.d_in >= 0
    open_weights(where)
    dictionary = load_dictionary(study, study.saes[0], D_IN, "cpu")
    x = torch.zeros(3, D_IN)
    assert dictionary.d_in == D_IN and len(x) == 3
