"""Whether maps transfer between the SAEs that a study names, or between its texts: in an entry found by their summaries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from dmcore.analysis.reduction_passes import Coded
from dmcore.analysis.transfer import LEAST_TOKENS, TransferInputs, transfer
from dmcore.analysis.transfer_places import SaePlaces, TextPlaces, labels_of
from dmcore.errors import DataError, SpecError
from dmcore.results import RECORD
from dmcore.results.transfer import ALL_TEXTS, BY, TRANSFER, transfer_members, transfer_spec
from dmcore.run.looks.reduction import finished_saes
from dmcore.run.plan import Plan, SaePlan
from dmcore.run.sae_stages import AnyDictionary, SaeStages
from dmcore.store.fingerprint import content_key
from dmcore.store.store import Entry, Store

MEMBER = ("site", "layer", "label", "d_sae", "l0", "summary_key")
"""Columns of a record that the table of members has."""


@dataclass(frozen=True)
class TransferAsked:
    """Between what maps are to be transferred."""

    by: str
    """Of `BY`."""
    saes: tuple[SaePlan, ...]
    records: tuple[dict[str, Any], ...]
    """Their rows."""

    @property
    def spec(self) -> dict[str, Any]:
        """The spec of the entry."""
        return transfer_spec(self.by, [one.summary_key for one in self.saes])


def transfer_asked(plan: Plan, store: Store, sae: SaePlan, by: str) -> TransferAsked:
    """The SAEs of the matrix around one.

    Raises:
        SpecError: there is no such kind of matrix.
    """
    if by not in BY:
        raise SpecError(f"Maps are not compared by {by!r}: choose {', '.join(BY)}.")
    finished = finished_saes(plan, store)
    records = pl.DataFrame([record for _, record in finished.values()], schema=RECORD)
    chosen = [finished[key] for key in transfer_members(records, sae.summary_key, by)]
    return TransferAsked(by, tuple(one for one, _ in chosen), tuple(record for _, record in chosen))


def find_transfer(store: Store, asked: TransferAsked) -> Entry | None:
    """The entry, if it is there."""
    return store.find(TRANSFER, content_key(asked.spec))


def make_transfer(
    asked: TransferAsked,
    plan: Plan,
    stages_of: Callable[[SaePlan], SaeStages],
    load: Callable[[SaePlan, SaeStages], AnyDictionary],
) -> Entry:
    """Fit maps in every place and test them in every other.

    Args:
        asked: between what.
        plan: of the study.
        stages_of: the stages of an SAE's site.
        load: opens an SAE.

    Raises:
        DataError: there is but one member, or too few tokens.
    """
    opened: dict[str, SaeStages] = {}

    def stages(sae: SaePlan) -> SaeStages:
        if sae.sae.hook not in opened:
            opened[sae.sae.hook] = stages_of(sae)
        return opened[sae.sae.hook]

    def coded(sae: SaePlan) -> Coded:
        of_site = stages(sae)
        dictionary = load(sae, of_site)
        return Coded(of_site.site.acts, dictionary, of_site.codes_and_split(sae, dictionary)[0].path)

    first = stages(asked.saes[0])

    def make(folder: Path) -> None:
        inputs = _between_texts if asked.by == "domain" else _between_saes
        transfer(inputs(asked, plan, first, coded), folder, first.reporter, BY[asked.by])

    return first.store.get_or_make(TRANSFER, asked.spec, make)


def _between_texts(
    asked: TransferAsked, plan: Plan, stages: SaeStages, coded: Callable[[SaePlan], Coded]
) -> TransferInputs:
    """The domains of the texts of one SAE, and all of them."""
    settings = plan.study.settings
    weights = stages.site.acts.d_model + int(settings.fit_bias)
    least = LEAST_TOKENS * weights
    labels = labels_of(plan.contexts, settings.skip_positions, least, plan.partition.folds)
    if len(labels.names) < 2:
        raise DataError(
            f"The texts have no two domains of {least:,} training tokens or more, which a map of {weights:,} weights a dimension "
            "needs: name texts of several sources, or more of them."
        )
    about = {name: asked.records[0][name] for name in MEMBER}
    sizes = zip(labels.names, labels.n_tokens, labels.n_contexts, strict=True)
    members = [{**about, "name": name, "n_tokens": n, "n_contexts": c} for name, n, c in sizes]
    members.append({**about, "name": ALL_TEXTS})
    places = TextPlaces(coded(asked.saes[0]), labels, plan.partition, settings.skip_positions, stages.device)
    said = (labels.said,) if labels.said else ()
    return TransferInputs(places, tuple(members), settings, plan.study.seed, asked.by, said)


def _between_saes(
    asked: TransferAsked, plan: Plan, stages: SaeStages, coded: Callable[[SaePlan], Coded]
) -> TransferInputs:
    """SAEs of one site or of several."""
    if len(asked.saes) < 2:
        raise DataError(
            f"The study has one SAE with a result to compare {BY[asked.by]}: add others and sweep them first."
        )
    settings = plan.study.settings
    members = tuple({"name": one["sae"], **{name: one[name] for name in MEMBER}} for one in asked.records)
    sites = tuple(one.sae.hook for one in asked.saes)
    saes = tuple(coded(one) for one in asked.saes)
    places = SaePlaces(saes, sites, plan.partition, settings.skip_positions, stages.device)
    return TransferInputs(places, members, settings, plan.study.seed, asked.by)
