"""Which entries of a cache came with the program: those that `cache/shipped.txt` lists, in the checkout's own cache."""

from __future__ import annotations

from functools import lru_cache

from dmcore.places import SHIPPED_CACHE
from dmcore.store.store import Entry, Store

LIST = SHIPPED_CACHE / "shipped.txt"


@lru_cache(maxsize=1)
def shipped_names() -> frozenset[str]:
    """`stage/key` of each; none where the list is missing."""
    try:
        return frozenset(LIST.read_text(encoding="utf-8").split())
    except OSError:
        return frozenset()


def is_shipped(store: Store, entry: Entry) -> bool:
    """Whether an entry of this store came with the program: its deletion would change the checkout."""
    return store.root == SHIPPED_CACHE and f"{entry.manifest.stage}/{entry.manifest.key}" in shipped_names()
