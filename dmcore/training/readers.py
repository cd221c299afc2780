"""The two sources of activations: the model as training goes (`live`), or the disk (`captured`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dmcore.analysis.activations import Activations, Chunk
from dmcore.analysis.capture import CONTEXTS_PER_RUN, CONTEXTS_PER_RUN_CUDA, CaptureRequest, activations_spec, capture
from dmcore.progress import Reporter
from dmcore.sources.contexts import Contexts
from dmcore.sources.models import LanguageModel
from dmcore.store.store import Store
from dmcore.training.stream import Reader


class LiveReader:
    """Runs the model."""

    def __init__(self, model: LanguageModel, tokens: np.ndarray, skip_positions: int) -> None:
        self._model, self._tokens, self._skip = model, tokens, skip_positions

    def read(self, rows: np.ndarray, hooks: Sequence[str]) -> dict[str, Float[Tensor, "n_tokens d_in"]]:
        """By hook: in the dtype and on the device of the model."""
        step = CONTEXTS_PER_RUN_CUDA if self._model.device.type == "cuda" else CONTEXTS_PER_RUN
        parts: dict[str, list[Tensor]] = {hook: [] for hook in hooks}
        for first in range(0, len(rows), step):
            tokens = torch.from_numpy(np.asarray(self._tokens[rows[first : first + step]], dtype=np.int64))
            for hook, acts in self._model.run(tokens, hooks, with_loss=False).acts.items():
                parts[hook].append(acts[:, self._skip :].flatten(0, 1))
        # Joined outside inference mode: what the model gave cannot go through autograd.
        return {hook: torch.cat(some) for hook, some in parts.items()}


class CapturedReader:
    """Reads activations that have been captured."""

    def __init__(self, acts: dict[str, Activations], skip_positions: int) -> None:
        self._acts, self._skip = acts, skip_positions

    def read(self, rows: np.ndarray, hooks: Sequence[str]) -> dict[str, Float[Tensor, "n_tokens d_in"]]:
        """By hook: float32, on the CPU."""
        cpu = torch.device("cpu")
        return {
            hook: torch.cat(
                [self._acts[hook].read(Chunk(int(row), 1, self._acts[hook].length), cpu)[self._skip :] for row in rows]
            )
            for hook in hooks
        }


def captured_reader(
    hooks: Sequence[str],
    contexts: Contexts,
    model: str,
    skip_positions: int,
    load: Callable[[], LanguageModel],
    store: Store,
    reporter: Reporter,
) -> Reader:
    """Capture what the store does not hold, and read it from there.

    Args:
        hooks: sites.
        contexts: all contexts of the training.
        model: the model's fingerprint.
        skip_positions: first positions of each context that are left out.
        load: the model, if something is missing.
        store: where the activations go.
        reporter: told how far it is.
    """
    specs = {hook: activations_spec(hook, model, contexts) for hook in hooks}
    entries = capture(store, CaptureRequest(contexts, specs), load, reporter)
    return CapturedReader({hook: Activations(entries[hook].path) for hook in hooks}, skip_positions)
