"""The unembedding of every architecture: with the final norm's weight in it, it gives the model's own logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dmcore.errors import SpecError
from dmcore.sources.disk_tensor import DiskTensor
from dmcore.sources.unembedding import unembedding, writes_to_residual
from dmcore.specs import ModelSpec, SaeSpec, Settings, Study, TextsSpec
from tests.model_builders import D_MODEL, DECODER_ONLY, VOCABULARY, save_model

NORMS = {"gpt2": "transformer.ln_f", "pythia": "gpt_neox.final_layer_norm", "phi": "model.final_layernorm",
         "gemma3-with-pictures": "model.language_model.norm"}  # fmt: skip


def study_of(folder: Path) -> Study:
    sae = SaeSpec("blocks.1.hook_resid_post", path="sae")
    return Study("tiny", "", 0, ModelSpec(path=str(folder)), TextsSpec(path="contexts"), Settings(), (sae,))


def head_and_norm(folder: Path, name: str) -> tuple[Any, Any]:
    """The output layer of a model and its final norm, as transformers has them."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return model.get_output_embeddings(), model.get_submodule(
        NORMS.get(name, NORMS.get(name.split("-")[0], "model.norm"))
    )


@pytest.mark.parametrize("name", DECODER_ONLY)
def test_a_vector_times_the_unembedding_is_its_logits_times_its_scale(name: str, tmp_path: Path) -> None:
    check_logits(save_model(name, tmp_path / name), name)


def test_biases_of_norms_and_outputs_are_left_out(tmp_path: Path) -> None:
    from transformers import PhiConfig, PhiForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": D_MODEL, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = PhiForCausalLM(PhiConfig(**sizes, vocab_size=VOCABULARY, max_position_embeddings=64))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape)
    model.save_pretrained(tmp_path)
    check_logits(tmp_path, "phi")


@pytest.mark.parametrize("kind", ["vaultgemma", "qwen3_5_text", "nemotron"])
def test_norms_of_one_plus_their_weight_are_known(kind: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": D_MODEL, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
             "num_key_value_heads": 1, "head_dim": 8, "vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 1}  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape)
    model.save_pretrained(tmp_path)
    check_logits(tmp_path, kind)


def check_logits(folder: Path, name: str) -> None:
    """Assert that a vector times the unembedding gives the logits, times the scale that the final norm divides by."""
    found = unembedding(study_of(folder))
    assert found is not None
    assert found.shape == (D_MODEL, VOCABULARY)
    head, norm = head_and_norm(folder, name)
    x = torch.randn(50, D_MODEL, generator=torch.Generator().manual_seed(1)) * 3 + 1
    with torch.no_grad():
        logits = head(norm(x))
        if isinstance(norm, torch.nn.LayerNorm):
            logits = logits - head(norm.bias)  # and with it the output's own bias, if it has one
            scale = x.var(1, correction=0, keepdim=True).add(norm.eps).sqrt()
        else:
            scale = x.square().mean(1, keepdim=True).add(1e-6).sqrt()
    torch.testing.assert_close(x @ found, logits * scale, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_a_model_that_predicts_no_next_token_has_none(name: str, tmp_path: Path) -> None:
    assert unembedding(study_of(save_model(name, tmp_path / name))) is None


def test_only_the_two_tensors_that_are_needed_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_model("llama3", tmp_path / "llama3")
    read: list[tuple[int, ...]] = []
    own = DiskTensor.read
    monkeypatch.setattr(DiskTensor, "read", lambda self: (read.append(self.shape), own(self))[1])
    unembedding(study_of(folder))
    assert read == [(VOCABULARY, D_MODEL), (D_MODEL,)]


def test_shards_are_found_by_their_index(tmp_path: Path) -> None:
    folder = save_model("llama3", tmp_path / "llama3")
    whole = unembedding(study_of(folder))
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    places = {name: f"part-{i % 3}.safetensors" for i, name in enumerate(names)}
    for part in set(places.values()):
        save_file({n: tensors[n] for n in names if places[n] == part}, folder / part)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    torch.testing.assert_close(unembedding(study_of(folder)), whole, rtol=0, atol=0)
    (folder / "model.safetensors.index.json").write_text("{")
    with pytest.raises(SpecError, match="cannot be read: copy or download"):
        unembedding(study_of(folder))


def test_a_tied_embedding_is_not_taken_where_another_matrix_could_be_the_output(tmp_path: Path) -> None:
    folder = save_model("llama3", tmp_path / "llama3")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    head = tensors.pop("lm_head.weight")
    save_file(tensors, path)
    tied = unembedding(study_of(folder))
    assert tied is not None
    expected = (tensors["model.embed_tokens.weight"] * tensors["model.norm.weight"]).T
    torch.testing.assert_close(tied, expected)
    in_a_layer = {"adapters.0.lm_head.weight": head, "adapters.0.final_layer_norm.weight": torch.zeros(D_MODEL)}
    save_file({**tensors, **in_a_layer}, path)
    torch.testing.assert_close(unembedding(study_of(folder)), tied)
    save_file({**tensors, "some_other_output.weight": head}, path)
    assert unembedding(study_of(folder)) is None
    tensors["model.embed_tokens.weight"][3, 3] = torch.nan
    save_file(tensors, path)
    with pytest.raises(SpecError, match="unembedding of the model holds NaN"):
        unembedding(study_of(folder))
    del tensors["model.norm.weight"]
    save_file(tensors, path)
    assert unembedding(study_of(folder)) is None


def test_attention_before_its_output_matrix_is_no_vector_of_the_residual_stream() -> None:
    assert writes_to_residual("blocks.2.hook_resid_post")
    assert writes_to_residual("blocks.2.hook_attn_out")
    assert writes_to_residual("blocks.0.hook_mlp_out")
    assert not writes_to_residual("blocks.2.attn.hook_z")
    assert not writes_to_residual("decoder.2.cross_attn.hook_z")
