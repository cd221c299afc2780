"""What reduces the error of an SAE that the study names: from its codes, and those of the SAEs of earlier components."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from dmcore.analysis.coding_methods import OWN, coding_method, version_of
from dmcore.analysis.error_reduction import ReductionInputs, Spliced, error_reduction
from dmcore.analysis.reduction_passes import Coded, TokenSources
from dmcore.errors import SpecError
from dmcore.results import RECORD, REDUCTION, read_record, reduction_spec, wider_rows
from dmcore.results.earlier import check_before, earlier_saes, role_of
from dmcore.results.reduction import CODING, ReductionSettings
from dmcore.run.plan import Plan, SaePlan
from dmcore.run.sae_stages import AnyDictionary, SaeStages
from dmcore.run.scale import vocabulary_of
from dmcore.sources.models import LanguageModel
from dmcore.store.fingerprint import content_key
from dmcore.store.published import SUMMARY
from dmcore.store.store import Entry, Store


@dataclass(frozen=True)
class Asked:
    """Which SAE's error is reduced, and how."""

    sae: SaePlan
    earlier: dict[str, SaePlan]
    """SAEs of earlier components, by role."""
    methods: tuple[str, ...] = CODING
    """Names of coding methods."""
    missing: tuple[str, ...] = ()
    """Sentences about roles that have no SAE."""
    settings: ReductionSettings = field(default_factory=ReductionSettings)
    """On how many contexts what is slow is run."""

    @property
    def spec(self) -> dict[str, Any]:
        """The spec of the entry."""
        keys = [(role, one.summary_key) for role, one in self.earlier.items()]
        versions = {name: version for name in self.methods if (version := version_of(coding_method(name)))}
        return reduction_spec(self.sae.summary_key, keys, self.methods, self.settings, versions)


def finished_saes(plan: Plan, store: Store) -> dict[str, tuple[SaePlan, dict[str, Any]]]:
    """The SAEs with results, and their records, by key of the summary."""
    there = [(p, entry) for p in plan.saes if (entry := store.find(SUMMARY, p.summary_key)) is not None]
    return {p.summary_key: (p, read_record(entry.path)) for p, entry in there}


def asked_for(
    plan: Plan,
    store: Store,
    sae: SaePlan,
    earlier: Sequence[SaePlan] | None = None,
    methods: Sequence[str] | None = None,
    settings: ReductionSettings | None = None,
) -> Asked:
    """What is to be made.

    Args:
        sae: whose error, with a result.
        earlier: SAEs of earlier components, with results; None for those that the study has of the layer before, the
            layer's MLP and its attention.
        methods: names of coding methods; None for the usual ones.
        settings: on how many contexts what is slow is run; None for the usual.

    Raises:
        SpecError: an SAE that was chosen is of no earlier site, there is no such method, or the target L0 is above the
            number of latents.
    """
    settings = settings or ReductionSettings()
    names = CODING if methods is None else tuple(dict.fromkeys(methods))
    for name in names:
        coding_method(name)
    _check_target(settings.target_l0, sae, store)
    names = tuple(name for name in names if name != OWN)
    if earlier is None:
        finished = finished_saes(plan, store)
        records = pl.DataFrame([record for _, record in finished.values()], schema=RECORD)
        found, missing = earlier_saes(records, sae.summary_key)
        return Asked(sae, {role: finished[key][0] for role, key in found.items()}, names, tuple(missing), settings)
    chosen: dict[str, SaePlan] = {}
    for one in earlier:
        check_before(one.sae.name, one.sae.hook, sae.sae.name, sae.sae.hook)
        role = role_of(one.sae.hook)
        if role in chosen:
            raise SpecError(
                f"{one.sae.name} and {chosen[role].sae.name} are both the {role} component: choose one of them."
            )
        chosen[role] = one
    return Asked(sae, chosen, names, settings=settings)


def _check_target(target: int | None, sae: SaePlan, store: Store) -> None:
    entry = store.find(SUMMARY, sae.summary_key)
    if target is None or entry is None:
        return
    if target > (d_sae := read_record(entry.path)["d_sae"]):
        raise SpecError(f"A target L0 of {target:,} is above the {d_sae:,} latents of {sae.sae.name}: ask for fewer.")


def find_reduction(store: Store, asked: Asked) -> Entry | None:
    """The entry, if it is there."""
    return store.find(REDUCTION, content_key(asked.spec))


def make_reduction(
    asked: Asked,
    plan: Plan,
    stages_of: Callable[[SaePlan], SaeStages],
    load: Callable[[SaePlan, SaeStages], AnyDictionary],
    model: Callable[[], LanguageModel],
) -> Entry:
    """Compare what reduces the error.

    Args:
        asked: what.
        plan: of the study.
        stages_of: the stages of an SAE's site.
        load: opens an SAE.
        model: loads the model.

    Raises:
        DataError: too few tokens for a linear map, or a method gave NaN.
    """
    stages = stages_of(asked.sae)
    store, settings = stages.store, plan.study.settings

    def coded(sae: SaePlan, of_site: SaeStages) -> Coded:
        dictionary = load(sae, of_site)
        return Coded(of_site.site.acts, dictionary, of_site.codes_and_split(sae, dictionary)[0].path)

    def make(folder: Path) -> None:
        finished = finished_saes(plan, store)
        own = coded(asked.sae, stages)
        earlier = {role: coded(one, stages_of(one)) for role, one in asked.earlier.items()}
        sources = TokenSources(own, earlier, plan.partition, settings.skip_positions, stages.device)
        components = tuple(_component(role, finished[one.summary_key][1]) for role, one in asked.earlier.items())
        given = ReductionInputs(
            sources=sources,
            inputs=stages.site.inputs,
            settings=settings,
            seed=plan.study.seed,
            methods=tuple(coding_method(name) for name in asked.methods),
            components=components,
            l0=finished[asked.sae.summary_key][1]["l0"],
            remarks=asked.missing,
            asked=asked.settings,
            spliced=Spliced(plan.contexts, model, asked.sae.sae.hook, vocabulary_of(plan.study)),
        )
        error_reduction(given, folder, stages.reporter, asked.sae.sae.name)

    return store.get_or_make(REDUCTION, asked.spec, make)


def _component(role: str, record: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, **{column: record[column] for column in ("sae", "site", "d_sae", "l0", "summary_key")}}


def wider_of(plan: Plan, store: Store, sae: SaePlan) -> list[dict[str, Any]]:
    """Rows for the wider SAEs of the study at the same L0; nothing is computed."""
    finished = finished_saes(plan, store)
    records = pl.DataFrame([record for _, record in finished.values()], schema=RECORD)

    def replicates(key: str) -> pl.DataFrame:
        entry = store.find(SUMMARY, key)
        assert entry is not None, "it is finished"
        return pl.read_parquet(entry.path / "replicates.parquet")

    return wider_rows(records, sae.summary_key, replicates)
