"""For which SAEs a closer look has been made: read from the manifests of a stage, without opening what was made."""

from __future__ import annotations

from dmcore.errors import StoreError
from dmcore.store.manifest import read_manifest
from dmcore.store.store import Store


def summaries_with(store: Store, stage: str) -> set[str]:
    """Keys of the summaries that finished entries of a stage were made from."""
    found = set()
    for folder in (store.root / stage).glob("*"):
        try:
            found.add(str(read_manifest(folder).spec.get("summary", "")))
        except StoreError:
            continue
    return found
