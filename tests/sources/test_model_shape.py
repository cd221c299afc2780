"""Shapes from configurations: their parameters are those of the model that transformers builds, for every known model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dmcore.errors import SpecError
from dmcore.sources.model_shape import ARCHITECTURES, SAME_SHAPE, ModelShape, model_shape, shape_of
from dmcore.specs import ModelSpec

PUBLISHED = {
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-2-27b": 27_227_128_320,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "openai-community/gpt2": 124_439_808,
    "EleutherAI/pythia-70m": 70_426_624,
    "EleutherAI/pythia-6.9b": 6_857_302_016,
    "EleutherAI/pythia-12b": 11_846_072_320,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
}
KNOWN = sorted(path.stem for path in ARCHITECTURES.glob("*.json"))


def built_parameters(config: dict[str, Any]) -> int:
    """Parameters of the model that transformers builds, which takes no memory on the meta device."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kinds: dict[str, Any] = {"bert": AutoModel, "t5": AutoModelForSeq2SeqLM}
    with torch.device("meta"):
        model = kinds.get(config["model_type"], AutoModelForCausalLM).from_config(AutoConfig.for_model(**config))
    return model.num_parameters()


@pytest.mark.parametrize("name", KNOWN)
def test_known_models_have_the_parameters_that_transformers_builds(name: str) -> None:
    config = json.loads((ARCHITECTURES / f"{name}.json").read_text())
    assert shape_of(config).parameters == built_parameters(config)


TINY = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 50}


@pytest.mark.parametrize(
    "config",
    [
        {**TINY, "model_type": "bert", "max_position_embeddings": 32, "type_vocab_size": 2},
        {**TINY, "model_type": "llama", "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
        {**TINY, "model_type": "llama", "num_key_value_heads": 1, "tie_word_embeddings": True, "head_dim": 10},
        {**TINY, "model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": False},
        {**TINY, "model_type": "gpt_neox", "attention_bias": False},
        {"model_type": "gpt2", "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 16, "vocab_size": 50, "n_inner": 30},
        *(
            {"model_type": "t5", "d_model": 24, "d_kv": 5, "d_ff": 30, "num_layers": 2, "num_decoder_layers": 3,
             "num_heads": 4, "vocab_size": 50, "feed_forward_proj": mlp, "tie_word_embeddings": tied}
            for mlp, tied in (("relu", True), ("gated-gelu", False))
        ),
    ],
    ids=lambda config: config["model_type"],
)  # fmt: skip
def test_every_family_counts_its_biases_norms_and_ties(config: dict[str, Any]) -> None:
    assert shape_of(config).parameters == built_parameters(config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_that_were_published(name: str) -> None:
    assert model_shape(ModelSpec(id=name)).parameters == PUBLISHED[name]


def test_other_names_of_a_model_have_its_shape() -> None:
    for name, known in SAME_SHAPE.items():
        assert model_shape(ModelSpec(id=name)) == model_shape(ModelSpec(id=known))


def gemma() -> ModelShape:
    return model_shape(ModelSpec(id="google/gemma-2-9b"))


def test_the_width_of_heads_is_not_that_of_the_stream() -> None:
    assert gemma().site_width("attn.hook_z") == 4096
    assert gemma().site_width("hook_resid_post") == gemma().site_width("hook_mlp_out") == 3584


def test_operations_are_two_a_weight_and_the_attentions_products() -> None:
    shape = gemma()
    deep = shape.flops_per_token(42, 1024, with_loss=True) - shape.flops_per_token(21, 1024, with_loss=True)
    assert deep == 21 * (2 * shape.layer_parameters + 4 * 4096 * 1024)
    unembedding = shape.flops_per_token(42, 1024, with_loss=True) - shape.flops_per_token(42, 1024, with_loss=False)
    assert unembedding == 2 * 256_000 * 3584
    assert shape.flops_per_token(None, 1024, with_loss=False) == shape.flops_per_token(42, 1024, with_loss=False)
    assert shape.flops_per_token(99, 1024, with_loss=False) == shape.flops_per_token(42, 1024, with_loss=False)


def test_operations_agree_with_torchs_own_count() -> None:
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {**TINY, "model_type": "llama", "num_key_value_heads": 4, "hidden_size": 64, "intermediate_size": 160}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 32, dtype=torch.long))
    ours = 32 * shape_of(config).flops_per_token(None, 32, with_loss=True)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_only_the_layers_that_run_are_counted() -> None:
    shape = gemma()
    assert shape.parameters_run() == shape.parameters
    assert shape.parameters_run(21) == 256_000 * 3584 + 21 * shape.layer_parameters
    t5 = model_shape(ModelSpec(id="t5-small"))
    assert t5.parameters_run(8) == t5.embedding_parameters + 6 * t5.layer_parameters + 2 * t5.decoder_layer_parameters


def test_a_local_folder_and_the_hub_cache_come_before_what_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**TINY, "model_type": "llama"}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert model_shape(ModelSpec(path="model"), tmp_path).d_model == 24
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--owner--own" / "snapshots" / "abc"
    cached.mkdir(parents=True)
    (cached / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": config}))
    assert model_shape(ModelSpec(id="owner/own")).n_layers == 3


def test_what_is_not_known_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"owner/x is not known offline: download its config\.json"):
        model_shape(ModelSpec(id="owner/x"))
    with pytest.raises(SpecError, match="check the model's path"):
        model_shape(ModelSpec(path="nowhere"), tmp_path)
    with pytest.raises(SpecError, match=r"not known here \(mamba\)"):
        shape_of({"model_type": "mamba"})
    with pytest.raises(SpecError, match="lacks 'hidden_size'"):
        shape_of({"model_type": "llama"})
