"""Checkpoints of a training: tensors as safetensors, the rest as JSON, in a folder that appears whole or not at all."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dmcore.errors import StoreError
from dmcore.store.disk import disk_words, full_words, is_full

if TYPE_CHECKING:
    import torch


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn the failures of the disk of a folder into sentences.

    Raises:
        StoreError: it is full, or may not be written.
    """
    try:
        yield
    except OSError as error:
        if is_full(error):
            message = full_words(folder, error).replace("finished work is kept", "the last checkpoint is kept")
        elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            message = f"{folder} cannot be written: give a study in a folder that can."
        else:
            message = disk_words(error, folder) or ""
        if not message:
            raise
        raise StoreError(message) from error


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
    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        _save_file(save_file, kept, fresh / "t.safetensors")
        write_json(fresh / "state.json", state)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    fresh.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def _save_file(save_file: Callable[..., None], tensors: dict[str, torch.Tensor], path: Path) -> None:
    """safetensors wraps what the disk says in an error of its own; this gives it back as an `OSError`."""
    from safetensors import SafetensorError

    try:
        save_file(tensors, path)
    except SafetensorError as error:
        if is_full(error):
            raise OSError(errno.ENOSPC, str(error)) from error
        raise


def drop_checkpoint(folder: Path) -> None:
    """Delete the checkpoint and what its replacement may have left."""
    for suffix in ("", ".old", ".tmp"):
        shutil.rmtree(folder.with_name(folder.name + suffix), ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], dict] | None:
    """The checkpoint in `folder` (or the one that it was replacing when its writer was killed); None if there is none."""
    from safetensors.torch import load_file

    found = _complete(folder)
    return None if found is None else (load_file(found / "t.safetensors"), read_json(found / "state.json"))


def read_state(folder: Path) -> dict | None:
    """The state of the checkpoint that `load_checkpoint` would give, without its tensors."""
    found = _complete(folder)
    return None if found is None else read_json(found / "state.json")


def _complete(folder: Path) -> Path | None:
    for candidate in (folder, folder.with_name(folder.name + ".old")):
        if (candidate / "state.json").exists():
            return candidate
    return None


def publish(source: Path, target: Path) -> None:
    """Move a finished folder into its place, replacing what is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    source.replace(target)
