"""Small real studies: a random Llama and SAEs of every architecture, built from config in a folder; no download."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

HOOKS = ("blocks.1.hook_resid_post", "blocks.1.attn.hook_z", "blocks.2.hook_mlp_out")
D_MODEL, WIDTH, N_CONTEXTS, LENGTH, VOCABULARY = 16, 48, 30, 24, 60
ARCHITECTURES = ("topk", "standard", "jumprelu", "gated", "matching_pursuit")


def build_model(folder: Path) -> None:
    """A three-layer random Llama with a word-level tokenizer."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=3,
        hidden_size=D_MODEL,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w1", eos_token="w2").save_pretrained(folder)


@lru_cache(maxsize=1)
def _sae_classes() -> dict[str, tuple[Any, Any, dict[str, Any]]]:
    from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
    from sae_lens.saes.matching_pursuit_sae import MatchingPursuitSAE, MatchingPursuitSAEConfig
    from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

    return {
        "topk": (TopKSAE, TopKSAEConfig, {"k": 5, "rescale_acts_by_decoder_norm": False}),
        "standard": (StandardSAE, StandardSAEConfig, {}),
        "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
        "gated": (GatedSAE, GatedSAEConfig, {}),
        "matching_pursuit": (
            MatchingPursuitSAE,
            MatchingPursuitSAEConfig,
            {"residual_threshold": 0.1, "max_iterations": 4},
        ),
    }


def build_sae(architecture: str, hook: str = HOOKS[0], seed: int = 0, d_in: int = D_MODEL, **overrides: Any) -> Any:
    """A random SAELens SAE whose latents are sparse enough to be interesting."""
    from sae_lens.saes.sae import SAEMetadata

    kind, config, options = _sae_classes()[architecture]
    metadata = SAEMetadata(model_name="tiny", hook_name=hook)
    sae = kind(config(**{"d_in": d_in, "d_sae": WIDTH, "metadata": metadata, **options, **overrides}))
    g = torch.Generator().manual_seed(seed)
    for parameter in sae.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=g)
    if architecture == "jumprelu":
        sae.threshold.data = sae.threshold.data.abs() + 0.2
    return sae.eval()


def write_contexts(folder: Path) -> None:
    """A folder of random tokens."""
    folder.mkdir(exist_ok=True)
    tokens = np.random.default_rng(0).integers(3, VOCABULARY, (N_CONTEXTS, LENGTH)).astype(np.uint16)
    tokens[:, 0] = 1
    np.save(folder / "tokens.npy", tokens)
    (folder / "contexts.json").write_text(json.dumps({"n_contexts": N_CONTEXTS}))


def build_study(
    folder: Path, *, extra: str = "", architectures: tuple[str, ...] = ARCHITECTURES, **settings: Any
) -> Path:
    """A study file with its model, texts and SAEs; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    build_model(folder / "model")
    write_contexts(folder / "contexts")
    lines = ["schema = 1", 'name = "tiny"', 'title = "A tiny study"', "seed = 0", "[model]", 'path = "model"']
    lines += ["[texts]", 'path = "contexts"', "[settings]", "skip_positions = 4"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    for hook in HOOKS:
        for architecture in architectures:
            path = f"saes/{hook}/{architecture}"
            build_sae(architecture, hook).save_model(folder / path)
            # Random SAEs are worse than the mean, which a sweep refuses unless it is told that they are meant.
            lines += ["[[saes]]", f'hook = "{hook}"', f'path = "{path}"', "check = false"]
    study = folder / "study.toml"
    study.write_text("\n".join([*lines, extra]) + "\n")
    return study


def check_equal_forward(sae: Any, dictionary: Any, x: torch.Tensor) -> None:
    """Assert that a dictionary's codes and reconstruction are those of SAELens's own forward pass."""
    codes = dictionary.encode(x)
    with torch.no_grad():
        acts = sae.encode(x)
        recon = sae.decode(acts)
    dense = torch.zeros_like(acts)
    dense[torch.repeat_interleave(torch.arange(len(x)), codes.l0), codes.latents.long()] = codes.values
    assert 0 < float(codes.l0.float().mean()) < acts.shape[1]
    torch.testing.assert_close(dense, acts, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dictionary.decode(codes, x), recon, rtol=1e-4, atol=1e-4)
