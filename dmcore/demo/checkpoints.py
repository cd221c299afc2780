"""Checkpoints of a build: tensors as safetensors, the rest as JSON, in a folder that appears whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def write_json(path: Path, value: object) -> None:
    """Write a JSON file by atomic rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> dict:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def save_checkpoint(folder: Path, tensors: dict[str, torch.Tensor], state: dict[str, object]) -> None:
    """Replace the checkpoint in `folder`; what was there stays valid until the new one is complete."""
    from safetensors.torch import save_file

    fresh, old = folder.with_name(folder.name + ".tmp"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    # A clone of each, since safetensors refuses tensors that share memory.
    save_file(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, fresh / "t.safetensors"
    )
    write_json(fresh / "state.json", state)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    fresh.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], dict] | None:
    """The checkpoint in `folder` (or the one that it was replacing when the build was killed); None if there is none."""
    from safetensors.torch import load_file

    for candidate in (folder, folder.with_name(folder.name + ".old")):
        if (candidate / "state.json").exists():
            return load_file(candidate / "t.safetensors"), read_json(candidate / "state.json")
    return None


def publish(source: Path, target: Path) -> None:
    """Move a finished folder into its place, replacing what is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    source.replace(target)
