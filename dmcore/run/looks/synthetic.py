"""Errors planted in what an SAE of a study makes, and looked for: from its codes, in an entry found by its summary."""

from __future__ import annotations

from pathlib import Path

from dmcore.analysis.planted import planted
from dmcore.results.synthetic import SYNTHETIC, PlantedSettings, planted_spec
from dmcore.run.plan import SaePlan
from dmcore.run.sae_stages import AnyDictionary, SaeStages
from dmcore.store.fingerprint import content_key
from dmcore.store.store import Entry, Store


def find_synthetic(store: Store, sae: SaePlan, asked: PlantedSettings) -> Entry | None:
    """The entry, if it is there."""
    return store.find(SYNTHETIC, content_key(planted_spec(sae.summary_key, asked)))


def make_synthetic(stages: SaeStages, sae: SaePlan, dictionary: AnyDictionary, asked: PlantedSettings) -> Entry:
    """Plant errors in what an SAE makes, and look for them.

    Args:
        stages: of the SAE's site.
        sae: which SAE.
        dictionary: its weights.
        asked: on how many contexts estimates are made.

    Raises:
        DataError: too few tokens for the linear map, or the SAE makes no error.
    """

    def make(folder: Path) -> None:
        given = stages.norm_test_inputs(sae, dictionary)
        planted(given, asked, folder, stages.reporter, sae.sae.name, stages.site.hook)

    return stages.store.get_or_make(SYNTHETIC, planted_spec(sae.summary_key, asked), make)
