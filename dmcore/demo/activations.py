"""Activations of the stored model for SAE training, in float32, taken with plain forward hooks on its modules.

The model is cut after the deepest hook; `dmcore.training.stream` makes shuffled blocks of what is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from dmcore.demo.scale import SKIP_POSITIONS
from dmcore.errors import SpecError

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

_SITE = re.compile(r"blocks\.(\d+)\.(hook_resid_post|hook_mlp_out|attn\.hook_z)")
_BATCH_CONTEXTS = 32


class ActivationSource:
    """A model cut after the deepest hook that is asked for, and the means to read those hooks."""

    def __init__(self, model: LlamaForCausalLM, hooks: tuple[str, ...]) -> None:
        self.hooks = hooks
        sites = {hook: _site(hook) for hook in hooks}
        self._decoder = model.model
        # The layers above the deepest hook are never needed; the model belongs to this source.
        self._decoder.layers = self._decoder.layers[: max(layer for layer, _ in sites.values()) + 1]
        self._sites = sites

    def read(self, contexts: np.ndarray) -> dict[str, torch.Tensor]:
        """(n_contexts, 256) tokens -> per hook (n_contexts * 240, d) float32, context by context."""
        import torch

        device = next(self._decoder.parameters()).device
        parts: dict[str, list[torch.Tensor]] = {hook: [] for hook in self.hooks}
        with torch.inference_mode(), self._taps(parts):
            for start in range(0, len(contexts), _BATCH_CONTEXTS):
                batch = torch.from_numpy(contexts[start : start + _BATCH_CONTEXTS].astype(np.int64)).to(device)
                self._decoder(input_ids=batch, use_cache=False)
        return {hook: torch.cat(pieces) for hook, pieces in parts.items()}

    @contextmanager
    def _taps(self, parts: dict[str, list[torch.Tensor]]) -> Iterator[None]:
        """Collect what passes each hook, without the skipped positions, flattened over tokens."""

        def keep(hook: str, value: torch.Tensor) -> None:
            parts[hook].append(value[:, SKIP_POSITIONS:].reshape(-1, value.shape[-1]).float())

        handles = []
        for hook, (layer, kind) in self._sites.items():
            block = self._decoder.layers[layer]
            if kind == "attn.hook_z":
                handles.append(
                    block.self_attn.o_proj.register_forward_pre_hook(lambda _, inputs, hook=hook: keep(hook, inputs[0]))
                )
                continue
            module = block if kind == "hook_resid_post" else block.mlp
            handles.append(
                module.register_forward_hook(
                    lambda _, __, out, hook=hook: keep(hook, out[0] if isinstance(out, tuple) else out)
                )
            )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _site(hook: str) -> tuple[int, str]:
    """Layer and kind of a TransformerLens hook name."""
    match = _SITE.fullmatch(hook)
    if match is None:
        raise SpecError(f"The demo builder cannot read {hook}: use hook_resid_post, hook_mlp_out or attn.hook_z.")
    return int(match[1]), match[2]
