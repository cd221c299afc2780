"""The stages of one SAE: codes and moments in one pass, the split in a second, the summary, the tests of norms.

Each is made if the store does not hold it. An SAE of which everything later is there is not encoded again: moments that were
deleted, or codes that were never copied here, are missed only by what needs them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmcore.analysis.activations import ACTS, Activations
from dmcore.analysis.encode import decoded, encoded, error_moments, load_targets, save_targets
from dmcore.analysis.norm_tests import NormTestInputs, norm_tests
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
from dmcore.errors import StoreError
from dmcore.math.linear_map import RidgeBasis
from dmcore.math.moments import InputMoments, TargetMoments
from dmcore.math.split import check_determined, check_varying
from dmcore.progress import Reporter
from dmcore.results import METRICS, RECORD, write_summary
from dmcore.run import logs
from dmcore.run.plan import Plan, SaePlan
from dmcore.run.preflight import first_contexts
from dmcore.run.retention import KEPT_MOMENTS
from dmcore.sources.dictionary import Dictionary
from dmcore.sources.sliced_dictionary import SlicedDictionary
from dmcore.specs import Settings
from dmcore.store.fingerprint import content_key
from dmcore.store.published import SUMMARY
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


AnyDictionary = Dictionary | SlicedDictionary


class SaeStages:
    """Makes what is missing of the SAEs of a plan.

    Args:
        plan: the study and the specs of its entries.
        site: what the SAEs of one site share.
        losses: the entry of the losses.
        store, device, reporter: as of the `Pipeline`.
    """

    def __init__(
        self, plan: Plan, site: Site, losses: Entry, store: Store, device: torch.device, reporter: Reporter
    ) -> None:
        self.plan, self.site, self.losses = plan, site, losses
        self.store, self.device, self.reporter = store, device, reporter

    def make(self, sae: SaePlan, dictionary: AnyDictionary, *, scale: bool) -> None:
        """Everything of one SAE that is missing; `scale`: what the scaling analysis needs of it too."""
        with logs.about(sae=sae.sae.name):
            self._make(sae, dictionary, scale=scale)

    def _make(self, sae: SaePlan, dictionary: AnyDictionary, *, scale: bool) -> None:
        if sae.sae.check:
            first = first_contexts(self.site.acts, self.device)
            check_belongs(sae.sae.name, self.site.hook, first, self.plan.study.settings.skip_positions, dictionary)
        dictionary.pulse = self.reporter.pulse(f"latents of {sae.sae.name}", "slices")
        if self.store.find(SUMMARY, sae.summary_key) is None:
            self._summary(sae, dictionary)
        if scale:
            self._norms(sae, dictionary)

    def _summary(self, sae: SaePlan, dictionary: AnyDictionary) -> None:
        codes, targets, moments = self._codes_and_moments(sae, dictionary)
        split = self._split(sae, dictionary, codes, moments)
        plan, site, settings = self.plan, self.site, self.plan.study.settings

        def make(folder: Path) -> None:
            facts = token_facts(plan, self.losses, codes)
            ridge = ridge_table(site.bases, site.inputs, moments, site.cells_of_fold)
            baseline = baselines(split.path, facts, plan.partition, settings, plan.study.seed)
            shrinkage = shrinkage_r2(site.inputs, moments, site.cells_of_fold)
            record = make_record(plan, sae, dictionary, split_about(split.path), shrinkage)
            write_summary(folder, record, summary_tables(split.path, ridge, baseline))
            save_full_map(split.path, folder)

        self.store.get_or_make(SUMMARY, sae.summary, make)
        if targets.manifest.size > KEPT_MOMENTS:
            self.store.remove(targets)

    def _split(self, sae: SaePlan, dictionary: AnyDictionary, codes: Entry, moments: TargetMoments) -> Entry:
        plan, site = self.plan, self.site
        partition, settings, seed = plan.partition, plan.study.settings, plan.study.seed

        def make(folder: Path) -> None:
            errors = decoded(site.acts, dictionary, codes.path, self.device)
            n_tokens = site.acts.n_tokens
            given = SplitInputs(site.inputs, moments, partition, settings, seed, dictionary.d_sae, n_tokens)
            found = split_pass(errors, given, folder, self.reporter, sae.sae.name)
            write_split(found, site.inputs, partition, settings, folder)

        return self.store.get_or_make("split", sae.split, make)

    def _norms(self, sae: SaePlan, dictionary: AnyDictionary) -> None:
        """The tests of norms, with the split and the codes that they read."""
        given = self.norm_test_inputs(sae, dictionary)
        self.store.get_or_make(
            "norms", sae.norms, lambda folder: norm_tests(given, folder, self.reporter, sae.sae.name)
        )

    def norm_test_inputs(self, sae: SaePlan, dictionary: AnyDictionary) -> NormTestInputs:
        """What a pass over the parts of an SAE's error works from; codes and split are made where one is missing."""
        codes, split = self.codes_and_split(sae, dictionary)
        plan, site = self.plan, self.site
        return NormTestInputs(
            acts=site.acts,
            sae=dictionary,
            codes=codes.path,
            split=split.path,
            inputs=site.inputs,
            partition=plan.partition,
            settings=plan.study.settings,
            seed=plan.study.seed,
            device=self.device,
        )

    def codes_and_split(self, sae: SaePlan, dictionary: AnyDictionary) -> tuple[Entry, Entry]:
        """Codes and split, made where one is missing; the moments are then needed once more."""
        codes = self.store.find("codes", content_key(sae.codes))
        split = self.store.find("split", content_key(sae.split))
        if codes is None or split is None:
            codes, targets, moments = self._codes_and_moments(sae, dictionary)
            split = self._split(sae, dictionary, codes, moments)
            if targets.manifest.size > KEPT_MOMENTS:
                self.store.remove(targets)
        return codes, split

    def _codes_and_moments(self, sae: SaePlan, dictionary: AnyDictionary) -> tuple[Entry, Entry, TargetMoments]:
        """Codes, and moments read: made again where another sweep, which has finished with them, deletes them in between."""
        for _ in range(ATTEMPTS):
            codes, targets = self._codes_and_targets(sae, dictionary)
            try:
                return codes, targets, load_targets(targets.path, self.device)
            except FileNotFoundError:
                log.info("%s: another sweep has deleted its moments; they are made again", sae.sae.name)
        raise StoreError(
            f"The moments of {sae.sae.name} are deleted again and again: end what else works on this cache."
        )

    def _codes_and_targets(self, sae: SaePlan, dictionary: AnyDictionary) -> tuple[Entry, Entry]:
        """Codes and moments, in one pass where both are missing."""
        plan, site = self.plan, self.site
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
    plan: Plan, sae: SaePlan, dictionary: AnyDictionary, about: dict[str, Any], shrinkage: float
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
