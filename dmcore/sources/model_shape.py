"""A model's shape from its configuration alone: parameters, floating-point operations, widths of its sites; without torch.

The configuration is that of a local folder, or of the local Hugging Face cache, or one of `architectures/`: the public numbers
of well-known models. Of a model of text and pictures it is the language model's alone. Parameter counts equal those of the model
that transformers builds (a test builds each on torch's meta device).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmcore.errors import SpecError
from dmcore.sources.hub_cache import cached_file
from dmcore.specs import ModelSpec

ARCHITECTURES = Path(__file__).parent / "architectures"
SAME_SHAPE = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "bert-base-uncased": "google-bert/bert-base-uncased",
    "t5-small": "google-t5/t5-small",
    "google/gemma-2b-it": "google/gemma-2b",
    "google/gemma-2-2b-it": "google/gemma-2-2b",
    "google/gemma-2-9b-it": "google/gemma-2-9b",
    "google/gemma-2-27b-it": "google/gemma-2-27b",
    "google/gemma-3-270m-it": "google/gemma-3-270m",
    **{f"google/gemma-3-{size}-it": f"google/gemma-3-{size}-pt" for size in ("1b", "4b", "12b", "27b")},
    "meta-llama/Llama-2-7b-chat-hf": "meta-llama/Llama-2-7b-hf",
    "meta-llama/Llama-2-13b-chat-hf": "meta-llama/Llama-2-13b-hf",
    "meta-llama/Llama-2-70b-chat-hf": "meta-llama/Llama-2-70b-hf",
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B",
    "meta-llama/Meta-Llama-3-8B": "meta-llama/Llama-3.1-8B",
    "meta-llama/Meta-Llama-3-8B-Instruct": "meta-llama/Llama-3.1-8B",
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": "meta-llama/Llama-3.1-8B",
    "meta-llama/Llama-3.1-70B-Instruct": "meta-llama/Llama-3.1-70B",
    "meta-llama/Llama-3.3-70B-Instruct": "meta-llama/Llama-3.1-70B",
    "mistralai/Mistral-7B-Instruct-v0.1": "mistralai/Mistral-7B-v0.1",
    "Qwen/Qwen2.5-7B-Instruct": "Qwen/Qwen2.5-7B",
    **{f"EleutherAI/pythia-{size}-deduped": f"EleutherAI/pythia-{size}"
       for size in ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")},
}  # fmt: skip
"""Models whose public configuration has the same shape as one of `architectures/`."""


@dataclass(frozen=True)
class ModelShape:
    """What can be said of a model before its weights are there."""

    family: str
    """`model_type` of its configuration."""
    n_layers: int
    """Layers of its only stack, or of its encoder."""
    d_model: int
    """Width of the residual stream."""
    n_heads: int
    """Query heads of a layer."""
    n_kv_heads: int
    """Key and value heads of a layer."""
    head_dim: int
    """Width of a head."""
    d_mlp: int
    """Hidden width of an MLP."""
    vocabulary: int
    """Tokens in the vocabulary."""
    tied: bool
    """Whether the unembedding is the embedding."""
    embedding_parameters: int
    """Embeddings: of tokens, positions and types, with their norm."""
    layer_parameters: int
    """Parameters of one layer (of the encoder, in an encoder-decoder)."""
    other_parameters: int
    """What stands after or beside the layers: last norms, an untied unembedding, a pooler, relative position biases."""
    n_decoder_layers: int = 0
    """Layers of the decoder in an encoder-decoder, else 0."""
    decoder_layer_parameters: int = 0
    """Parameters of one of those."""

    @property
    def parameters(self) -> int:
        """All parameters, a tied unembedding counted once."""
        layers = self.n_layers * self.layer_parameters + self.n_decoder_layers * self.decoder_layer_parameters
        return self.embedding_parameters + layers + self.other_parameters

    def parameters_run(self, n_layers_run: int | None = None) -> int:
        """Parameters that a run takes part in: all, or only the first layers (no unembedding); encoder layers come first."""
        if n_layers_run is None:
            return self.parameters
        first = min(n_layers_run, self.n_layers)
        then = min(n_layers_run - first, self.n_decoder_layers)
        return self.embedding_parameters + first * self.layer_parameters + then * self.decoder_layer_parameters

    def flops_per_token(self, n_layers_run: int | None, context_length: int, *, with_loss: bool) -> float:
        """Floating-point operations of a forward run, per token: two per weight, and the attention's products.

        Args:
            n_layers_run: layers that are run, encoder layers first; None for all.
            context_length: tokens that each token attends to. All of them are counted: the plain attention that is used
                here computes the masked half too.
            with_loss: whether the unembedding is run.
        """
        all_layers = self.n_layers + self.n_decoder_layers
        run = all_layers if n_layers_run is None else min(n_layers_run, all_layers)
        first = min(run, self.n_layers)
        then = run - first
        weights = first * self.layer_parameters + then * self.decoder_layer_parameters
        products = 4 * self.n_heads * self.head_dim * context_length
        # A decoder's layer attends twice: to itself and to the encoder.
        total = 2 * weights + (first + 2 * then) * products
        return float(total + (2 * self.vocabulary * self.d_model if with_loss else 0))

    def site_width(self, site: str) -> int:
        """Width of a site's activations, all heads side by side for `hook_z`."""
        return self.n_heads * self.head_dim if site.endswith("hook_z") else self.d_model


def model_shape(spec: ModelSpec, folder: Path = Path()) -> ModelShape:
    """The shape of a study's model.

    Args:
        spec: the study's `[model]`.
        folder: the study's folder, to which a path is relative.

    Raises:
        SpecError: nothing is known of it offline, or its configuration is of an unknown kind.
    """
    if spec.path:
        path = (folder / spec.path / "config.json").absolute()
    else:
        known = ARCHITECTURES / f"{SAME_SHAPE.get(spec.id, spec.id).replace('/', '--')}.json"
        path = cached_file(spec.id, "config.json") or known
        if not path.is_file():
            raise SpecError(
                f"The shape of {spec.id} is not known offline: download its config.json (`hf download {spec.id} "
                "config.json`), or give the path of a local folder."
            )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"There is no readable configuration {path} ({error}): check the model's path.") from error
    return shape_of(config, spec.name)


def shape_of(config: dict[str, Any], name: str = "the model") -> ModelShape:
    """The shape that a Hugging Face configuration describes.

    Raises:
        SpecError: it is of an unknown kind, or lacks a number.
    """
    family = str(config.get("model_type", ""))
    if family not in FAMILIES and isinstance(config.get("text_config"), dict):
        return shape_of(config["text_config"], name)
    if family not in FAMILIES:
        raise SpecError(
            f"The shape of {name} is of a kind that is not known here ({family or 'no model_type'}): "
            f"plan with a model of {', '.join(FAMILIES)}; a sweep may still work."
        )
    try:
        return FAMILIES[family](config)
    except (KeyError, TypeError) as error:
        raise SpecError(f"The configuration of {name} lacks {error}: copy its config.json again.") from error


def _gpt2(c: dict[str, Any]) -> ModelShape:
    d, heads = c["n_embd"], c["n_head"]
    mlp = c.get("n_inner") or 4 * d
    tied = c.get("tie_word_embeddings", True)
    layer = (4 * d * d + 4 * d) + (2 * d * mlp + mlp + d) + 4 * d
    other = 2 * d + (0 if tied else c["vocab_size"] * d)
    embedding = (c["vocab_size"] + c["n_positions"]) * d
    return ModelShape(
        "gpt2", c["n_layer"], d, heads, heads, d // heads, mlp, c["vocab_size"], tied, embedding, layer, other
    )


def _gpt_neox(c: dict[str, Any]) -> ModelShape:
    d, heads, mlp, vocabulary = c["hidden_size"], c["num_attention_heads"], c["intermediate_size"], c["vocab_size"]
    tied = c.get("tie_word_embeddings", False)
    biases = 4 * d if c.get("attention_bias", True) else 0
    layer = (4 * d * d + biases) + (2 * d * mlp + mlp + d) + 4 * d
    other = 2 * d + (0 if tied else vocabulary * d)
    return ModelShape(
        "gpt_neox",
        c["num_hidden_layers"],
        d,
        heads,
        heads,
        d // heads,
        mlp,
        vocabulary,
        tied,
        vocabulary * d,
        layer,
        other,
    )


def _gated(c: dict[str, Any]) -> ModelShape:
    """Llama and those built like it: gated MLPs, RMS norms, grouped keys and values."""
    family = c["model_type"]
    d, heads, mlp, vocabulary = c["hidden_size"], c["num_attention_heads"], c["intermediate_size"], c["vocab_size"]
    kv = c.get("num_key_value_heads") or heads
    width = c.get("head_dim") or d // heads
    gemma = family.startswith("gemma")
    tied = c.get("tie_word_embeddings", gemma)
    # Queries, keys, values; then the output.
    attention = d * width * (heads + 2 * kv) + width * heads * d
    if family == "qwen2":
        attention += width * (heads + 2 * kv)
    elif c.get("attention_bias"):
        attention += width * (heads + 2 * kv) + d
    if family in {"qwen3", "gemma3_text"}:
        attention += 2 * width  # norms of queries and keys
    norms = 4 if family in {"gemma2", "gemma3_text"} else 2
    biases = 2 * mlp + d if c.get("mlp_bias") else 0
    layer = attention + 3 * d * mlp + biases + norms * d
    other = d + (0 if tied else vocabulary * d)
    return ModelShape(
        family, c["num_hidden_layers"], d, heads, kv, width, mlp, vocabulary, tied, vocabulary * d, layer, other
    )


def _bert(c: dict[str, Any]) -> ModelShape:
    d, heads, mlp, vocabulary = c["hidden_size"], c["num_attention_heads"], c["intermediate_size"], c["vocab_size"]
    embedding = (vocabulary + c["max_position_embeddings"] + c["type_vocab_size"]) * d + 2 * d
    layer = 4 * (d * d + d) + (2 * d * mlp + mlp + d) + 4 * d
    pooler = d * d + d
    return ModelShape(
        "bert", c["num_hidden_layers"], d, heads, heads, d // heads, mlp, vocabulary, True, embedding, layer, pooler
    )


def _t5(c: dict[str, Any]) -> ModelShape:
    d, heads, width, mlp, vocabulary = c["d_model"], c["num_heads"], c["d_kv"], c["d_ff"], c["vocab_size"]
    gated = str(c.get("feed_forward_proj", "relu")).startswith("gated")
    attention, feed = 4 * d * heads * width, (3 if gated else 2) * d * mlp
    biases = 2 * c.get("relative_attention_num_buckets", 32) * heads  # in the first layer of each stack
    other = biases + 2 * d  # transformers ties T5's embeddings always, whatever its configuration says
    decoder_layers = c.get("num_decoder_layers") or c["num_layers"]
    return ModelShape(
        "t5", c["num_layers"], d, heads, heads, width, mlp, vocabulary, True, vocabulary * d, attention + feed + 2 * d, other,
        decoder_layers, 2 * attention + feed + 3 * d,
    )  # fmt: skip


FAMILIES: dict[str, Callable[[dict[str, Any]], ModelShape]] = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), _gated),
    "bert": _bert,
    "t5": _t5,
}
