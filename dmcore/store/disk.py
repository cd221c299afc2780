"""What a disk refuses, as one sentence each: which disk, how much is free and needed, how to free some; and who may write.

A full disk has many names: none of its own space (ENOSPC), the user's quota (EDQUOT), the largest file that is allowed (EFBIG);
and libraries wrap them in errors of their own.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dmcore.errors import StoreError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
GONE = (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN)
"""What a shared disk says when its server, or the way to it, has gone."""
_FULL_WORDS = ("no space left", "disk is full", "disk full", "disk quota exceeded", "file too large", "os error 28")
FREEING = (
    "`python -m dmcore cache ls` lists what there is, `python -m dmcore cache rm codes` deletes what can be made again"
)


def is_full(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that a disk is full."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        if isinstance(following, OSError) and following.errno in FULL:
            return True
        text = str(following).lower()
        if any(words in text for words in _FULL_WORDS):
            return True
        following = following.__cause__ or following.__context__
    return False


def full_words(folder: Path, error: BaseException | None = None, *, needed: int = 0) -> str:
    """One sentence for a disk that is full.

    Args:
        folder: in which something was to be written.
        error: what the disk said; tells a quota and a limit of file size from a disk.
        needed: bytes that the write takes; 0 where that is not known.
    """
    number = error.errno if isinstance(error, OSError) else None
    asked = f"{size_text(needed)} are needed" if needed else ""
    if number == errno.EDQUOT:
        what = f"Your quota on the disk of {folder} is used up" + (f" ({asked})" if asked else "")
    elif number == errno.EFBIG:
        what = f"A file in {folder} would be larger than `ulimit -f` allows" + (f" ({asked})" if asked else "")
    else:
        what = f"The disk of {folder} is full ({free_text(folder)}" + (f", {asked})" if asked else ")")
    return f"{what}: free space ({FREEING}) and run again; finished work is kept."


def unwritable_words(folder: Path) -> str:
    """One sentence for a folder of the cache that may be read and not written."""
    return f"{folder} cannot be written: set DMCORE_CACHE to a folder that can."


def disk_words(error: BaseException, folder: Path, *, needed: int = 0) -> str | None:
    """One sentence for what the disk of a folder refuses; None if the error is of another kind."""
    if is_full(error):
        return full_words(folder, error, needed=needed)
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return unwritable_words(folder)
    if isinstance(error, OSError) and error.errno in GONE:
        reason = error.strerror or "no answer"
        return (
            f"The disk of {folder} does not answer ({reason}): see that it is there again, then run again; finished work is "
            "kept."
        )
    return None


@contextmanager
def in_words(folder: Path) -> Iterator[None]:
    """Turn what a disk refuses to who reads or writes a folder of the cache into one sentence.

    Raises:
        StoreError: instead of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        if error.errno in UNWRITABLE or not (words := disk_words(error, folder)):
            reason = error.strerror or type(error).__name__
            words = f"{folder} cannot be used ({reason}): see that it is there and yours, or set DMCORE_CACHE to another folder."
        raise StoreError(words) from error


def reserve(path: Path) -> None:
    """Take all of a file's place on the disk: a disk that fills up under a mapped file kills the process without a word.

    Raises:
        StoreError: there is not so much; says how much is needed.
        OSError: the disk refuses it for another reason.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    size = path.stat().st_size
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if is_full(error):
                raise StoreError(full_words(path.parent, error, needed=size)) from error
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:  # the file system cannot do it
                raise


def nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    above = (folder, *folder.parents)
    return next((one for one in above if os.path.exists(one)), Path("/"))  # noqa: PTH110 - Path's raises where one may not look


def free_bytes(folder: Path) -> int | None:
    """Bytes that may still be written to the disk of a folder; None where it does not say."""
    try:
        return shutil.disk_usage(nearest(folder)).free
    except OSError:
        return None


def free_text(folder: Path) -> str:
    """`12 MiB are free`."""
    free = free_bytes(folder)
    return "it does not say how much is free" if free is None else f"{size_text(free)} are free"


def is_writable(folder: Path) -> bool:
    """Whether a folder, or the nearest above it that exists, may be written; asks the system and writes nothing."""
    return os.access(nearest(folder), os.W_OK)


def size_text(n: float) -> str:
    """`3.4 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:,.0f} {unit}" if unit == "bytes" or n >= 10 else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:,.1f} TiB"
