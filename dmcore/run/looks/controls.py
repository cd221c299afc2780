"""The controls of an SAE that the study names: from its codes, and from a randomly initialised copy of the model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from dmcore.analysis.capture import CONTEXTS_PER_RUN, CONTEXTS_PER_RUN_CUDA
from dmcore.analysis.context_sample import ContextSample
from dmcore.analysis.control_dictionaries import RandomModel
from dmcore.analysis.controls import ControlInputs, controls
from dmcore.results import CONTROLS, ControlSettings, Parts, controls_spec, read_record
from dmcore.run.plan import SaePlan
from dmcore.run.sae_stages import AnyDictionary, SaeStages
from dmcore.sources.models import random_model
from dmcore.store.fingerprint import content_key
from dmcore.store.published import SUMMARY, find_parts
from dmcore.store.store import Entry, Store
from dmcore.training.quick import QuickSae


def spec_of(store: Store, sae: SaePlan, asked: ControlSettings) -> dict[str, Any]:
    """The spec of the entry."""
    parts = find_parts(store, sae.summary_key)
    return controls_spec(sae.summary_key, asked, None if parts is None else parts.key)


def find_made(store: Store, sae: SaePlan, asked: ControlSettings) -> Entry | None:
    """The entry, if it is there."""
    return store.find(CONTROLS, content_key(spec_of(store, sae, asked)))


def make_controls(stages: SaeStages, sae: SaePlan, dictionary: AnyDictionary, asked: ControlSettings) -> Entry:
    """Run the controls of an SAE.

    Args:
        stages: of the SAE's site.
        sae: whose numbers.
        dictionary: its weights.
        asked: how much is run.

    Raises:
        DataError: too few tokens for a linear map of x.
    """
    store, plan = stages.store, stages.plan
    found = store.find(SUMMARY, sae.summary_key)
    assert found is not None, "it has a result"
    record = read_record(found.path)

    def make(folder: Path) -> None:
        given = ControlInputs(
            name=sae.sae.name,
            hook=sae.sae.hook,
            acts=stages.site.acts,
            sae=dictionary,
            codes=stages.codes_and_split(sae, dictionary)[0].path,
            partition=plan.partition,
            settings=plan.study.settings,
            seed=plan.study.seed,
            device=stages.device,
            l0=record["l0"],
            asked=asked,
            training_seeds=_training_seeds(store, sae),
        )
        sample = given.sample()
        model = None
        if asked.training_tokens:
            acts = partial(random_acts, stages, sae.sae.hook, sample)
            model = RandomModel(acts, QuickSae, asked.training_tokens)
        controls(given, sample, model, folder, stages.reporter)

    return store.get_or_make(CONTROLS, spec_of(store, sae, asked), make)


def _training_seeds(store: Store, sae: SaePlan) -> pl.DataFrame | None:
    """The SAEs on x among those on the parts of this SAE's error."""
    entry = find_parts(store, sae.summary_key)
    return None if entry is None else Parts.read(entry.path)["saes"].filter(pl.col("part") == "x")


@torch.no_grad()
def random_acts(stages: SaeStages, hook: str, sample: ContextSample) -> Tensor:
    """(n_tokens, d_model) activations of a randomly initialised copy of the model, at the kept tokens of a sample.

    Raises:
        SpecError: such a copy cannot be made here.
    """
    plan = stages.plan
    contexts, skip = plan.contexts, plan.study.settings.skip_positions
    model = random_model(plan.study, stages.device, plan.study.seed)
    step = CONTEXTS_PER_RUN_CUDA if model.device.type == "cuda" else CONTEXTS_PER_RUN
    kept = []
    with stages.reporter.stage("run a copy with random weights", len(sample.contexts), "contexts") as stage:
        for first in range(0, len(sample.contexts), step):
            numbers = list(sample.contexts[first : first + step])
            acts = model.run(torch.from_numpy(contexts.tokens[numbers].astype("int64")), [hook], with_loss=False).acts
            kept.append(acts[hook][:, skip:].flatten(0, 1).float())
            stage.advance(len(numbers))
    return torch.cat(kept)
