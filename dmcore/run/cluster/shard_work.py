"""What a node does for a study: each step finds its result in the store, or makes it there. Nothing here knows of Ray.

1. `try_saes`: a few contexts through the model, as before any sweep.
2. `capture_shard`, then `join_site` for each site: activations as the local engine leaves them.
3. `inputs_shard`, then `site_moments_of`: moments of x.
4. `encode_shard`: codes and moments of a shard, kept as an entry of its own until the SAE is finished.
5. `finish_sae`: shards joined to the entries of the SAE, then its split, summary and tests of norms as ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmcore.analysis.activations import Activations
from dmcore.analysis.capture import LOSS, CaptureRequest, capture
from dmcore.analysis.encode import (
    decoded,
    encoded,
    error_moments,
    load_inputs,
    load_targets,
    save_inputs,
    save_targets,
    site_moments,
)
from dmcore.analysis.sanity import check_belongs
from dmcore.errors import StoreError
from dmcore.memory import free_unused
from dmcore.progress import Reporter
from dmcore.run.cluster.held import Hold
from dmcore.run.cluster.joined import (
    join_activations,
    join_codes,
    packed_inputs,
    packed_targets,
    unpacked_inputs,
    unpacked_targets,
)
from dmcore.run.cluster.shards import SHARD, Shard, SomeContexts, shard_spec
from dmcore.run.cluster.weights import Files, local_sae
from dmcore.run.device_room import is_large
from dmcore.run.pipeline import Pipeline
from dmcore.run.plan import Plan, SaePlan
from dmcore.run.preflight import first_contexts, preflight
from dmcore.run.sae_stages import AnyDictionary, SaeStages, Site
from dmcore.run.scale import scale_site
from dmcore.sources.custom_saes import CustomSae
from dmcore.sources.models import LanguageModel, load_model
from dmcore.sources.saes import load_dictionary
from dmcore.store.fingerprint import content_key
from dmcore.store.store import Entry, Store

log = logging.getLogger(__name__)

OF_SHARDS = (SHARD, "activations", "losses")
"""Stages of the entries that a node makes and another one joins and deletes."""


def stage_of(name: str) -> str:
    """The stage of the activations of a site, or of the losses."""
    return "losses" if name == LOSS else "activations"


def drop_shards(store: Store, stage: str, of: str, shards: Sequence[Shard]) -> None:
    """Delete what shards gave to an entry that is made, by its key; what is gone already is not fetched for it."""
    for shard in shards:
        store.drop(stage, content_key(shard_spec(of, shard)))


@dataclass
class KeptSite(Site):
    """A site with the folder of its activations."""

    acts_folder: Path = Path()


@dataclass
class Kept:
    """What a process keeps from one task to the next: the model, the last SAE, the last site."""

    model: dict[str, LanguageModel] = field(default_factory=dict)
    dictionary: dict[str, AnyDictionary] = field(default_factory=dict)
    site: dict[str, KeptSite] = field(default_factory=dict)
    holds: list[Hold] = field(default_factory=list)
    """Of the files of the last SAE."""

    def free(self, *, site: bool = False) -> None:
        """Let go of the model and of the SAE, so that they are not in memory beside what is loaded next.

        Args:
            site: of the site too.
        """
        large = bool(self.model) or any(is_large(one) for one in self.dictionary.values())
        self.model.clear()
        self.dictionary.clear()
        if site:
            self.site.clear()
        if large:
            free_unused()
        for hold in self.holds:
            hold.release()
        self.holds.clear()


@dataclass
class Bench:
    """One process's place of work.

    Args:
        plan: of the study.
        store, device, reporter, custom: as of the `Pipeline`.
        kept: what earlier tasks of this process have loaded.
    """

    plan: Plan
    store: Store
    device: torch.device
    reporter: Reporter
    custom: Mapping[str, CustomSae]
    kept: Kept = field(default_factory=Kept)

    def try_saes(self, wanted: Sequence[SaePlan]) -> dict[str, str]:
        """The SAEs that do not belong, by name, with the reason."""
        return preflight(self.plan, wanted, self.model(), self.custom, self.reporter)

    def capture_shard(self, names: Sequence[str], shard: Shard) -> None:
        """The activations of a shard at some sites, each an entry of its own."""
        contexts = self.plan.contexts
        some = replace(contexts, tokens=np.asarray(contexts.tokens[shard.first : shard.last]), domains=None)
        specs = {name: shard_spec(content_key(self.plan.sites[name]), shard) for name in names}
        capture(self.store, CaptureRequest(some, specs), self.model, self.reporter)

    def join_site(self, name: str, shards: Sequence[Shard]) -> None:
        """One site's activations, from its shards, which are then deleted."""
        stage, spec = stage_of(name), self.plan.sites[name]
        if not self.store.has(stage, content_key(spec)):
            parts = [self._part(stage, content_key(spec), shard, f"activations at {name}") for shard in shards]
            self.store.get_or_make(stage, spec, lambda folder: join_activations([part.path for part in parts], folder))
        # Also those of a process that was killed when it had joined them.
        drop_shards(self.store, stage, content_key(spec), shards)

    def width(self, hook: str) -> int:
        """Dimensions of a site's activations."""
        return Activations(self._activations(hook).path).d_model

    def inputs_shard(self, hook: str, shard: Shard) -> dict[str, np.ndarray]:
        """The moments of x over a shard, about the shift of all."""
        acts = SomeContexts(self._activations(hook).path, shard)
        return packed_inputs(site_moments(acts, self.plan.partition, self.device, self.reporter, hook))

    def join_inputs(self, hook: str, total: dict[str, np.ndarray]) -> None:
        """The entry of a site's moments of x, from their sum."""
        moments = unpacked_inputs(total)
        self.store.get_or_make("inputs", self.plan.inputs[hook], lambda folder: save_inputs(moments, folder))

    def encode_shard(self, sae: SaePlan, shard: Shard, sent: Callable[[], Files | None]) -> dict[str, np.ndarray]:
        """The moments of an SAE's error over a shard; its codes stay in the store."""
        site = self.site(sae.sae.hook)
        acts = SomeContexts(site.acts_folder, shard)
        codes = self.store.find("codes", content_key(sae.codes))

        def make(folder: Path) -> None:
            dictionary = self.dictionary(sae, site.acts.d_model, sent)
            if sae.sae.check and shard.first == 0:
                skip = self.plan.study.settings.skip_positions
                check_belongs(sae.sae.name, site.hook, first_contexts(site.acts, self.device), skip, dictionary)
            if codes is None:
                errors = encoded(acts, dictionary, folder, self.device)
            else:
                errors = decoded(acts, dictionary, codes.path, self.device)
            partition, name = self.plan.partition, sae.sae.name
            save_targets(error_moments(errors, site.inputs, partition, self.reporter, name, acts.n_tokens), folder)

        spec = shard_spec(content_key(sae.targets), shard)
        found = self.store.find(SHARD, content_key(spec))
        if found is not None and codes is None and "contexts.npy" not in found.manifest.files:
            self.store.remove(found)  # made when the SAE had its codes, which have been deleted since
        entry = self.store.get_or_make(SHARD, spec, make)
        return packed_targets(load_targets(entry.path, torch.device("cpu")))

    def finish_sae(
        self,
        sae: SaePlan,
        shards: Sequence[Shard],
        total: dict[str, np.ndarray] | None,
        sent: Callable[[], Files | None],
        *,
        scale: bool,
    ) -> None:
        """Everything of an SAE; `total`: the sum of its shards' moments, or None where it need not be encoded in shards."""
        site = self.site(sae.sae.hook)
        parts: list[Entry] = []
        if total is not None:
            moments = unpacked_targets(total)
            if not self.store.has("codes", content_key(sae.codes)):
                key = content_key(sae.targets)
                parts = [self._part(SHARD, key, shard, f"codes of {sae.sae.name}") for shard in shards]
                self.store.get_or_make(
                    "codes", sae.codes, lambda folder: join_codes([part.path for part in parts], folder)
                )
            self.store.get_or_make("targets", sae.targets, lambda folder: save_targets(moments, folder))
        stages = SaeStages(self.plan, site, self._losses(), self.store, self.device, self.reporter)
        stages.make(sae, self.dictionary(sae, site.acts.d_model, sent), scale=scale)
        drop_shards(self.store, SHARD, content_key(sae.targets), shards)

    def scale_site(self, hook: str) -> None:
        """Compare the SAEs of a site."""
        self.kept.free(site=True)
        scale_site(self.plan, hook, self.store, self.reporter)

    def parts(self) -> str:
        """Measure the SAEs on the parts of an error; why it could not be done."""
        self.kept.free(site=True)
        return Pipeline(self.store, self.device, self.reporter, self.custom)._parts(self.plan)

    def model(self) -> LanguageModel:
        """The study's model, loaded once a process."""
        key = content_key([self.plan.sites[LOSS]["model"], str(self.device)])
        if key not in self.kept.model:
            self.kept.free(site=True)
            self.kept.model[key] = load_model(self.plan.study, self.device)
        return self.kept.model[key]

    def dictionary(self, sae: SaePlan, d_model: int, sent: Callable[[], Files | None]) -> AnyDictionary:
        """An SAE, loaded once for consecutive shards."""
        key = content_key([sae.codes, str(self.device)])
        if key not in self.kept.dictionary:
            self.kept.free()
            self.store.trim(OF_SHARDS)
            spec = local_sae(self.plan.study, sae.sae, sae.codes["sae"], sent, self.kept.holds)
            self.kept.dictionary[key] = load_dictionary(self.plan.study, spec, d_model, self.device, self.custom)
        found = self.kept.dictionary[key]
        found.pulse = self.reporter.pulse(f"latents of {sae.sae.name}", "slices")
        return found

    def site(self, hook: str) -> KeptSite:
        """What the SAEs of a site share."""
        key = content_key([self.plan.inputs[hook], str(self.device)])
        found = self.kept.site.get(key)
        if found is None or not found.acts_folder.is_dir():
            self.kept.free(site=True)
            self.store.trim(OF_SHARDS)
            found = None
            inputs = self._needed("inputs", self.plan.inputs[hook], f"moments at {hook}")
            folder = self._activations(hook).path
            settings = self.plan.study.settings
            cells = self.plan.partition.cells_of_fold(settings.skip_positions)
            found = KeptSite(hook, Activations(folder), load_inputs(inputs.path, self.device), cells)
            found.acts_folder = folder
            found.check(settings)
            self.kept.site[key] = found
        return found

    def _activations(self, hook: str) -> Entry:
        return self._needed("activations", self.plan.sites[hook], f"activations at {hook}")

    def _losses(self) -> Entry:
        return self._needed("losses", self.plan.sites[LOSS], "losses")

    def _part(self, stage: str, of: str, shard: Shard, what: str) -> Entry:
        return self._needed(stage, shard_spec(of, shard), f"{what}, contexts {shard.first} to {shard.last - 1},")

    def _needed(self, stage: str, spec: dict[str, Any], what: str) -> Entry:
        entry = self.store.find(stage, content_key(spec))
        if entry is None:
            raise StoreError(
                f"The {what} can no longer be read from {self.store.root}: run the sweep again; it goes on there."
            )
        return entry
