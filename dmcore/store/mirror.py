"""A store whose entries are also kept in a shared place that every node reaches: a folder or an object storage, by fsspec.

1. An entry that has been made here is pushed: its files, then its manifest, which makes it complete there too.
2. One that is missing here is pulled, if it is there: its files, then its manifest. Checksums are compared before it is used,
   as always, so what was damaged on the way is made again.
3. Locks are those of this machine. Two machines that make one entry at once do the work twice and leave one result.

The place is trusted with the numbers as the cache folder is. Names of files that a manifest gives are checked all the same,
so that nothing is written outside the cache.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from dmcore.errors import StoreError
from dmcore.store.manifest import MANIFEST
from dmcore.store.store import NO_STAGES, Entry, Store

log = logging.getLogger(__name__)


class MirroredStore(Store):
    """The entries under one folder, and all that a shared place holds besides.

    Args:
        root: the folder of this machine.
        url: the shared place, as fsspec writes it: `s3://bucket/folder`, `file:///mnt/lab/cache`, ... What it needs to be let in
            is read from the environment, as its library says; a URL with a password in it would be seen by every node.

    Raises:
        StoreError: the place cannot be reached, or fsspec has no library for it.
    """

    def __init__(self, root: Path, url: str) -> None:
        super().__init__(root)
        self.url = url
        with self._reaching():
            self._fs, base = fsspec.core.url_to_fs(url)
            self._base = str(base).rstrip("/")
            self._fs.makedirs(self._base, exist_ok=True)

    def find(self, stage: str, key: str, *, checksums: bool = True) -> Entry | None:
        """The entry if it is here or there, and sound; one that is only there is fetched first."""
        found = super().find(stage, key, checksums=checksums)
        if found is None and self._pull(stage, key):
            found = super().find(stage, key, checksums=checksums)
        return found

    def has(self, stage: str, key: str) -> bool:
        """Whether the entry is here or there; nothing is fetched."""
        if super().find(stage, key, checksums=False) is not None:
            return True
        with self._reaching():
            return bool(self._fs.exists(self._there(stage, key, MANIFEST)))

    def committed(self, entry: Entry) -> None:
        """Push an entry that has just been made here."""
        super().committed(entry)
        stage, key = entry.manifest.stage, entry.key
        with self._reaching():
            self._forget(stage, key)
            for name in sorted(entry.manifest.files):
                there = self._there(stage, key, name)
                self._fs.makedirs(str(PurePosixPath(there).parent), exist_ok=True)
                self._fs.put_file(str(entry.path / name), there)
            # By another name first: a file system shows a file before it is whole.
            self._fs.pipe_file(self._there(stage, key, f"{MANIFEST}.tmp"), (entry.path / MANIFEST).read_bytes())
            self._fs.mv(self._there(stage, key, f"{MANIFEST}.tmp"), self._there(stage, key, MANIFEST))

    def remove(self, entry: Entry) -> None:
        """Delete an entry here and there."""
        super().remove(entry)
        with self._reaching():
            self._forget(entry.manifest.stage, entry.key)

    def _forget(self, stage: str, key: str) -> None:
        """Delete what is there, its manifest first: no one takes half of it for the whole."""
        folder = self._there(stage, key)
        for name, recursive in ((f"{folder}/{MANIFEST}", False), (folder, True)):
            if self._fs.exists(name):
                self._fs.rm(name, recursive=recursive)

    def _pull(self, stage: str, key: str) -> bool:
        """Fetch an entry; False where there is none."""
        folder = self.folder(stage, key)
        if stage in NO_STAGES:
            return False
        with self._reaching():
            try:
                manifest = self._fs.cat_file(self._there(stage, key, MANIFEST))
            except FileNotFoundError:
                return False
        with self.writing(), self._lock(stage, f"pull-{key}"):
            if folder.is_dir():  # another process of this machine was quicker
                return True
            draft = self.root / "partial" / f"pulled-{stage}-{key}-{os.getpid()}-{time.time_ns()}"
            draft.mkdir(parents=True)
            try:
                with self._reaching():
                    for name in file_names(manifest):
                        (draft / name).parent.mkdir(parents=True, exist_ok=True)
                        self._fs.get_file(self._there(stage, key, name), str(draft / name))
                (draft / MANIFEST).write_bytes(manifest)
                folder.parent.mkdir(parents=True, exist_ok=True)
                draft.replace(folder)
            except FileNotFoundError:  # it was deleted there in the meantime
                return False
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return True

    def _there(self, *parts: str) -> str:
        return "/".join((self._base, *parts))

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turn what any file system's library may raise into one sentence; that a file is not there passes."""
        try:
            yield
        except (FileNotFoundError, StoreError):
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise StoreError(
                f"The storage {shown_url(self.url)} cannot be used ({reason}): mend it, then run again; finished work is kept."
            ) from error


def file_names(manifest: bytes) -> list[str]:
    """The files that a manifest names.

    Raises:
        StoreError: it cannot be read, or a name leads out of its folder.
    """
    try:
        names: list[Any] = list(json.loads(manifest)["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError("A manifest in the shared storage cannot be read: delete its entry there.") from error
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts or "\0" in name:
            raise StoreError(
                "A manifest in the shared storage names a file outside its entry: delete that entry there."
            )
    return names


def shown_url(url: str) -> str:
    """A URL without what may be secret in it: no user, no password, no query."""
    return re.sub(r"//[^/@]*@", "//", url.partition("?")[0])
