"""The cache of a sweep on a node, where nodes share a storage and no folder: one for all processes of that sweep there.

Each of them holds it; when the last has ended, killed or not, it is deleted by the next sweep that comes to the node, or by the
driver as it leaves. Nothing is lost with it: what is in it is in the storage.
"""

from __future__ import annotations

from pathlib import Path

from dmcore.run.cluster.held import Hold, remove_unheld
from dmcore.run.cluster.weights import node_folder

CACHE = "cache-"


def node_cache(session: str) -> tuple[Path, Hold]:
    """The folder of a sweep on this node, and what keeps it; those of sweeps that have ended are deleted."""
    folder = node_folder() / f"{CACHE}{session}"
    hold = Hold(folder)
    folder.mkdir(mode=0o700, exist_ok=True)
    sweep_caches()
    return folder, hold


def sweep_caches() -> list[Path]:
    """Delete the caches that no process uses any more; returns them."""
    return [path for path in sorted(node_folder().glob(f"{CACHE}*")) if path.is_dir() and remove_unheld(path)]
