"""The structure of the error of an SAE that the study names: from its codes and split, in an entry found by its summary."""

from __future__ import annotations

from pathlib import Path

from dmcore.analysis.structure import StructureInputs, structure
from dmcore.results import STRUCTURE, structure_spec
from dmcore.run.plan import SaePlan
from dmcore.run.sae_stages import AnyDictionary, SaeStages
from dmcore.run.scale import vocabulary_of
from dmcore.store.fingerprint import content_key
from dmcore.store.store import Entry, Store


def find_structure(store: Store, sae: SaePlan) -> Entry | None:
    """The entry, if it is there."""
    return store.find(STRUCTURE, content_key(structure_spec(sae.summary_key)))


def make_structure(stages: SaeStages, sae: SaePlan, dictionary: AnyDictionary) -> Entry:
    """Take the error of an SAE apart.

    Args:
        stages: of the SAE's site.
        sae: whose error.
        dictionary: its weights.

    Raises:
        DataError: the table of tokens cannot be read, or does not fit.
    """
    plan = stages.plan

    def make(folder: Path) -> None:
        of_error = vars(stages.norm_test_inputs(sae, dictionary))
        given = StructureInputs(**of_error, contexts=plan.contexts, vocabulary=vocabulary_of(plan.study))
        structure(given, folder, stages.reporter, sae.sae.name)

    return stages.store.get_or_make(STRUCTURE, structure_spec(sae.summary_key), make)
