"""The pipeline of a study: everything that it asks for and the store does not hold.

1. Plan: find and check all inputs; see which summaries are missing.
2. Capture the sites that those need, in one run of the model.
3. For each SAE: codes and moments in one pass, the split in a second, then the summary.
4. Publish the index, after each site and at the end, so that pages show what is finished.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmcore.analysis.activations import ACTS, Activations
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
from dmcore.analysis.regression import ridge_bases, ridge_table, shrinkage_r2
from dmcore.analysis.sanity import check_belongs
from dmcore.analysis.split_pass import SplitInputs, split_pass
from dmcore.analysis.summarise import (
    TokenFacts,
    baselines,
    save_full_map,
    split_about,
    summary_tables,
    write_split,
)
from dmcore.errors import DarkMatterError, StoreError
from dmcore.math.linear_map import RidgeBasis
from dmcore.math.moments import InputMoments, TargetMoments
from dmcore.math.split import check_determined, check_varying
from dmcore.progress import Reporter
from dmcore.results import METRICS, RECORD, read_record, write_summary
from dmcore.run.plan import Plan, SaePlan, make_plan
from dmcore.run.preflight import first_contexts, preflight
from dmcore.run.retention import KEPT_MOMENTS
from dmcore.sources.custom_saes import CustomSae
from dmcore.sources.dictionary import Dictionary
from dmcore.sources.models import LanguageModel, load_model
from dmcore.sources.prefetch import Prefetch
from dmcore.sources.saes import load_dictionary
from dmcore.sources.sliced_dictionary import SlicedDictionary
from dmcore.specs import Settings, Study
from dmcore.store.fingerprint import content_key
from dmcore.store.published import SUMMARY, publish
from dmcore.store.store import Draft, Entry, Store

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""Times that moments are made which another sweep deletes before they are read."""


@dataclass
class Site:
    """What the SAEs of one site share while they are worked on."""

    hook: str
    acts: Activations
    inputs: InputMoments
    cells_of_fold: list[list[int]]
    _bases: list[RidgeBasis] = field(default_factory=list)

    def check(self, settings: Settings) -> None:
        """Raise a `DataError` if no map can be fitted here."""
        per_fold = [int(self.inputs.pooled(cells)[-1, -1]) for cells in self.cells_of_fold]
        check_determined(per_fold, self.acts.d_model + int(settings.fit_bias), settings.ridge)
        check_varying(self.inputs, [cell for cells in self.cells_of_fold for cell in cells])

    @property
    def bases(self) -> list[RidgeBasis]:
        """Eigenbases of the folds, made when first needed."""
        if not self._bases:
            self._bases = ridge_bases(self.inputs, self.cells_of_fold)
        return self._bases


@dataclass(frozen=True)
class Outcome:
    """What a sweep did."""

    records: list[dict[str, Any]]
    """One per finished SAE, in the order of the study."""
    computed: int
    """SAEs computed in this sweep; the others were in the cache."""
    failures: dict[str, str]
    """By SAE: why it has no result."""


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

    def sweep(self, study: Study, only: Callable[[int], bool] = lambda _: True) -> Outcome:
        """Compute what is missing; `only` chooses SAEs by their number in the study.

        Raises:
            SpecError: an input is missing or wrong; nothing was computed.
        """
        plan = make_plan(study, self.store, self.custom, self.reporter)
        wanted = [p for i, p in enumerate(plan.saes) if only(i) and self.store.find(SUMMARY, p.summary_key) is None]
        failures: dict[str, str] = {}
        if wanted:
            entries = self._capture(plan, wanted, failures)
            able = [p for p in wanted if p.sae.name not in failures]
            try:
                for hook in dict.fromkeys(p.sae.hook for p in able):
                    self._site(plan, hook, able, entries, failures)
                    self.publish(plan)
            finally:
                self._prefetch.stop()
        records = self.publish(plan)
        return Outcome(records, len(wanted) - len(failures), failures)

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

    def _site(
        self, plan: Plan, hook: str, able: list[SaePlan], entries: dict[str, Entry], failures: dict[str, str]
    ) -> None:
        """Work on the SAEs of one site; `able` has those of the others too, to read ahead."""
        acts = Activations(entries[hook].path)
        made = self.store.get_or_make(
            "inputs",
            plan.inputs[hook],
            lambda folder: save_inputs(site_moments(acts, plan.partition, self.device, self.reporter, hook), folder),
        )
        cells = plan.partition.cells_of_fold(plan.study.settings.skip_positions)
        site = Site(hook, acts, load_inputs(made.path, self.device), cells)
        for i, sae in enumerate(able):
            if sae.sae.hook != hook:
                continue
            try:
                site.check(plan.study.settings)
                self._sae(plan, site, sae, able[i + 1] if i + 1 < len(able) else None, entries[LOSS])
            except DarkMatterError as error:
                log.error("%s: %s", sae.sae.name, error)
                failures[sae.sae.name] = str(error)

    def _sae(self, plan: Plan, site: Site, sae: SaePlan, after: SaePlan | None, losses: Entry) -> None:
        self._prefetch.stop()
        dictionary = load_dictionary(plan.study, sae.sae, site.acts.d_model, self.device, self.custom)
        if after is not None:
            self._prefetch.start(plan.study, after.sae)
        if sae.sae.check:
            first = first_contexts(site.acts, self.device)
            check_belongs(sae.sae.name, site.hook, first, plan.study.settings.skip_positions, dictionary)
        dictionary.pulse = self.reporter.pulse(f"latents of {sae.sae.name}", "slices")
        codes, targets, target_moments = self._codes_and_moments(plan, site, sae, dictionary)
        settings, partition = plan.study.settings, plan.partition

        def make_split(folder: Path) -> None:
            errors = decoded(site.acts, dictionary, codes.path, self.device)
            given = SplitInputs(
                site.inputs, target_moments, partition, settings, plan.study.seed, dictionary.d_sae, site.acts.n_tokens
            )
            found = split_pass(errors, given, folder, self.reporter, sae.sae.name)
            write_split(found, site.inputs, partition, settings, folder)

        split = self.store.get_or_make("split", sae.split, make_split)

        def make_summary(folder: Path) -> None:
            facts = token_facts(plan, losses, codes)
            ridge = ridge_table(site.bases, site.inputs, target_moments, site.cells_of_fold)
            baseline = baselines(split.path, facts, partition, settings, plan.study.seed)
            shrinkage = shrinkage_r2(site.inputs, target_moments, site.cells_of_fold)
            record = make_record(plan, sae, dictionary, split_about(split.path), shrinkage)
            write_summary(folder, record, summary_tables(split.path, ridge, baseline))
            save_full_map(split.path, folder)

        self.store.get_or_make(SUMMARY, sae.summary, make_summary)
        if targets.manifest.size > KEPT_MOMENTS:
            self.store.remove(targets)

    def _codes_and_moments(
        self, plan: Plan, site: Site, sae: SaePlan, dictionary: Dictionary | SlicedDictionary
    ) -> tuple[Entry, Entry, TargetMoments]:
        """Codes, and moments read: made again where another sweep, which has finished with them, deletes them in between."""
        for _ in range(ATTEMPTS):
            codes, targets = self._codes_and_targets(plan, site, sae, dictionary)
            try:
                return codes, targets, load_targets(targets.path, self.device)
            except FileNotFoundError:
                log.info("%s: another sweep has deleted its moments; they are made again", sae.sae.name)
        raise StoreError(
            f"The moments of {sae.sae.name} are deleted again and again: end what else works on this cache."
        )

    def _codes_and_targets(
        self, plan: Plan, site: Site, sae: SaePlan, dictionary: Dictionary | SlicedDictionary
    ) -> tuple[Entry, Entry]:
        """Codes and moments, in one pass where both are missing."""
        found = self.store.begin("codes", sae.codes)
        written = False

        def make_targets(folder: Path) -> None:
            nonlocal written
            stream = encoded if isinstance(found, Draft) else decoded
            errors = stream(site.acts, dictionary, found.path, self.device)
            name, n_tokens = sae.sae.name, site.acts.n_tokens
            save_targets(error_moments(errors, site.inputs, plan.partition, self.reporter, name, n_tokens), folder)
            written = True

        try:
            if isinstance(found, Draft):
                found.clear()
            targets = self.store.get_or_make("targets", sae.targets, make_targets)
            if (
                isinstance(found, Draft) and not written
            ):  # the moments were there, or another process has just made them
                with self.store.writing():
                    for _ in encoded(site.acts, dictionary, found.path, self.device):
                        pass
            return (found.commit() if isinstance(found, Draft) else found), targets
        finally:
            if isinstance(found, Draft):
                found.release()


def finished_records(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """The records of the SAEs whose summaries are there, in the order of the study."""
    found = [store.find(SUMMARY, p.summary_key) for p in plan.saes]
    return [read_record(entry.path) for entry in found if entry is not None]


def token_facts(plan: Plan, losses: Entry, codes: Entry) -> TokenFacts:
    """Token id, loss, entropy and L0 of every token, in order."""
    both = np.load(losses.path / ACTS, mmap_mode="r", allow_pickle=False)
    counts = np.load(codes.path / "counts.npy", mmap_mode="r", allow_pickle=False)
    return TokenFacts(
        token=np.asarray(plan.contexts.tokens).reshape(-1).astype(np.int64),
        loss=np.asarray(both[:, 0], dtype=np.float64),
        entropy=np.asarray(both[:, 1], dtype=np.float64),
        l0=np.asarray(counts).sum(1).astype(np.float64),
        length=plan.contexts.length,
    )


def make_record(
    plan: Plan, sae: SaePlan, dictionary: Dictionary | SlicedDictionary, about: dict[str, Any], shrinkage: float
) -> dict[str, Any]:
    """The row of an SAE in the study's table."""
    study, settings, spec = plan.study, plan.study.settings, sae.sae
    record = {
        "sae": spec.name,
        "site": spec.hook,
        "stream": spec.stream,
        "layer": spec.layer,
        "architecture": dictionary.architecture,
        "label": spec.label or dictionary.architecture,
        "d_model": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "l0": about["l0"],
        "dead_share": about["dead_share"],
        **{f"{metric}{end}": about[f"{metric}{end}"] for metric in METRICS for end in ("", "_low", "_high")},
        "shrinkage": shrinkage if np.isfinite(shrinkage) else None,
        "n_tokens": about["n_tokens"],
        "n_contexts": plan.contexts.n_contexts,
        "skip_positions": settings.skip_positions,
        "n_folds": settings.n_folds,
        "ridge": settings.ridge,
        "fit_bias": settings.fit_bias,
        "seed": study.seed,
        "summary_key": sae.summary_key,
        "computed": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    assert record.keys() == RECORD.keys()
    return record
