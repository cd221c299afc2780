"""What a model's config says before the model is loaded: its key, its kind and its sites."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dmcore.errors import SpecError
from dmcore.sources.hub import file_of_commit, resolve_commit
from dmcore.specs import Study, parse_hook, sites_of, stack_of
from dmcore.store.fingerprint import content_key, files_fingerprint

ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
"""Model types of encoders whose layers are laid out as BERT's."""
ENCODER_DECODERS = ("t5", "mt5", "umt5")
"""Model types of encoder-decoders whose blocks are laid out as T5's."""


def model_fingerprint(study: Study, memory: Path | None = None) -> str:
    """Hash of what determines the activations: weights and config, dtype, and the processing that the study asks for.

    A local folder counts by the bytes of its files; an id by the commit that it means, or by its revision's name where
    the hub cannot be reached and nothing is cached. `device_map` does not count.

    Raises:
        SpecError: the folder is no model folder, or there is no such model.
    """
    spec = study.model
    content: dict[str, Any] = {"dtype": spec.dtype}
    if spec.processing:
        content["processing"] = sorted(set(spec.processing))
    if spec.id:
        commit = resolve_commit(spec.id, spec.revision)
        content |= {"id": spec.id, **({"commit": commit} if commit else {"revision": spec.revision})}
        return content_key(content)
    folder = study.resolve(spec.path)
    names = [path.name for path in folder.glob("*.safetensors")] if folder.is_dir() else []
    if not names or not (folder / "config.json").is_file():
        raise SpecError(f"{folder} is no model folder: it needs config.json and weights as .safetensors.")
    return content_key({**content, "files": files_fingerprint(folder, ["config.json", *names], memory)})


def read_model_config(study: Study) -> dict[str, Any] | None:
    """A model's `config.json`; None for an id that is neither cached nor within reach.

    Raises:
        SpecError: a local folder has none that can be read, or there is no such model.
    """
    spec = study.model
    if spec.id:
        commit = resolve_commit(spec.id, spec.revision)
        path = file_of_commit(spec.id, "config.json", commit) if commit else None
        if path is None:
            return None
    else:
        path = study.resolve(spec.path) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"{path.parent} has no readable config.json: check the path.") from error
    if not isinstance(config, dict):
        raise SpecError(f"{path} holds no table of keys and values: check the path.")
    return config


def vocabulary_size(config: dict[str, Any]) -> int | None:
    """Token ids that the model knows."""
    size = _text_config(config).get("vocab_size")
    return size if isinstance(size, int) else None


def most_positions(config: dict[str, Any]) -> int | None:
    """Tokens in the longest context that a model with learned (or tabled) positions can read; None if it has no such limit."""
    kind = config.get("model_type", "")
    if kind not in {"gpt2", "gpt_neo", "gptj", "codegen", "opt", *ENCODERS}:
        return None
    most = config.get("n_positions", config.get("max_position_embeddings"))
    if not isinstance(most, int):
        return None
    # These number positions from the padding id on.
    return most - config.get("pad_token_id", 1) - 1 if kind in {"roberta", "xlm-roberta", "camembert"} else most


def model_kind(config: dict[str, Any]) -> str:
    """`causal`, `encoder` or `encoder-decoder`.

    Raises:
        SpecError: it is an encoder-decoder of a kind that is not read.
    """
    name = config.get("model_type", "")
    if config.get("is_encoder_decoder"):
        if name not in ENCODER_DECODERS:
            raise SpecError(
                f"Encoder-decoders of the type {name} are not read: choose one of the types {', '.join(ENCODER_DECODERS)}."
            )
        return "encoder-decoder"
    return "encoder" if name in ENCODERS and not config.get("is_decoder") else "causal"


def sites_in_config(config: dict[str, Any]) -> list[str]:
    """Every hook name that a model with this config has; empty where the config does not tell its depth."""
    if config.get("is_encoder_decoder"):
        encoder = config.get("num_layers", config.get("encoder_layers"))
        decoder = config.get("num_decoder_layers") or config.get("decoder_layers") or encoder
        depths = {"encoder": encoder, "decoder": decoder}
    else:
        text = _text_config(config)
        depths = {"blocks": text.get("num_hidden_layers", text.get("n_layer"))}
    if not all(isinstance(depth, int) for depth in depths.values()):
        return []
    # In a parallel block attention and MLP read the same input, so that there is no middle.
    parallel = config.get("use_parallel_residual", config.get("model_type") == "gpt_neox")
    return [
        f"{stack}.{layer}.{site}"
        for stack, depth in depths.items()
        for layer in range(depth)
        for site in sites_of(stack)
        if not (parallel and site == "hook_resid_mid")
    ]


def check_layers(study: Study) -> None:
    """Compare the study's hooks with the model's stacks, depth and sites, from its config alone.

    Raises:
        SpecError: a hook names what the model does not have; names the nearest that it has.
    """
    config = read_model_config(study)
    known = sites_in_config(config) if config else []
    if known:
        check_known(study.hooks, known)


def check_known(hooks: Sequence[str], known: Iterable[str]) -> None:
    """Raise a SpecError for the first hook that is not among the known ones."""
    known = list(known)
    for hook in hooks:
        if hook not in known:
            raise SpecError(f"{_lack(hook, known)}: did you mean {' or '.join(nearest_known(hook, known))}?")


def _lack(hook: str, known: list[str]) -> str:
    layer, site = parse_hook(hook)
    stack = stack_of(hook)
    stacks = list(dict.fromkeys(stack_of(name) for name in known))
    if stack not in stacks:
        return f"The model has no {stack}, only {' and '.join(stacks)}, so there is no {hook}"
    depth = 1 + max(parse_hook(name)[0] for name in known if stack_of(name) == stack)
    if layer >= depth:
        whose = "The model" if stack == "blocks" else f"The model's {stack}"
        return f"{whose} has layers 0 to {depth - 1}, so there is no {hook}"
    reason = ", because attention and MLP run side by side in its layers" if site == "hook_resid_mid" else ""
    return f"The model has no hook {hook}{reason}"


def nearest_known(hook: str, known: Iterable[str], n: int = 3) -> list[str]:
    """The names among `known` that are nearest: the same site in the nearest layers, or else what looks most alike."""
    layer, site = parse_hook(hook)
    stack = stack_of(hook)

    def distance(name: str) -> tuple[bool, bool, float, int, str]:
        other_layer, other_site = parse_hook(name)
        likeness = difflib.SequenceMatcher(None, site, other_site).ratio()
        far = abs(other_layer - layer)
        same_place = stack_of(name) == stack and far == 0
        return stack_of(name) != stack, other_site != site and not same_place, -likeness, far, name

    return sorted(known, key=distance)[:n]


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part about the language model, in a model of text and pictures."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config
