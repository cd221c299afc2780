"""Capture: one run of the model over the contexts writes the activations of every site that is not in the store yet.

1. Take a draft of each missing site (and of the table of losses, if wanted), in the order of their keys, so that two
   processes never wait for each other in a circle.
2. Run the model over the contexts from where the drafts stopped; no deeper than needed, to the end if the loss is wanted.
3. Write, and note how far; commit all drafts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from dmcore.analysis.activations import ActivationWriter
from dmcore.errors import DataError
from dmcore.memory import halve_when_out_of_memory
from dmcore.progress import Reporter
from dmcore.sources.contexts import Contexts
from dmcore.sources.models import LanguageModel
from dmcore.store.store import Draft, Entry, Store

CONTEXTS_PER_RUN = 8
"""Contexts that go through the model at once on a CPU."""
CONTEXTS_PER_RUN_CUDA = 32
LOSS = "loss"
"""The pseudo-site whose two dimensions are the loss and the entropy at each position."""


ACTIVATIONS_VERSION = 1
"""Raised when what is captured changes."""


def activations_spec(hook: str, model: str, contexts: Contexts) -> dict[str, object]:
    """The spec of the entry that holds a site's activations: one for all who need them.

    Args:
        hook: its name.
        model: the model's fingerprint.
        contexts: what the model reads.
    """
    made_of = {"model": model, "contexts": contexts.fingerprint}
    return {"stage": "activations", "version": ACTIVATIONS_VERSION, "hook": hook, **made_of}


@dataclass(frozen=True)
class CaptureRequest:
    """What to capture, and the spec of the entry in which each site goes."""

    contexts: Contexts
    specs: dict[str, dict[str, object]]
    """By hook name, or `LOSS`."""


def capture(
    store: Store, request: CaptureRequest, load_model: Callable[[], LanguageModel], reporter: Reporter
) -> dict[str, Entry]:
    """The entries of all sites; runs the model only if one is missing.

    Raises:
        SpecError: the model has no such hook.
        DataError: the model gave NaN or infinity.
    """
    stage = {name: "losses" if name == LOSS else "activations" for name in request.specs}
    entries: dict[str, Entry] = {}
    with ExitStack() as stack:
        drafts: dict[str, Draft] = {}
        for name in sorted(request.specs, key=lambda name: str(request.specs[name])):
            found = store.begin(stage[name], request.specs[name])
            if isinstance(found, Entry):
                entries[name] = found
            else:
                stack.callback(found.release)
                drafts[name] = found
        if drafts:
            with store.writing():
                _run(load_model(), request.contexts, drafts, reporter)
                entries |= {name: draft.commit() for name, draft in drafts.items()}
    return entries


def _run(model: LanguageModel, contexts: Contexts, drafts: dict[str, Draft], reporter: Reporter) -> None:
    hooks = [name for name in drafts if name != LOSS]
    model.check_hooks(hooks)
    writers = {
        name: ActivationWriter(draft.path, contexts.n_contexts, contexts.length) for name, draft in drafts.items()
    }
    done = min(ActivationWriter.contexts_done(draft.path) for draft in drafts.values())
    step = CONTEXTS_PER_RUN_CUDA if model.device.type == "cuda" else CONTEXTS_PER_RUN

    def write(first: int, last: int) -> int:
        tokens = torch.from_numpy(contexts.tokens[first:last].astype("int64"))
        output = model.run(tokens, hooks, with_loss=LOSS in drafts)
        for hook, acts in output.acts.items():
            _check_finite(acts, hook, first)
            writers[hook].write(first, acts)
        if output.loss is not None:
            writers[LOSS].write(first, torch.stack([output.loss, output.entropy], dim=2))
        stage.advance(last - first)
        return last - first

    with reporter.stage("run the model", contexts.n_contexts, "contexts", done) as stage:
        while done < contexts.n_contexts:
            last = min(done + step, contexts.n_contexts)
            ran = halve_when_out_of_memory(write, done, last, "run the model on", "contexts")
            done, step = last, min(step, max(ran))  # what did not fit once is not tried again
    for writer in writers.values():
        writer.finish()


def _check_finite(acts: Tensor, hook: str, first_context: int) -> None:
    bad = (~torch.isfinite(acts)).flatten(1).any(1)
    if bool(bad.any()):
        context = first_context + int(bad.nonzero()[0])
        raise DataError(
            f"The model gave NaN or infinity at {hook} in context {context}: use dtype float32 or bfloat16, "
            "and check the weights."
        )
