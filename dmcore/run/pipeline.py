"""The pipeline of a study: everything that it asks for and the store does not hold.

1. Plan: find and check all inputs; see which summaries are missing.
2. Capture the sites that those need, in one run of the model.
3. For each SAE: its stages (`sae_stages`), up to its summary.
4. Publish the index, after each site and at the end, so that pages show what is finished.
5. Compare the SAEs of each site (`scale`).
6. Measure the SAEs that have been trained on the parts of an SAE's error (`parts`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from dmcore.analysis.activations import Activations
from dmcore.analysis.capture import LOSS, CaptureRequest, capture
from dmcore.analysis.encode import load_inputs, save_inputs, site_moments
from dmcore.errors import DarkMatterError, StoreError
from dmcore.memory import free_unused
from dmcore.progress import Reporter
from dmcore.results import LEARNED, read_record
from dmcore.results.parts import PART
from dmcore.run.device_room import check_room, is_large
from dmcore.run.failures import why_failed
from dmcore.run.learned import learned_of, make_learned
from dmcore.run.parts import PartPlan, as_sae, base_plan, find_measured, measure_parts, part_plans, untrained
from dmcore.run.plan import Plan, SaePlan, make_plan
from dmcore.run.preflight import preflight
from dmcore.run.sae_stages import AnyDictionary, SaeStages, Site
from dmcore.run.scale import is_scaled, scale_site
from dmcore.sources.custom_saes import CustomSae
from dmcore.sources.models import LanguageModel, load_model
from dmcore.sources.prefetch import Prefetch
from dmcore.sources.saes import load_dictionary
from dmcore.specs import Study
from dmcore.store.fingerprint import content_key
from dmcore.store.published import SUMMARY, publish
from dmcore.store.store import Entry, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a sweep did."""

    records: list[dict[str, Any]]
    """One per finished SAE, in the order of the study."""
    computed: int
    """SAEs computed in this sweep; the others were in the cache."""
    failures: dict[str, str]
    """By SAE: why it has no result."""
    unscaled: dict[str, str]
    """By site: why its SAEs could not be compared."""
    parts: str = ""
    """Why the SAEs on the parts could not be measured; empty where they were, or there are none."""


class Pipeline:
    """Computes studies into a store, on one device.

    Args:
        store: where results go.
        device: where the model and the SAEs work.
        reporter: who is told how far it is, and may stop it.
        custom: SAEs that are Python objects, by the name that a study gives them.
    """

    def __init__(
        self,
        store: Store,
        device: torch.device | str = "cpu",
        reporter: Reporter | None = None,
        custom: Mapping[str, CustomSae] | None = None,
    ) -> None:
        self.store, self.device, self.reporter = store, torch.device(device), reporter or Reporter()
        self.custom = dict(custom or {})
        self._prefetch = Prefetch()

    def sweep(self, study: Study, only: Callable[[int], bool] | None = None, *, scale: bool = True) -> Outcome:
        """Compute what is missing.

        Args:
            study: what is asked.
            only: chooses SAEs by their number in the study; sites are then left for another to compare.
            scale: whether the SAEs of each site are to be compared.

        Raises:
            SpecError: an input is missing or wrong; nothing was computed.
        """
        plan = make_plan(study, self.store, self.custom, self.reporter)
        chosen = [p for i, p in enumerate(plan.saes) if only is None or only(i)]
        missing = {p.summary_key for p in chosen if self.store.find(SUMMARY, p.summary_key) is None}
        unscaled = {hook for hook in study.hooks if scale and not is_scaled(plan, hook, self.store)}
        wanted = [p for p in chosen if p.summary_key in missing or (p.sae.hook in unscaled and not self._has_norms(p))]
        failures = self._work(plan, wanted, unscaled)
        records = self.publish(plan)
        reasons = {hook: self._scale(plan, hook) for hook in study.hooks if hook in unscaled and only is None}
        computed = sum(record["summary_key"] in missing for record in records)
        parts = self._parts(plan) if scale and only is None else ""
        return Outcome(records, computed, failures, {hook: reason for hook, reason in reasons.items() if reason}, parts)

    def scale(self, study: Study) -> dict[str, str]:
        """Compare the SAEs that have results, at each site; by site or SAE that failed: why.

        Raises:
            SpecError: an input is missing or wrong; nothing was computed.
            StoreError: no SAE of the study has a result.
        """
        plan = make_plan(study, self.store, self.custom)
        if not finished_records(plan, self.store):
            raise StoreError(f"Nothing has been computed for the study {study.name} yet: sweep it first.")
        done = [p for p in plan.saes if self.store.find(SUMMARY, p.summary_key) is not None]
        finished = replace(plan, saes=tuple(done))
        hooks = [hook for hook in study.hooks if not is_scaled(finished, hook, self.store)]
        failures = self._work(finished, [p for p in done if p.sae.hook in hooks and not self._has_norms(p)], set(hooks))
        reasons = {hook: self._scale(finished, hook) for hook in hooks}
        return failures | {hook: reason for hook, reason in reasons.items() if reason}

    def stages(self, plan: Plan, sae: SaePlan) -> SaeStages:
        """The stages of the SAEs at the site of one, its activations captured where they are missing."""
        failures: dict[str, str] = {}
        entries = self._capture(plan, [sae], failures)
        if failures:
            raise StoreError(failures[sae.sae.name])
        site = self._open_site(plan, sae.sae.hook, entries)
        site.check(plan.study.settings)
        return SaeStages(plan, site, entries[LOSS], self.store, self.device, self.reporter)

    def _parts(self, plan: Plan) -> str:
        """Measure the SAEs on the parts, if the study has them and they are there; why it could not be done."""
        if plan.study.parts is None:
            return ""
        try:
            if why := untrained(plan):
                log.warning("%s", why)
            elif self.store.find(SUMMARY, base_plan(plan).summary_key) is not None:
                self.measure_parts(plan)
                self.learned(plan)
        except DarkMatterError as error:
            log.error("SAEs on the parts: %s", error)
            return str(error)
        return ""

    def measure_parts(self, plan: Plan, *, codes: bool = False) -> Entry:
        """Measure the SAEs on the parts, which must have been trained, where that has not been done.

        Args:
            plan: of the study.
            codes: whether those of each SAE are needed too; what has been measured may be there without them.
        """
        found = find_measured(plan, self.store)
        if found is not None and not (codes and self._lacks_part(plan)):
            return found
        base = base_plan(plan)
        stages = self.stages(plan, base)
        dictionary = load_dictionary(plan.study, base.sae, stages.site.acts.d_model, self.device, self.custom)
        return measure_parts(stages, dictionary)

    def learned(self, plan: Plan) -> Entry:
        """Look for the latents of the SAEs on the parts, which must have been measured, in the base and in wider SAEs."""
        spec = learned_of(plan, self.store)
        found = None if spec is None else self.store.find(LEARNED, content_key(spec))
        if found is not None:
            return found
        if spec is not None:
            self.measure_parts(plan, codes=True)
        site = self.stages(plan, base_plan(plan)).site
        return make_learned(plan, self.store, site, self.loader(plan, site), self.reporter)

    def _lacks_part(self, plan: Plan) -> bool:
        return any(self.store.find(PART, content_key(one.spec)) is None for one in part_plans(plan, self.store))

    def loader(self, plan: Plan, site: Site) -> Callable[[SaePlan | PartPlan], AnyDictionary]:
        """What opens the weights of an SAE of a site, whether of the study or on a part."""

        def load(of: SaePlan | PartPlan) -> AnyDictionary:
            spec = of.sae if isinstance(of, SaePlan) else as_sae(plan.study, of.sae)
            return load_dictionary(plan.study, spec, site.acts.d_model, self.device, self.custom)

        return load

    def _has_norms(self, p: SaePlan) -> bool:
        """Whether all that the comparison needs of an SAE is there."""
        return all(
            self.store.find(stage, content_key(spec)) is not None
            for stage, spec in (("norms", p.norms), ("split", p.split))
        )

    def _work(self, plan: Plan, wanted: list[SaePlan], unscaled: Collection[str]) -> dict[str, str]:
        """The stages of SAEs, site by site; by SAE that failed: why."""
        failures: dict[str, str] = {}
        if not wanted:
            return failures
        entries = self._capture(plan, wanted, failures)
        able = [p for p in wanted if p.sae.name not in failures]
        try:
            for hook in dict.fromkeys(p.sae.hook for p in able):
                self._site(plan, able, self._open_site(plan, hook, entries), entries[LOSS], failures, hook in unscaled)
                self.publish(plan)
        finally:
            self._prefetch.stop()
        return failures

    def _scale(self, plan: Plan, hook: str) -> str:
        """Compare the SAEs of a site; why it could not be done, or nothing."""
        try:
            scale_site(plan, hook, self.store, self.reporter)
        except DarkMatterError as error:
            reason = str(error)
        except FileNotFoundError:
            reason = "Something that the comparison reads was deleted in the meantime: sweep the study again."
        else:
            return ""
        log.error("scaling at %s: %s", hook, reason)
        return reason

    def publish(self, plan: Plan) -> list[dict[str, Any]]:
        """Write the index of what is finished; returns its records."""
        records: list[dict[str, Any]] = []
        # Again while there is more than was written: another process may have published that in the meantime.
        while len(found := finished_records(plan, self.store)) > len(records):
            records = found
            publish(self.store, plan.study, records)
        return records

    def _capture(self, plan: Plan, wanted: list[SaePlan], failures: dict[str, str]) -> dict[str, Entry]:
        """The activations of all sites; SAEs that do not belong are named in `failures` first, and their sites left out."""
        models: list[LanguageModel] = []

        def model() -> LanguageModel:
            if not models:
                models.append(load_model(plan.study, self.device))
            return models[0]

        new = [p for p in wanted if self.store.find("activations", content_key(plan.sites[p.sae.hook])) is None]
        if new:
            failures |= preflight(plan, new, model(), self.custom, self.reporter)
            for name, reason in failures.items():
                log.error("%s: %s", name, reason)
        names = [LOSS, *dict.fromkeys(p.sae.hook for p in wanted if p.sae.name not in failures)]
        if len(names) == 1:
            return {}
        request = CaptureRequest(plan.contexts, {name: plan.sites[name] for name in names})
        return capture(self.store, request, model, self.reporter)

    def _open_site(self, plan: Plan, hook: str, entries: dict[str, Entry]) -> Site:
        """What the SAEs of a site share; its moments are made where they are missing."""
        acts = Activations(entries[hook].path)
        made = self.store.get_or_make(
            "inputs",
            plan.inputs[hook],
            lambda folder: save_inputs(site_moments(acts, plan.partition, self.device, self.reporter, hook), folder),
        )
        cells = plan.partition.cells_of_fold(plan.study.settings.skip_positions)
        return Site(hook, acts, load_inputs(made.path, self.device), cells)

    def _site(
        self, plan: Plan, able: list[SaePlan], site: Site, losses: Entry, failures: dict[str, str], scale: bool
    ) -> None:
        """Work on the SAEs of one site; `able` has those of the others too, to read ahead."""
        stages = SaeStages(plan, site, losses, self.store, self.device, self.reporter)
        dictionary: AnyDictionary | None = None
        free_unused()
        for i, sae in enumerate(able):
            if sae.sae.hook != site.hook:
                continue
            large, dictionary = is_large(dictionary), None  # the SAE before is not to be in memory beside this one
            if large:
                free_unused()
            try:
                site.check(plan.study.settings)
                self._prefetch.stop()
                check_room(plan, sae, site.acts.d_model, self.device)
                dictionary = load_dictionary(plan.study, sae.sae, site.acts.d_model, self.device, self.custom)
                if i + 1 < len(able):
                    self._prefetch.start(plan.study, able[i + 1].sae)
                stages.make(sae, dictionary, scale=scale)
            except Exception as error:  # also what nobody thought of, such as an object of Python that fails
                failures[sae.sae.name] = why_failed(sae, error, self.device)


def finished_records(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """The records of the SAEs whose summaries are there, in the order of the study."""
    found = [store.find(SUMMARY, p.summary_key) for p in plan.saes]
    return [read_record(entry.path) for entry in found if entry is not None]
