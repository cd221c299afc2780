"""Weights on a node: an SAE's files are brought there once, whichever of its processes come first, and kept by fingerprint.

1. A folder that the node sees on a disk of its own is read where it is.
2. One on a file system of the network is copied to the node's own disk, under a lock; the other processes find the copy.
3. One that the node does not see comes through Ray's object store, where the driver puts each file once.
4. Who reads a copy holds it: none gives way to another while it is read, however long that takes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from filelock import FileLock

from dmcore.errors import SpecError, StoreError
from dmcore.run.cluster.held import Hold, remove_unheld
from dmcore.sources.sae_layouts import folder_fingerprint, layout_files
from dmcore.specs import SaeSpec, Study

ROOT_VARIABLE = "DMCORE_NODE_CACHE"
"""Environment variable of a node: the folder on its own disk for what it fetches."""
STALE_SECONDS = 3600.0
"""Copies that nobody has asked for in this time give way when the disk gets full."""
LEAST_FREE = 0.1
"""Share of the disk that is to stay free."""

Files = Mapping[str, np.ndarray]
"""Bytes of each file of a folder, by name."""


def node_folder() -> Path:
    """The folder on this node's own disk, of this user alone.

    Raises:
        StoreError: it belongs to somebody else.
    """
    asked = os.environ.get(ROOT_VARIABLE)
    folder = Path(asked) if asked else Path(tempfile.gettempdir()) / f"dmcore-node-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not asked and (folder.is_symlink() or folder.stat().st_uid != os.getuid()):
        raise StoreError(f"{folder} belongs to somebody else: set {ROOT_VARIABLE} to a folder on each node's own disk.")
    return folder


def local_sae(
    study: Study, sae: SaeSpec, fingerprint: str, sent: Callable[[], Files | None], holds: list[Hold]
) -> SaeSpec:
    """An SAE whose folder is on this node; as it is, where it comes from a release or is an object.

    Args:
        study, sae: which.
        fingerprint: of its files.
        sent: gives the files where this node does not see them.
        holds: is given what keeps the copy, to be released when the SAE is no longer read.

    Raises:
        SpecError: the node neither sees the files nor is sent them, or they have changed.
    """
    if not sae.path:
        return sae
    folder = study.resolve(sae.path)
    seen = folder.is_dir()
    if seen and _same_disk(folder, node_folder()):
        return sae
    target = fetched(
        fingerprint,
        (lambda to: copy_files(folder, to)) if seen else lambda to: write_files(sent(), to, sae.name),
        holds,
    )
    return replace(sae, path=str(target))


def _same_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def fetched(fingerprint: str, fetch: Callable[[Path], None], holds: list[Hold]) -> Path:
    """The folder of a fingerprint on this node; `fetch` fills it if nobody has yet, and its files must have that fingerprint.

    `holds` is given what keeps it.
    """
    root = node_folder() / "weights"
    root.mkdir(mode=0o700, exist_ok=True)
    target = root / fingerprint
    holds.append(Hold(target))
    with FileLock(root / f"{fingerprint}.lock"):
        if not target.is_dir():
            make_room(root)
            draft = root / f"{fingerprint}.partial"
            hold = Hold(draft)  # it may take long
            try:
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir()
                fetch(draft)
                if folder_fingerprint(draft) != fingerprint:
                    shutil.rmtree(draft)
                    raise SpecError("The files of an SAE have changed since the sweep began: run it again.")
                draft.replace(target)
            finally:
                hold.release()
        os.utime(target)
    return target


def copy_files(folder: Path, to: Path) -> None:
    """Copy what an SAE consists of."""
    for name in layout_files(folder):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, to / name)


def write_files(files: Files | None, to: Path, name: str) -> None:
    """Write files that were sent."""
    if files is None:
        raise SpecError(f"A node does not see the folder of the SAE {name}: put it where all nodes see it.")
    for relative, content in files.items():
        (to / relative).parent.mkdir(parents=True, exist_ok=True)
        (to / relative).write_bytes(memoryview(content))


def read_files(folder: Path) -> dict[str, np.ndarray]:
    """The files of an SAE, to be put into the object store."""
    return {name: np.fromfile(folder / name, dtype=np.uint8) for name in layout_files(folder)}


def make_room(root: Path) -> None:
    """Delete the copies that have not been used for longest and that nobody reads, while the disk is nearly full."""
    copies = sorted((path for path in root.iterdir() if path.is_dir()), key=_used)
    for path in copies:
        usage = shutil.disk_usage(root)
        if usage.free >= LEAST_FREE * usage.total or time.time() - _used(path) < STALE_SECONDS:
            return
        remove_unheld(path)


def _used(path: Path) -> float:
    """When a copy was last asked for; of one that another process has just deleted, now."""
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()
