"""The features of an SAE, to be browsed: of one that the study names, or of those on the parts of its base's error.

1. The SAE's codes and split, made where they are missing (a clone may hold summaries alone).
2. The site's widest SAE, and for an SAE on a part its base, to say which latents are known there.
3. The index (`analysis.feature_index`), in an entry that a page finds by the keys of summaries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from dmcore.analysis.feature_index import BASE, WIDEST, FeatureSources, feature_index
from dmcore.analysis.split_pass import TOKENS
from dmcore.errors import StoreError
from dmcore.math.neighbours import DecoderRows
from dmcore.results import FEATURES, RECORD, features_spec, read_record, widest_of
from dmcore.run.parts import PartPlan
from dmcore.run.plan import Plan, SaePlan
from dmcore.run.sae_stages import AnyDictionary, SaeStages
from dmcore.run.scale import vocabulary_of
from dmcore.sources.public_features import public_name
from dmcore.sources.unembedding import unembedding, writes_to_residual
from dmcore.store.fingerprint import content_key
from dmcore.store.published import SUMMARY
from dmcore.store.store import Entry, Store


@dataclass(frozen=True)
class Whose:
    """Whose features are made."""

    sae: SaePlan
    """The SAE, or the base of an SAE on a part."""
    part: PartPlan | None = None
    """The SAE on a part of its error; None for the SAE itself."""


def widest_plan(plan: Plan, store: Store, sae: SaePlan) -> SaePlan | None:
    """The widest SAE with results at the site of another, if that is another one.

    Raises:
        StoreError: the SAE itself has no result.
    """
    there = [(p, entry) for p in plan.saes if (entry := store.find(SUMMARY, p.summary_key)) is not None]
    if sae.summary_key not in {p.summary_key for p, _ in there}:
        raise StoreError(f"The SAE {sae.sae.name} has no result yet: sweep the study first.")
    records = pl.DataFrame([read_record(entry.path) for _, entry in there], schema=RECORD)
    key = widest_of(records, sae.summary_key)
    return next((p for p, _ in there if p.summary_key == key), None)


def spec_of(whose: Whose, widest: SaePlan | None) -> dict[str, object]:
    """The spec of the entry."""
    part = content_key(whose.part.spec) if whose.part else None
    return features_spec(whose.sae.summary_key, widest.summary_key if widest else None, part)


def find_features(store: Store, whose: Whose, widest: SaePlan | None) -> Entry | None:
    """The entry, if it is there."""
    return store.find(FEATURES, content_key(spec_of(whose, widest)))


def make_features(
    stages: SaeStages,
    whose: Whose,
    widest: SaePlan | None,
    load: Callable[[SaePlan | PartPlan], AnyDictionary],
    part_codes: Path | None = None,
) -> Entry:
    """Make the features of an SAE.

    Args:
        stages: of the SAE's site.
        whose: which.
        widest: the site's widest SAE, if it is another one.
        load: opens an SAE.
        part_codes: folder of the codes of an SAE on a part.

    Raises:
        DataError: a decoder row, or the table of tokens, holds NaN or infinity.
    """
    plan, store = stages.plan, stages.store
    base = load(whose.sae)
    codes, split = stages.codes_and_split(whose.sae, base)
    own = base if whose.part is None else load(whose.part)
    others = {} if whose.part is None else {BASE: base}
    if widest is not None:
        others[WIDEST] = load(widest)
    directions = {
        name: DecoderRows(sae.d_sae, sae.decoder_rows)
        for name, sae in others.items()
        if sae.decoder_rows(0, 1) is not None
    }
    sources = FeatureSources(
        codes=codes.path if part_codes is None else part_codes,
        d_sae=own.d_sae,
        contexts=plan.contexts,
        skip_positions=plan.study.settings.skip_positions,
        tokens=split.path / TOKENS,
        rows=own.decoder_rows,
        others=directions,
        unembedding=unembedding(plan.study) if writes_to_residual(whose.sae.sae.hook) else None,
        vocabulary=vocabulary_of(plan.study),
        seed=plan.study.seed,
        public=public_name(plan.study, whose.sae.sae) if whose.part is None else "",
    )

    def make(folder: Path) -> None:
        feature_index(sources, folder, stages.reporter)

    return store.get_or_make(FEATURES, spec_of(whose, widest), make)
