"""Every architecture: what is read equals Hugging Face's hidden states, and the sites of a layer add up as they should."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from dmcore.errors import SpecError
from dmcore.sources.models import LanguageModel, load_model
from dmcore.specs import CROSS_SITES, SITES, ModelSpec, SaeSpec, Settings, Study, TextsSpec
from tests.model_builders import (
    ARCHITECTURES,
    DECODER_ONLY,
    ENCODER_DECODERS,
    ENCODERS,
    N_LAYERS,
    VOCABULARY,
    save_model,
    save_tokenizer,
)

EXACT = {"rtol": 1e-5, "atol": 1e-5}


def study_of(folder: Path, hook: str = "blocks.0.hook_resid_post", **model: object) -> Study:
    return Study(
        "tiny",
        "",
        0,
        ModelSpec(path=str(folder), **model),
        TextsSpec(path="contexts"),
        Settings(),
        (SaeSpec(hook, path="sae"),),
        folder.parent,
    )


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save_model(name, root / name) for name in ARCHITECTURES}


@pytest.fixture(scope="session")
def models(folders: dict[str, Path]) -> dict[str, LanguageModel]:
    return {name: load_model(study_of(folder), "cpu") for name, folder in folders.items()}


@pytest.fixture(scope="session")
def tokens() -> torch.Tensor:
    # 0 is the padding token: it must be read like any other.
    return torch.randint(0, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(0))


def hugging_face(folder: Path) -> nn.Module:
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    loader = AutoModel if folder.name in ENCODERS else AutoModelForCausalLM
    loader = AutoModelForSeq2SeqLM if folder.name in ENCODER_DECODERS else loader
    return loader.from_pretrained(folder, attn_implementation="eager").eval()


def without_final_norm(hf: nn.Module) -> nn.Module:
    """Hugging Face's last hidden state is after the final norm: take it out, to see the last layer's own output."""
    for path in (
        "transformer.ln_f",
        "gpt_neox.final_layer_norm",
        "model.norm",
        "model.language_model.norm",
        "encoder.final_layer_norm",
    ):
        try:
            hf.get_submodule(path)
        except AttributeError:
            continue
        hf.set_submodule(path, nn.Identity())
    if hasattr(hf, "decoder"):
        hf.decoder.final_layer_norm = nn.Identity()
    return hf


def sites_read(model: LanguageModel, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    return model.run(tokens, model.hooks, with_loss=False).acts


@pytest.mark.parametrize("name", [*DECODER_ONLY, *ENCODERS])
def test_the_residual_stream_equals_hugging_faces_hidden_states(
    name: str, folders: dict[str, Path], models: dict[str, LanguageModel], tokens: torch.Tensor
) -> None:
    hf = without_final_norm(hugging_face(folders[name]))
    with torch.no_grad():
        states = hf(tokens, attention_mask=torch.ones_like(tokens), output_hidden_states=True).hidden_states
    assert len(states) == N_LAYERS + 1
    acts = sites_read(models[name], tokens)
    for layer in range(N_LAYERS):
        torch.testing.assert_close(acts[f"blocks.{layer}.hook_resid_pre"], states[layer], **EXACT)
        torch.testing.assert_close(acts[f"blocks.{layer}.hook_resid_post"], states[layer + 1], **EXACT)


@pytest.mark.parametrize("name", DECODER_ONLY)
def test_the_sites_of_a_layer_add_up(name: str, models: dict[str, LanguageModel], tokens: torch.Tensor) -> None:
    acts = sites_read(models[name], tokens)
    for layer in range(N_LAYERS):
        at = {site: acts.get(f"blocks.{layer}.{site}") for site in SITES}
        parts = at["hook_attn_out"] + at["hook_mlp_out"]
        torch.testing.assert_close(at["hook_resid_post"], at["hook_resid_pre"] + parts, **EXACT)
        assert (at["hook_resid_mid"] is None) == (name == "pythia")
        if name != "pythia":
            torch.testing.assert_close(at["hook_resid_mid"], at["hook_resid_pre"] + at["hook_attn_out"], **EXACT)


OUTPUT = {
    "gpt2": ("transformer.h.{}.attn.c_proj", "transformer.h.{}.mlp"),
    "pythia": ("gpt_neox.layers.{}.attention.dense", "gpt_neox.layers.{}.mlp"),
    "pythia-sequential": ("gpt_neox.layers.{}.attention.dense", "gpt_neox.layers.{}.mlp"),
    **dict.fromkeys(ENCODERS, ("encoder.layer.{}.attention.output.dense", "encoder.layer.{}.output.dense")),
}


@pytest.mark.parametrize("name", [*DECODER_ONLY, *ENCODERS])
def test_z_is_what_the_output_projection_reads_and_mlp_out_what_hugging_face_adds(
    name: str, folders: dict[str, Path], models: dict[str, LanguageModel], tokens: torch.Tensor
) -> None:
    hf = hugging_face(folders[name])
    layers = "model.language_model.layers" if "pictures" in name else "model.layers"
    projection, mlp = OUTPUT.get(name, (f"{layers}.{{}}.self_attn.o_proj", f"{layers}.{{}}.mlp"))
    acts = sites_read(models[name], tokens)
    seen: dict[str, torch.Tensor] = {}
    for layer in range(N_LAYERS):
        # Gemma 2 and 3 add the outputs to the stream through norms of their own.
        after = f"{layers}.{{}}.post_feedforward_layernorm" if name.startswith("gemma") else mlp
        hf.get_submodule(after.format(layer)).register_forward_hook(
            lambda m, a, out, layer=layer: seen.__setitem__(f"blocks.{layer}.hook_mlp_out", out)
        )
        hf.get_submodule(projection.format(layer)).register_forward_pre_hook(
            lambda m, a, layer=layer: seen.__setitem__(f"blocks.{layer}.attn.hook_z", a[0])
        )
    with torch.no_grad():
        hf(tokens, attention_mask=torch.ones_like(tokens))
        for hook, expected in seen.items():
            torch.testing.assert_close(acts[hook], expected, **EXACT)
        for layer in range(N_LAYERS):
            attn_out = hf.get_submodule(projection.format(layer))(acts[f"blocks.{layer}.attn.hook_z"])
            if name.startswith("gemma"):
                attn_out = hf.get_submodule(f"{layers}.{layer}.post_attention_layernorm")(attn_out)
            torch.testing.assert_close(acts[f"blocks.{layer}.hook_attn_out"], attn_out, **EXACT)


@pytest.mark.parametrize("name", ENCODERS)
def test_in_bert_the_sites_add_up_before_the_norms(
    name: str, folders: dict[str, Path], models: dict[str, LanguageModel], tokens: torch.Tensor
) -> None:
    hf = hugging_face(folders[name])
    acts = sites_read(models[name], tokens)
    for layer, block in enumerate(hf.encoder.layer):
        pre, mid, post, mlp_out, attn_out = (
            acts[f"blocks.{layer}.{site}"]
            for site in ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_mlp_out", "hook_attn_out")
        )
        with torch.no_grad():
            torch.testing.assert_close(mid, block.attention.output.LayerNorm(pre + attn_out), **EXACT)
            torch.testing.assert_close(post, block.output.LayerNorm(mid + mlp_out), **EXACT)


def test_an_encoder_has_no_loss(models: dict[str, LanguageModel], tokens: torch.Tensor) -> None:
    output = models["bert"].run(tokens, ["blocks.1.hook_resid_post"], with_loss=True)
    assert output.loss.shape == output.entropy.shape == tokens.shape
    assert bool(output.loss.isnan().all() and output.entropy.isnan().all())


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_both_stacks_of_t5_equal_hugging_faces_hidden_states(
    name: str, folders: dict[str, Path], models: dict[str, LanguageModel], tokens: torch.Tensor
) -> None:
    plain = hugging_face(folders[name])
    normless = without_final_norm(copy.deepcopy(plain))
    with torch.no_grad():
        # With labels Hugging Face shifts the decoder's input by itself.
        states = plain(tokens, labels=tokens, output_hidden_states=True)
        encoder_last = normless.get_encoder()(tokens).last_hidden_state
    acts = sites_read(models[name], tokens)
    for stack, hidden, depth in (
        ("encoder", states.encoder_hidden_states, N_LAYERS - 1),
        ("decoder", states.decoder_hidden_states, N_LAYERS),
    ):
        assert len(hidden) == depth + 1
        for layer in range(depth):
            torch.testing.assert_close(acts[f"{stack}.{layer}.hook_resid_pre"], hidden[layer], **EXACT)
            if layer + 1 < depth:
                torch.testing.assert_close(acts[f"{stack}.{layer}.hook_resid_post"], hidden[layer + 1], **EXACT)
        last = getattr(plain, stack).final_layer_norm(acts[f"{stack}.{depth - 1}.hook_resid_post"])
        torch.testing.assert_close(last, hidden[depth], **EXACT)
    torch.testing.assert_close(acts[f"encoder.{N_LAYERS - 2}.hook_resid_post"], encoder_last, **EXACT)


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_the_sites_of_t5_add_up(
    name: str, folders: dict[str, Path], models: dict[str, LanguageModel], tokens: torch.Tensor
) -> None:
    hf = hugging_face(folders[name])
    acts = sites_read(models[name], tokens)
    for stack, depth in (("encoder", N_LAYERS - 1), ("decoder", N_LAYERS)):
        for layer in range(depth):
            at = {site: acts.get(f"{stack}.{layer}.{site}") for site in {**SITES, **CROSS_SITES}}
            block = getattr(hf, stack).block[layer]
            torch.testing.assert_close(at["hook_resid_mid"], at["hook_resid_pre"] + at["hook_attn_out"], **EXACT)
            stream = at["hook_resid_mid"]
            with torch.no_grad():
                out = block.layer[0].SelfAttention.o(at["attn.hook_z"])
                torch.testing.assert_close(at["hook_attn_out"], out, **EXACT)
                if stack == "decoder":
                    stream = stream + at["hook_cross_attn_out"]
                    torch.testing.assert_close(at["hook_resid_mid_cross"], stream, **EXACT)
                    out = block.layer[1].EncDecAttention.o(at["cross_attn.hook_z"])
                    torch.testing.assert_close(at["hook_cross_attn_out"], out, **EXACT)
                mlp_out = block.layer[-1].DenseReluDense(block.layer[-1].layer_norm(stream))
            torch.testing.assert_close(at["hook_mlp_out"], mlp_out, **EXACT)
            torch.testing.assert_close(at["hook_resid_post"], stream + at["hook_mlp_out"], **EXACT)


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_in_t5_position_i_predicts_token_i_as_hugging_faces_labels_do(
    name: str, folders: dict[str, Path], models: dict[str, LanguageModel], tokens: torch.Tensor
) -> None:
    tokens = tokens.clamp(min=1)
    hf = hugging_face(folders[name])
    with torch.no_grad():
        expected = hf(tokens, labels=tokens)
    output = models[name].run(tokens, [], with_loss=True)
    torch.testing.assert_close(output.loss.mean(), expected.loss, **EXACT)
    entropy = torch.distributions.Categorical(logits=expected.logits).entropy()
    torch.testing.assert_close(output.entropy, entropy, **EXACT)


def test_every_architecture_is_refused_what_it_lacks(models: dict[str, LanguageModel]) -> None:
    with pytest.raises(SpecError, match="no hook blocks.1.hook_resid_mid, because attention and MLP run side by side"):
        models["pythia"].check_hooks(["blocks.1.hook_resid_mid"])
    with pytest.raises(SpecError, match="no blocks, only encoder and decoder.*encoder.0.hook_resid_post"):
        models["t5"].check_hooks(["blocks.0.hook_resid_post"])
    with pytest.raises(SpecError, match="no decoder, only blocks.*blocks.1.hook_resid_post"):
        models["bert"].check_hooks(["decoder.1.hook_resid_post"])
    with pytest.raises(SpecError, match="encoder has layers 0 to 1.*did you mean encoder.1.hook_mlp_out"):
        models["t5"].check_hooks(["encoder.9.hook_mlp_out"])
    with pytest.raises(SpecError, match="layers 0 to 2.*blocks.2.hook_mlp_out"):
        models["gpt2"].run(torch.zeros(1, 2, dtype=torch.long), ["blocks.3.hook_mlp_out"], with_loss=False)


@pytest.mark.parametrize("name", ["stablelm", "gpt2-unscaled"])
def test_what_the_bridge_reads_wrongly_is_refused(name: str, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, StableLmConfig, StableLmForCausalLM

    wide = {"initializer_range": 0.5, "vocab_size": VOCABULARY}
    kinds = {
        "stablelm": lambda: StableLmForCausalLM(
            StableLmConfig(
                **wide,
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=4,
                intermediate_size=32,
                max_position_embeddings=64,
            )
        ),
        "gpt2-unscaled": lambda: GPT2LMHeadModel(
            GPT2Config(**wide, n_embd=16, n_layer=2, n_head=4, n_positions=64, scale_attn_weights=False)
        ),
    }
    torch.manual_seed(0)
    kinds[name]().save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(SpecError, match="are not read rightly: .* Choose another model"):
        load_model(study_of(tmp_path), "cpu")


def test_sites_whose_tokens_are_on_one_axis_are_read(tmp_path: Path) -> None:
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=32,
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
        word_embed_proj_dim=16,
    )
    OPTForCausalLM(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    model = load_model(study_of(tmp_path), "cpu")
    ids = torch.arange(12).view(2, 6)
    acts = model.run(
        ids, ["blocks.0.hook_mlp_out", "blocks.0.hook_resid_mid", "blocks.0.hook_resid_post"], with_loss=False
    ).acts
    assert all(site.shape == (2, 6, 16) for site in acts.values())
    total = acts["blocks.0.hook_resid_mid"] + acts["blocks.0.hook_mlp_out"]
    torch.testing.assert_close(total, acts["blocks.0.hook_resid_post"], **EXACT)
