"""Language models, through transformer-lens's bridge: raw Hugging Face weights, no folding."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dmcore.errors import SpecError
from dmcore.specs import SITES, Study, parse_hook
from dmcore.store.fingerprint import content_key, files_fingerprint

LOGITS_AT_ONCE = 2**24
"""Most logits that are turned into probabilities at once."""


def model_fingerprint(study: Study, memory: Path | None = None) -> str:
    """Hash of the files that determine what the model computes (or of id and revision), and of its dtype."""
    if study.model.id:
        return content_key({"id": study.model.id, "revision": study.model.revision, "dtype": study.model.dtype})
    folder = study.resolve(study.model.path)
    names = [path.name for path in folder.glob("*.safetensors")] if folder.is_dir() else []
    if not names or not (folder / "config.json").is_file():
        raise SpecError(f"{folder} is no model folder: it needs config.json and weights as .safetensors.")
    return content_key(
        {"files": files_fingerprint(folder, ["config.json", *names], memory), "dtype": study.model.dtype}
    )


def check_layers(study: Study) -> None:
    """Compare the study's hooks with the model's depth, from its config alone.

    Raises:
        SpecError: a hook names a layer that the model does not have.
    """
    if study.model.id:
        return
    try:
        config = json.loads((study.resolve(study.model.path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"{study.resolve(study.model.path)} has no readable config.json: check the path.") from error
    n_layers = config.get("num_hidden_layers", config.get("n_layer"))
    for hook in study.hooks:
        layer, _ = parse_hook(hook)
        if isinstance(n_layers, int) and layer >= n_layers:
            raise SpecError(f"The model has layers 0 to {n_layers - 1}, so there is no {hook}: name one of those.")


@dataclass(frozen=True)
class ModelOutput:
    """What one run of the model gave."""

    acts: dict[str, Float[Tensor, "n_contexts length d_model"]]
    """By hook name; attention heads flattened."""
    loss: Float[Tensor, "n_contexts length"] | None
    """`-log p(next token)` in nats, made at each position; nan at the last."""
    entropy: Float[Tensor, "n_contexts length"] | None
    """Entropy of the prediction made at each position, in nats."""


class LanguageModel:
    """A model that can be read at its hooks."""

    def __init__(self, bridge: Any) -> None:
        self._bridge = bridge
        self.device = next(bridge.parameters()).device

    def check_hooks(self, hooks: Sequence[str]) -> None:
        """The bridge ignores a hook that it does not know; this raises a SpecError that lists what there is."""
        known = set(self._bridge.hook_dict) | set(getattr(self._bridge, "hook_aliases", {}) or {})
        cached = {name for name in known if any(name.endswith(site) for site in SITES)}
        for hook in hooks:
            if hook not in known and not self._resolves(hook):
                raise SpecError(f"The model has no hook {hook}: it has {', '.join(sorted(cached)[:6])}, ...")

    def _resolves(self, hook: str) -> bool:
        target = self._bridge
        for part in hook.split("."):
            try:
                target = target[int(part)] if part.isdigit() else getattr(target, part)
            except (AttributeError, IndexError, KeyError, TypeError):
                return False
        return True

    @torch.inference_mode()
    def run(self, tokens: Int[Tensor, "n_contexts length"], hooks: Sequence[str], *, with_loss: bool) -> ModelOutput:
        """Run the contexts, no deeper than the hooks unless the loss is wanted."""
        ids = tokens.to(self.device)
        deepest = max((parse_hook(hook)[0] for hook in hooks), default=-1)
        stop = None if with_loss else deepest + 1
        out, cache = self._bridge.run_with_cache(
            ids, names_filter=list(hooks), return_type="logits", **({} if stop is None else {"stop_at_layer": stop})
        )
        missing = [hook for hook in hooks if hook not in cache]
        if missing:
            raise SpecError(f"The model ran but gave nothing at {missing[0]}: this architecture has no such site.")
        acts = {hook: cache[hook].flatten(2) for hook in hooks}
        loss, entropy = _loss_and_entropy(out, ids) if with_loss else (None, None)
        return ModelOutput(acts, loss, entropy)


def _loss_and_entropy(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    losses, entropies = [], []
    rows = max(1, LOGITS_AT_ONCE // (logits.shape[1] * logits.shape[2]))
    for some, targets in zip(logits.split(rows), ids.split(rows), strict=True):
        log_probs = some.float().log_softmax(-1)
        entropies.append(-(log_probs.exp() * log_probs).sum(-1))
        loss = torch.full(targets.shape, float("nan"), device=some.device)
        loss[:, :-1] = -log_probs[:, :-1].gather(-1, targets[:, 1:, None]).squeeze(-1)
        losses.append(loss)
    return torch.cat(losses), torch.cat(entropies)


def load_model(study: Study, device: torch.device | str) -> LanguageModel:
    """Load a study's model; weights from safetensors only, no code from the hub.

    Raises:
        SpecError: the folder or id cannot be loaded.
    """
    if study.model.path:
        # With this set before transformers is imported, a file that a folder lacks is an error at once, not 23 s of retries.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = str(study.resolve(study.model.path)) if study.model.path else study.model.id
    options: dict[str, Any] = {} if study.model.path else {"revision": study.model.revision}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)
        model = AutoModelForCausalLM.from_pretrained(
            where,
            dtype=getattr(torch, study.model.dtype),
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="eager",
            **options,
        )
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SpecError(f"Cannot load the model {where} ({first_line[:160]}): check the path or id.") from error
    bridge = TransformerBridge.boot_transformers(
        where, hf_model=model.to(device).eval(), tokenizer=tokenizer, device=str(device)
    )
    return LanguageModel(bridge.eval())
