"""Folders on a node's own disk that several processes use, and that are deleted when nobody does any more.

Who uses a folder holds a shared lock on a file beside it; who would delete it needs that lock alone. The system drops the locks
of a process when it ends, however it ends: so what the dead have left is told from what the living use.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from pathlib import Path

log = logging.getLogger(__name__)

ENDING = ".use"


class Hold:
    """Keeps a folder from being deleted, until `release`, or until this process ends.

    Args:
        folder: it need not be there yet; the folder in which it is must be.
    """

    def __init__(self, folder: Path) -> None:
        self._file: int | None = _locked(folder, fcntl.LOCK_SH)

    def release(self) -> None:
        """Let go of it; a second time does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def remove_unheld(folder: Path) -> bool:
    """Delete a folder, unless somebody uses it; whether it is gone. Never fails who asks."""
    try:
        file = _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # in use; or not ours
        log.debug("%s stays: %s", folder, error)
        return False
    try:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            log.warning("The leftover %s cannot be deleted: it stays.", folder)
            return False
        _lock_file(folder).unlink(missing_ok=True)
        return True
    finally:
        os.close(file)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(folder.name + ENDING)


def _locked(folder: Path, how: int) -> int:
    path = _lock_file(folder)
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, how)
            if path.exists() and os.fstat(file).st_ino == path.stat().st_ino:
                return file
        except FileNotFoundError:  # between the two looks
            pass
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # another process has just deleted the folder, and this file with it
