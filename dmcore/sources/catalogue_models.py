"""The models that the registry's SAEs read: their Hugging Face ids and the widths of their sites, from public configs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ListedModel:
    """A model of the registry."""

    id: str
    """Hugging Face id."""
    d_model: int | None = None
    """Width of its residual stream; None if it is not known here."""
    d_heads: int | None = None
    """Width of all heads side by side (`attn.hook_z`); None if it is not known here."""


MODELS = {
    "gemma-2-2b": ListedModel("google/gemma-2-2b", 2304, 2048),
    "gemma-2-2b-it": ListedModel("google/gemma-2-2b-it", 2304, 2048),
    "gemma-2-9b": ListedModel("google/gemma-2-9b", 3584, 4096),
    "gemma-2-9b-it": ListedModel("google/gemma-2-9b-it", 3584, 4096),
    "gemma-2-27b": ListedModel("google/gemma-2-27b", 4608, 4096),
    "gemma-2b": ListedModel("google/gemma-2b", 2048, 2048),
    "gemma-2b-it": ListedModel("google/gemma-2b-it", 2048, 2048),
    "gpt2-small": ListedModel("openai-community/gpt2", 768, 768),
    "mistral-7b": ListedModel("mistralai/Mistral-7B-v0.1", 4096, 4096),
    "pythia-70m-deduped": ListedModel("EleutherAI/pythia-70m-deduped", 512, 512),
    "qwen3-0.6b": ListedModel("Qwen/Qwen3-0.6B", 1024),
    "qwen3-1.7b": ListedModel("Qwen/Qwen3-1.7B", 2048),
    "qwen3-4b": ListedModel("Qwen/Qwen3-4B", 2560),
    "qwen3-8b": ListedModel("Qwen/Qwen3-8B", 4096),
    "qwen3-14b": ListedModel("Qwen/Qwen3-14B", 5120),
    **{
        name: ListedModel(name, d_model, d_heads)
        for name, d_model, d_heads in (
            ("google/gemma-3-270m", 640, 1024),
            ("google/gemma-3-270m-it", 640, 1024),
            ("google/gemma-3-1b-pt", 1152, 1024),
            ("google/gemma-3-1b-it", 1152, 1024),
            ("google/gemma-3-4b-pt", 2560, 2048),
            ("google/gemma-3-4b-it", 2560, 2048),
            ("google/gemma-3-12b-pt", 3840, 4096),
            ("google/gemma-3-12b-it", 3840, 4096),
            ("google/gemma-3-27b-pt", 5376, 4096),
            ("google/gemma-3-27b-it", 5376, 4096),
            ("meta-llama/Llama-3.1-8B", 4096, 4096),
            ("meta-llama/Llama-3.1-8B-Instruct", 4096, 4096),
            ("meta-llama/Meta-Llama-3-8B-Instruct", 4096, 4096),
            ("meta-llama/Llama-3.3-70B-Instruct", 8192, 8192),
            ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", 4096, 4096),
            ("Qwen/Qwen2.5-7B-Instruct", 3584, 3584),
            ("Qwen/Qwen3-1.7B-Base", 2048, None),
            ("Qwen/Qwen3-8B-Base", 4096, None),
            ("Qwen/Qwen3-30B-A3B-Base", 2048, None),
            ("Qwen/Qwen3.5-2B-Base", 2048, None),
            ("Qwen/Qwen3.5-9B-Base", 4096, None),
            ("Qwen/Qwen3.5-27B", 5120, None),
            ("Qwen/Qwen3.5-35B-A3B-Base", 2048, None),
            ("openai/gpt-oss-20b", 2880, 4096),
        )
    },
}
"""By the registry's name."""


def listed_model(name: str, repo_id: str) -> ListedModel:
    """The model of a release; its name as it is where it is not known.

    One release says `gemma-2-9b` for SAEs of `gemma-2-9b-it`; its repository, and SAELens's own reader, say the latter.
    """
    if "-it" in repo_id and f"{name}-it" in MODELS:
        name = f"{name}-it"
    return MODELS.get(name, ListedModel(name))
