"""What the cache holds, by study and stage, and deleting from it without pulling anything from under a running job.

1. An entry belongs to a study if the study's index leads to it: index -> summaries -> whatever their specs name, and on.
2. An entry that no index leads to (an unfinished sweep's) belongs to the studies of what it was made from, or to none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from dmcore.errors import StoreError
from dmcore.store.published import INDEX
from dmcore.store.shipped import is_shipped
from dmcore.store.store import Entry, Store


@dataclass(frozen=True)
class Holding:
    """An entry of the cache and whose it is."""

    entry: Entry
    studies: frozenset[str]
    """Names of the studies that use it; empty where no study is known to."""
    shipped: bool
    """Whether it came with the app: deleting it would change the checkout."""

    @property
    def stage(self) -> str:
        """Its stage: activations, codes, summary, ..."""
        return self.entry.manifest.stage

    @property
    def size(self) -> int:
        """Bytes."""
        return self.entry.manifest.size


def holdings(store: Store) -> list[Holding]:
    """Every complete entry, with its studies."""
    entries = {e.key: e for e in store.entries() if isinstance(e, Entry)}
    made_of = {key: _names(entry.manifest.spec) & entries.keys() for key, entry in entries.items()}
    owners: dict[str, set[str]] = {key: set() for key in entries}
    for key, entry in entries.items():
        if entry.manifest.stage == INDEX:
            study = str(entry.manifest.spec.get("name", ""))
            owners[key].add(study)
            for reached in _reach(_summaries(entry) & entries.keys(), made_of):
                owners[reached].add(study)
    orphans = [key for key in entries if not owners[key]]
    adopted = {key: {s for part in _reach(made_of[key], made_of) for s in owners[part]} for key in orphans}
    return [
        Holding(entry, frozenset(owners[key] or adopted[key]), is_shipped(store, entry))
        for key, entry in entries.items()
    ]


def in_use(held: Iterable[Holding], running: Collection[str]) -> list[Holding]:
    """Those that the jobs of the studies `running` may need: theirs, and those of nobody, which may be theirs."""
    return [h for h in held if running and (not h.studies or h.studies & set(running))]


def delete_holdings(store: Store, chosen: Sequence[Holding], running: Collection[str]) -> int:
    """Delete entries; returns the bytes freed.

    Args:
        chosen: what to delete.
        running: studies with a job that waits or runs.

    Raises:
        StoreError: a job may need one of them, or one came with the app; nothing was deleted.
    """
    if in_use(chosen, running):
        raise StoreError("A job that waits or runs may need some of this: wait for it, or cancel it, then delete.")
    if any(h.shipped for h in chosen):
        raise StoreError("Some of this came with the app: choose other stages, or another study.")
    freed = 0
    for holding in chosen:
        if holding.entry.path.exists():
            store.remove(holding.entry)
            freed += holding.size
    return freed


def _reach(start: Iterable[str], made_of: dict[str, set[str]]) -> set[str]:
    """The keys of `start` and everything that they were made of."""
    reached: set[str] = set()
    waiting = list(start)
    while waiting:
        key = waiting.pop()
        if key not in reached:
            reached.add(key)
            waiting.extend(made_of[key])
    return reached


def _names(spec: Any) -> set[str]:
    """Every text in a spec, at any depth: keys of other entries are among them."""
    if isinstance(spec, dict):
        return {name for value in spec.values() for name in _names(value)}
    if isinstance(spec, list):
        return {name for value in spec for name in _names(value)}
    return {spec} if isinstance(spec, str) else set()


def _summaries(index: Entry) -> set[str]:
    try:
        return set(pl.read_parquet(index.path / "records.parquet", columns=["summary_key"])["summary_key"])
    except (OSError, pl.exceptions.PolarsError):
        return set()
