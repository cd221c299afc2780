"""The local Hugging Face cache, read as folders: what is already on disk, without importing its library or any network.

Layout: `<cache>/models--owner--name/snapshots/<commit>/<path in the repository>`.
"""

from __future__ import annotations

import os
from pathlib import Path

WEIGHTS = (".npz", ".safetensors", ".pt", ".pth", ".bin")
"""Endings of files that hold weights; a configuration alone does not make an SAE."""


def hub_folder() -> Path:
    """Where the Hugging Face library keeps downloads: `$HF_HUB_CACHE`, `$HF_HOME/hub`, or `~/.cache/huggingface/hub`."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.environ[name]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    return Path(home).expanduser() / "hub"


def snapshots(repo_id: str) -> list[Path]:
    """Folders of a repository's downloaded commits, newest first; empty where there are none."""
    if not repo_id or ".." in repo_id:
        return []
    folder = hub_folder() / f"models--{repo_id.replace('/', '--')}" / "snapshots"
    try:
        found = [path for path in folder.iterdir() if path.is_dir()]
        return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        return []


def cached_file(repo_id: str, name: str) -> Path | None:
    """A downloaded file of a repository; None if it is not there. A link to a deleted blob is not there."""
    return next((path for folder in snapshots(repo_id) if (path := folder / name).is_file()), None)


def cached_weights(repo_id: str) -> set[str]:
    """Paths in a repository that are on disk: files of weights, and every folder that has one directly in it."""
    found: set[str] = set()
    for snapshot in snapshots(repo_id):
        for folder, _, files in os.walk(snapshot):
            held = [name for name in files if name.endswith(WEIGHTS) and (Path(folder) / name).exists()]
            if held:
                inside = Path(folder).relative_to(snapshot)
                found.add(inside.as_posix())
                found |= {(inside / name).as_posix() for name in held}
    return found
