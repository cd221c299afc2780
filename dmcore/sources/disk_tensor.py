"""Tensors in safetensors and npz files, read in slices: no part of a file is mapped, so only what is asked for takes memory.

1. A safetensors file opens with the length of a JSON header that gives the type, shape and place of each tensor.
2. An npz file is a zip; NumPy's `savez` stores its members as they are, so an array is at a fixed place in the file. A
   compressed member has no such place and is refused, with the remedy.
3. A slice of rows is one read; a slice of columns is one read a row.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from dmcore.errors import SpecError

SAFETENSORS_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of weights that are read."""
WHOLE_NUMBERS = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"}
"""Types of tensors that are no weights (counters, masks, packed numbers): they are passed over."""
LARGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class DiskTensor:
    """A tensor with one or two axes in a file, in row-major order."""

    path: Path
    start: int
    """Byte at which it begins."""
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """All of it."""
        out = torch.empty(self.shape, dtype=self.dtype)
        with self.path.open("rb", buffering=0) as file:
            self._fill(file.fileno(), out, self.start)
        return out

    def rows(self, first: int, last: int) -> Tensor:
        """(last - first, ...) rows of it."""
        out = torch.empty((last - first, *self.shape[1:]), dtype=self.dtype)
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        with self.path.open("rb", buffering=0) as file:
            self._fill(file.fileno(), out, self.start + first * row_bytes)
        return out

    def columns(self, first: int, last: int) -> Tensor:
        """(n_rows, last - first) columns of a tensor with two axes."""
        n_rows, n_columns = self.shape
        out = torch.empty(n_rows, last - first, dtype=self.dtype)
        item = self.dtype.itemsize
        with self.path.open("rb", buffering=0) as file:
            for row in range(n_rows):
                self._fill(file.fileno(), out[row], self.start + (row * n_columns + first) * item)
        return out

    def _fill(self, file: int, out: Tensor, offset: int) -> None:
        if not out.numel():
            return
        view = memoryview(
            out.view(torch.uint8).numpy() if out.dim() else out.reshape(1).view(torch.uint8).numpy()
        ).cast("B")
        done = 0
        while done < len(view):
            got = os.preadv(file, [view[done:]], offset + done)
            if got == 0:
                raise SpecError(f"{self.path} ends too early: copy or download it again.")
            done += got


def safetensors_header(path: Path, *, others: bool = False) -> dict[str, DiskTensor]:
    """The weights of a safetensors file, by name.

    Args:
        path: of the file.
        others: whether tensors of floating types that are not read here are passed over, too, instead of refused.

    Raises:
        SpecError: the file is missing, is no safetensors file, is cut short, or holds weights of a type that is not read.
    """
    start, header = _header(path)
    passed = WHOLE_NUMBERS if not others else {about["dtype"] for about in header.values()} - set(SAFETENSORS_TYPES)
    found: dict[str, DiskTensor] = {}
    for name, about in header.items():
        if about["dtype"] in passed:
            continue
        if about["dtype"] not in SAFETENSORS_TYPES:
            raise SpecError(
                f"{path} holds {name} as {about['dtype']}, which is not read: save it as float32, float16 or bfloat16."
            )
        found[name] = _safetensor(path, start, about)
    size = path.stat().st_size
    for tensor in found.values():
        if tensor.start + tensor.nbytes > size:
            raise SpecError(f"{path} is cut short: copy or download it again.")
    return found


def whole_numbers(path: Path) -> set[str]:
    """Names of the tensors of a safetensors file that are no weights."""
    return {name for name, about in _header(path)[1].items() if about["dtype"] in WHOLE_NUMBERS}


def _header(path: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Byte at which the tensors begin; what the header says of each: dtype, shape, data_offsets.

    Raises:
        SpecError: the file is missing, or is no safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(LARGEST_HEADER, size - 8):
                raise ValueError("its header has an impossible length")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for about in header.values():
            first, last = (int(offset) for offset in about["data_offsets"])
            shape = [int(n) for n in about["shape"]]
            if not isinstance(about["dtype"], str):
                raise TypeError("the type of a tensor is no name")
            kind = SAFETENSORS_TYPES.get(about["dtype"])
            agree = kind is None or math.prod(shape) * kind.itemsize == last - first
            if first < 0 or min(shape, default=0) < 0 or not agree:
                raise ValueError("the place and the shape of a tensor do not agree")
    except OSError as error:
        raise SpecError(f"Cannot read {path} ({error.strerror}): check the path.") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise SpecError(f"{path} is not a safetensors file of weights ({error}): copy or download it again.") from error
    return 8 + length, header


def _safetensor(path: Path, data: int, about: dict[str, Any]) -> DiskTensor:
    shape = tuple(int(size) for size in about["shape"])
    return DiskTensor(path, data + int(about["data_offsets"][0]), SAFETENSORS_TYPES[about["dtype"]], shape)


def npz_arrays(path: Path) -> dict[str, DiskTensor]:
    """The arrays of an uncompressed npz file, by name.

    Raises:
        SpecError: the file is missing, is no npz file of numbers, or is compressed.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            arrays = {m.filename.removesuffix(".npy"): _npz_member(path, file, m) for m in archive.infolist()}
            return {name: array for name, array in arrays.items() if array is not None}
    except OSError as error:
        raise SpecError(f"Cannot read {path} ({error.strerror}): check the path.") from error
    except SpecError:
        raise
    except (zipfile.BadZipFile, ValueError, KeyError, TokenError, struct.error, NotImplementedError) as error:
        raise SpecError(f"{path} is not an npz file of weights ({error}): copy or download it again.") from error


def _npz_member(path: Path, file: BinaryIO, member: zipfile.ZipInfo) -> DiskTensor | None:
    """An array; None for one of whole numbers, which are no weights."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise SpecError(f"{path} is compressed: save it again with numpy.savez, so that it can be read in slices.")
    # The local header repeats the name and may have extra fields of its own length: 30 bytes, then these two.
    file.seek(member.header_offset + 26)
    name_length, extra_length = (int.from_bytes(file.read(2), "little") for _ in range(2))
    file.seek(member.header_offset + 30 + name_length + extra_length)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.kind in "iub":
        return None
    if fortran or dtype.name not in {"float16", "float32", "float64"} or dtype.byteorder == ">":
        raise ValueError(f"{member.filename} is {dtype} in another order than expected")
    return DiskTensor(path, file.tell(), getattr(torch, dtype.name), tuple(shape))
