"""Models: what the bridge gives is what Hugging Face computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dmcore.errors import SpecError
from dmcore.sources.contexts import load_contexts
from dmcore.sources.models import LanguageModel, check_layers, load_model, model_fingerprint
from dmcore.specs import Study, load_study
from tests.builders import build_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load_study(build_study(tmp_path_factory.mktemp("study"), architectures=("topk",)))


@pytest.fixture(scope="module")
def model(study: Study) -> LanguageModel:
    return load_model(study, "cpu")


@pytest.fixture(scope="module")
def tokens(study: Study) -> torch.Tensor:
    return torch.from_numpy(np.array(load_contexts(study).tokens[:4]).astype(np.int64))


def reference(study: Study, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Hidden states by plain forward hooks on the Hugging Face model, and its logits."""
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(study.resolve("model"), attn_implementation="eager").eval()
    seen: dict[str, torch.Tensor] = {}
    for i, layer in enumerate(hf.model.layers):
        layer.mlp.register_forward_hook(lambda m, a, out, i=i: seen.__setitem__(f"blocks.{i}.hook_mlp_out", out))
        layer.self_attn.o_proj.register_forward_pre_hook(
            lambda m, a, i=i: seen.__setitem__(f"blocks.{i}.attn.hook_z", a[0])
        )
        layer.self_attn.o_proj.register_forward_hook(
            lambda m, a, out, i=i: seen.__setitem__(f"blocks.{i}.hook_attn_out", out)
        )
    with torch.no_grad():
        out = hf(tokens, output_hidden_states=True)
    for i in range(len(hf.model.layers)):
        seen[f"blocks.{i}.hook_resid_pre"] = out.hidden_states[i]
        if i + 1 < len(hf.model.layers):  # the last hidden state is after the final norm
            seen[f"blocks.{i}.hook_resid_post"] = out.hidden_states[i + 1]
        seen[f"blocks.{i}.hook_resid_mid"] = seen[f"blocks.{i}.hook_resid_pre"] + seen[f"blocks.{i}.hook_attn_out"]
    return seen | {"logits": out.logits}


def test_every_site_of_every_layer_equals_hugging_face(
    study: Study, model: LanguageModel, tokens: torch.Tensor
) -> None:
    expected = reference(study, tokens)
    hooks = [name for name in expected if name != "logits"]
    model.check_hooks(hooks)
    found = model.run(tokens, hooks, with_loss=False).acts
    for hook in hooks:
        torch.testing.assert_close(found[hook], expected[hook], rtol=1e-5, atol=1e-5)


def test_stopping_early_changes_nothing(model: LanguageModel, tokens: torch.Tensor) -> None:
    hooks = ["blocks.0.hook_resid_post", "blocks.1.attn.hook_z"]
    early = model.run(tokens, hooks, with_loss=False)
    late = model.run(tokens, hooks, with_loss=True)
    assert early.loss is None
    for hook in hooks:
        assert torch.equal(early.acts[hook], late.acts[hook])


def test_loss_and_entropy_equal_torchs(study: Study, model: LanguageModel, tokens: torch.Tensor) -> None:
    logits = reference(study, tokens)["logits"]
    found = model.run(tokens, [], with_loss=True)
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    ).view(len(tokens), -1)
    torch.testing.assert_close(found.loss[:, :-1], expected, rtol=1e-5, atol=1e-5)
    assert bool(found.loss[:, -1].isnan().all())
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(found.entropy, entropy, rtol=1e-5, atol=1e-5)


def test_a_hook_that_the_model_lacks_is_a_sentence(model: LanguageModel) -> None:
    with pytest.raises(
        SpecError, match="layers 0 to 2, so there is no blocks.7.hook_resid_post: did you mean blocks.2"
    ):
        model.check_hooks(["blocks.7.hook_resid_post"])


def test_a_layer_that_does_not_exist_is_found_from_the_config(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    text = (
        (study.folder / "study.toml")
        .read_text()
        .replace("blocks.2.", "blocks.3.")
        .replace('"saes', f'"{study.folder}/saes')
    )
    path.write_text(text.replace('path = "model"', f'path = "{study.folder}/model"'))
    with pytest.raises(SpecError, match="layers 0 to 2, so there is no blocks.3"):
        check_layers(load_study(path))


def test_the_fingerprint_follows_weights_and_dtype(study: Study, tmp_path: Path) -> None:
    import dataclasses
    import shutil

    shutil.copytree(study.resolve("model"), tmp_path / "model")
    moved = dataclasses.replace(study, folder=tmp_path)
    assert model_fingerprint(moved) == model_fingerprint(study)
    half = dataclasses.replace(moved, model=dataclasses.replace(study.model, dtype="bfloat16"))
    assert model_fingerprint(half) != model_fingerprint(study)
    weights = next((tmp_path / "model").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert model_fingerprint(moved) != model_fingerprint(study)


def test_a_folder_without_a_model_is_a_sentence(study: Study, tmp_path: Path) -> None:
    import dataclasses

    with pytest.raises(SpecError, match="no model folder"):
        model_fingerprint(dataclasses.replace(study, folder=tmp_path))
