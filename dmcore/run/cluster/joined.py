"""Shards put together again: activations and codes one after the other, moments added up in a tree."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from dmcore.analysis.activations import ACTS, META
from dmcore.analysis.codes import NpyAppender
from dmcore.math.moments import InputMoments, TargetMoments

FAN_IN = 8
"""Shards whose moments one task adds up; more of them are added by tasks that come before it."""
ROWS_AT_ONCE = 2**16

CODE_FILES = ("latents", "values", "counts")


class Additive(Protocol):
    """What merges by `+`."""

    def __add__(self, other: Addend) -> Addend: ...  # type: ignore[misc]


Addend = TypeVar("Addend", bound="Additive")


def tree_sum(parts: Sequence[Addend]) -> Addend:
    """The sum of some parts, neighbours first: its order depends on their number alone."""
    level = list(parts)
    while len(level) > 1:
        paired = [left + right for left, right in zip(level[::2], level[1::2], strict=False)]
        level = [*paired, *level[2 * len(paired) :]]
    return level[0]


def join_activations(folders: Sequence[Path], folder: Path) -> None:
    """Write the activations of consecutive shards as those of one capture."""
    abouts = [json.loads((one / META).read_text(encoding="utf-8")) for one in folders]
    mapped = [np.load(one / ACTS, mmap_mode="r", allow_pickle=False) for one in folders]
    shape = (sum(len(array) for array in mapped), *mapped[0].shape[1:])
    whole, row = np.lib.format.open_memmap(folder / ACTS, mode="w+", dtype=mapped[0].dtype, shape=shape), 0
    for array in mapped:
        for first in range(0, len(array), ROWS_AT_ONCE):
            rows = array[first : first + ROWS_AT_ONCE]
            whole[row : row + len(rows)] = rows
            row += len(rows)
    whole.flush()
    about = {**abouts[0], "n_contexts": sum(one["n_contexts"] for one in abouts)}
    (folder / META).write_text(json.dumps(about), encoding="utf-8")


def join_codes(folders: Sequence[Path], folder: Path) -> None:
    """Write the codes of consecutive shards as those of one pass."""
    for name in CODE_FILES:
        mapped = [np.load(one / f"{name}.npy", mmap_mode="r", allow_pickle=False) for one in folders]
        _append_all(NpyAppender(folder / f"{name}.npy", mapped[0].dtype, mapped[0].shape[1:]), mapped)
    contexts, begun = NpyAppender(folder / "contexts.npy", np.int64), 0
    contexts.append(np.zeros(1))
    for one in folders:
        ends = np.load(one / "contexts.npy", allow_pickle=False)[1:] + begun
        contexts.append(ends)
        begun = int(ends[-1])
    contexts.close()


def _append_all(appender: NpyAppender, arrays: Sequence[np.ndarray]) -> None:
    for array in arrays:
        for first in range(0, len(array), ROWS_AT_ONCE):
            appender.append(array[first : first + ROWS_AT_ONCE])
    appender.close()


def packed_targets(moments: TargetMoments) -> dict[str, np.ndarray]:
    """Moments as arrays, to be sent to another node."""
    return {"cross": moments.cross.cpu().numpy(), "target_sq": moments.target_sq.cpu().numpy()}


def unpacked_targets(arrays: dict[str, np.ndarray]) -> TargetMoments:
    """What `packed_targets` packed."""
    n_cells, d_in_1, d_target = arrays["cross"].shape
    moments = TargetMoments(n_cells, d_in_1 - 1, d_target)
    moments.cross, moments.target_sq = _tensor(arrays["cross"]), _tensor(arrays["target_sq"])
    return moments


def packed_inputs(moments: InputMoments) -> dict[str, np.ndarray]:
    """Moments as arrays, to be sent to another node."""
    return {"gram": moments.gram.cpu().numpy(), "shift": moments.shift.cpu().numpy()}


def unpacked_inputs(arrays: dict[str, np.ndarray]) -> InputMoments:
    """What `packed_inputs` packed."""
    moments = InputMoments(len(arrays["gram"]), _tensor(arrays["shift"]))
    moments.gram = _tensor(arrays["gram"])
    return moments


def _tensor(array: np.ndarray) -> Tensor:
    # What has come from another process cannot be written to, which torch warns of.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def added(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The sum of packed moments, of x or of an SAE's error, as `tree_sum` adds them."""
    if "gram" in parts[0]:
        return packed_inputs(tree_sum([unpacked_inputs(part) for part in parts]))
    return packed_targets(tree_sum([unpacked_targets(part) for part in parts]))
