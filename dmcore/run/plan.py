"""The plan of a study: the spec of every entry that it needs, so that each stage is found or made by its key.

losses        model, contexts                          per study
activations   model, contexts, hook                    per site
inputs        activations, partition                   per site
codes         activations, SAE, precision              per SAE
targets       codes, partition                         per SAE
split         targets, settings, seed                  per SAE
summary       split, losses                            per SAE
norms         split                                    per SAE
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dmcore.analysis.capture import LOSS, activations_spec
from dmcore.analysis.partition import Partition
from dmcore.errors import DataError, SpecError, StoreError
from dmcore.progress import Reporter
from dmcore.sources.contexts import Contexts, find_contexts, load_contexts
from dmcore.sources.custom_saes import CustomSae
from dmcore.sources.models import check_layers, model_fingerprint
from dmcore.sources.saes import read_config, sae_fingerprint
from dmcore.specs import SaeSpec, Study, spec_dict
from dmcore.store.fingerprint import content_key
from dmcore.store.store import Store

VERSIONS = {"losses": 1, "inputs": 1, "codes": 1, "targets": 1, "split": 1, "summary": 1, "norms": 1}
"""Raised when what a stage computes changes, so that old entries are not taken for new ones. What compares SAEs is named by
their summaries alone: with "norms", raise `results.scaling.VERSION` too."""
INTERVALS = 2
"""How the intervals of a split are made: raised instead of its version where the maps and the parts of tokens stay the same. 2:
the luck of the fit moves them too (`dmcore.math.fit_noise`)."""


@dataclass(frozen=True)
class SaePlan:
    """An SAE and the specs of its entries."""

    sae: SaeSpec
    codes: dict[str, Any]
    targets: dict[str, Any]
    split: dict[str, Any]
    summary: dict[str, Any]
    norms: dict[str, Any]

    @property
    def summary_key(self) -> str:
        """Key of the summary entry."""
        return content_key(self.summary)

    @property
    def maps_key(self) -> str:
        """What the maps of the split are made from; SAEs trained on the parts stay theirs where only intervals change."""
        return content_key({name: value for name, value in self.split.items() if name != "intervals"})


@dataclass(frozen=True)
class Plan:
    """A study with its inputs found and checked, and the specs of all entries."""

    study: Study
    contexts: Contexts
    partition: Partition
    sites: dict[str, dict[str, Any]]
    """Spec of the activations of each hook, and of the losses."""
    inputs: dict[str, dict[str, Any]]
    """Spec of the moments of x at each hook."""
    saes: tuple[SaePlan, ...]


def make_plan(
    study: Study,
    store: Store,
    custom: Mapping[str, CustomSae] | None = None,
    reporter: Reporter | None = None,
) -> Plan:
    """Find and check all that a study names, before anything is computed.

    Args:
        study: what is asked.
        store: where hashes of large files are remembered, and contexts kept.
        custom: SAEs that are Python objects, by the name that the study gives them.
        reporter: told of the making of contexts, where the study names texts. None: they are not made.

    Raises:
        SpecError: something that the study names is missing or cannot be as it says.
        StoreError: the contexts are not there, and are not to be made.
    """
    contexts = find_contexts(study, store) if reporter is None else load_contexts(study, store, reporter)
    if contexts is None:
        raise StoreError(f"The contexts of the study {study.name} have not been made yet: sweep the study first.")
    if contexts.n_contexts < 2:
        raise SpecError(
            "The study has one context, and none is left to hold out: give it more texts, at least 2 contexts."
        )
    check_layers(study)
    memory = store.root / "fingerprints"
    model = model_fingerprint(study, memory)
    settings = study.settings
    try:
        partition = Partition.of(settings, contexts.n_contexts, contexts.length, study.seed)
    except DataError as error:
        raise SpecError(f"[settings] {error}") from error

    def spec(stage: str, **of: Any) -> dict[str, Any]:
        return {"stage": stage, "version": VERSIONS[stage], **of}

    made_of = {"model": model, "contexts": contexts.fingerprint}
    sites = {hook: activations_spec(hook, model, contexts) for hook in study.hooks}
    sites[LOSS] = spec("losses", **made_of)
    inputs = {
        hook: spec("inputs", activations=content_key(sites[hook]), partition=partition.spec()) for hook in study.hooks
    }
    saes = []
    for sae in study.saes:
        read_config(study, sae)
        fingerprint = sae_fingerprint(study, sae, memory, custom)
        codes = spec("codes", activations=content_key(sites[sae.hook]), sae=fingerprint, **_precision(study))
        targets = spec("targets", codes=content_key(codes), inputs=content_key(inputs[sae.hook]))
        split = spec(
            "split", targets=content_key(targets), settings=_settings(study), seed=study.seed, intervals=INTERVALS
        )
        summary = spec("summary", split=content_key(split), losses=content_key(sites[LOSS]), sae=spec_dict(sae))
        norms = spec("norms", split=content_key(split))
        saes.append(SaePlan(sae, codes, targets, split, summary, norms))
    return Plan(study, contexts, partition, sites, inputs, tuple(saes))


def _precision(study: Study) -> dict[str, str]:
    """Nothing for float32: codes were made before there was a choice."""
    precision = study.settings.precision
    return {} if precision == "float32" else {"precision": precision}


def _settings(study: Study) -> dict[str, Any]:
    content = asdict(study.settings)
    del content["precision"]  # the codes have it
    content["compare_skips"] = list(content["compare_skips"])
    return content
