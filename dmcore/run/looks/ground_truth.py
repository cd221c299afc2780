"""The entry of known features: made once for all studies, from a seed alone, so that the shipped one is found by its spec."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from dmcore.analysis.ground_truth import Size, ground_truth, n_made
from dmcore.progress import Reporter
from dmcore.results.synthetic import (
    GROUND_TRUTH,
    GROUND_TRUTH_TABLES,
    GroundTruth,
    ground_truth_spec,
    synthetic_table,
)
from dmcore.store.store import Store
from dmcore.training.known_features import Training, trained_rows


def make_ground_truth(
    store: Store, reporter: Reporter, size: Size | None = None, training: Training | None = None
) -> GroundTruth:
    """What the estimates find of known features, made where it is not there; a few minutes of one core.

    Args:
        store: where it is kept.
        reporter: told of progress; may cancel.
        size, training: how much is made; None for the usual, which pages read.
    """
    size, training = size or Size(), training or Training()
    changed = size.changes | ({"training": asdict(training)} if training != Training() else {})

    def make(folder: Path) -> None:
        with reporter.stage("known features", n_made(size), "tokens") as stage:
            settings, components = ground_truth(size, stage)
        with reporter.stage("SAEs trained on known features", 0, "tokens") as stage:
            trained = trained_rows(size, training, stage)
        tables = {"settings": settings, "components": components, "trained": trained}
        about = asdict(size) | {"training_tokens": training.tokens, "trained_truth_tokens": training.truth_tokens}
        GroundTruth.write(
            folder, about, {name: synthetic_table(GROUND_TRUTH_TABLES[name], rows) for name, rows in tables.items()}
        )

    return GroundTruth.read(store.get_or_make(GROUND_TRUTH, ground_truth_spec(changed), make).path)
