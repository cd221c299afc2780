"""Whether the linear part of an SAE's error is undone shrinkage: from its codes, in an entry found by its summary."""

from __future__ import annotations

from pathlib import Path

from dmcore.analysis.reduction_passes import Coded, TokenSources
from dmcore.analysis.shrinkage import ShrinkageInputs, shrinkage
from dmcore.results.shrinkage import SHRINKAGE, shrinkage_spec
from dmcore.run.plan import SaePlan
from dmcore.run.sae_stages import AnyDictionary, SaeStages
from dmcore.store.fingerprint import content_key
from dmcore.store.store import Entry, Store


def find_shrinkage(store: Store, sae: SaePlan) -> Entry | None:
    """The entry, if it is there."""
    return store.find(SHRINKAGE, content_key(shrinkage_spec(sae.summary_key)))


def make_shrinkage(stages: SaeStages, sae: SaePlan, dictionary: AnyDictionary) -> Entry:
    """Fit the ladder.

    Args:
        stages: of the SAE's site.
        sae: whose error.
        dictionary: its weights.

    Raises:
        DataError: too few tokens for a linear map.
    """
    plan = stages.plan

    def make(folder: Path) -> None:
        codes, _ = stages.codes_and_split(sae, dictionary)
        own = Coded(stages.site.acts, dictionary, codes.path)
        sources = TokenSources(own, {}, plan.partition, plan.study.settings.skip_positions, stages.device)
        given = ShrinkageInputs(sources, plan.study.settings, plan.study.seed)
        shrinkage(given, folder, stages.reporter, sae.sae.name)

    return stages.store.get_or_make(SHRINKAGE, shrinkage_spec(sae.summary_key), make)
