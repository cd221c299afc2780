"""Where pages find what was planted and looked for: in an SAE of a study, and in activations of known features."""

from __future__ import annotations

import math

from dmcore.errors import StoreError
from dmcore.places import SHIPPED_CACHE
from dmcore.results.synthetic import GROUND_TRUTH, SYNTHETIC, VERSION, GroundTruth, Planted, ground_truth_spec
from dmcore.store.fingerprint import content_key
from dmcore.store.manifest import read_manifest
from dmcore.store.store import Entry, Store

SHIPPED = SHIPPED_CACHE
"""The cache that came with the package: known features are of no study, so that another cache need not make them again."""


def find_planted(store: Store, summary_key: str) -> Planted | None:
    """The experiment on the SAE with this summary, on the most contexts, of several the newest; None if it was not made."""
    best: tuple[tuple[float, str], Entry] | None = None
    for folder in (store.root / SYNTHETIC).glob("*"):
        try:
            spec = read_manifest(folder).spec
        except StoreError:
            continue
        if spec.get("summary") != summary_key or spec.get("version") != VERSION:
            continue
        entry = store.find(SYNTHETIC, folder.name)
        if entry is not None:
            size = (int(spec["contexts"]) or math.inf, entry.manifest.created)
            best = (size, entry) if best is None or best[0] < size else best
    return None if best is None else Planted.read(best[1].path)


def find_ground_truth(store: Store) -> GroundTruth | None:
    """The experiment on known features, in this store or among what is shipped; None if it is in neither."""
    key = content_key(ground_truth_spec())
    shipped = Store(SHIPPED)
    for place in (store, shipped) if store.root != shipped.root else (store,):
        entry = place.find(GROUND_TRUTH, key)
        if entry is not None:
            return GroundTruth.read(entry.path)
    return None
