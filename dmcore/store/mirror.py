"""A store whose entries are also kept in a shared place that every node reaches: a folder or an object storage, by fsspec.

1. An entry that has been made here is pushed: its files, then its manifest, which makes it complete there too. So is one that
   was here already, when it is asked for: what this store says is there can be had by all.
2. One that is missing here is pulled, if it is there, under its lock: its files, then its manifest. Checksums are compared before
   it takes its place. What comes damaged twice is given another name there, so that nobody takes it again, and is made again.
3. Locks are those of this machine. Two machines that make one entry at once do the work twice and leave one result.
4. What is removed is removed here and there; copies that other machines have stay with them until they `trim` theirs.

The place is trusted with the numbers as the cache folder is. Names of files that a manifest gives are checked all the same,
so that nothing is written outside the cache.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from filelock import Timeout

from dmcore.errors import Cancelled, StoreError
from dmcore.store.disk import full_words, is_full
from dmcore.store.leftovers import PULLED
from dmcore.store.manifest import MANIFEST, damage, read_manifest
from dmcore.store.store import NAME, NO_STAGES, Entry, Store

log = logging.getLogger(__name__)

FETCHES = 2
"""Times that an entry is fetched until it counts as damaged there, and not on its way."""


class _DamagedError(Exception):
    """What was fetched is not what its manifest says."""


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
        self._known: set[tuple[str, str]] = set()
        """Entries of which this process has seen that they are there."""
        with self._reaching():
            self._fs, base = fsspec.core.url_to_fs(url)
            self._base = str(base).rstrip("/")
            self._fs.makedirs(self._base, exist_ok=True)

    def _found(self, stage: str, key: str, *, checksums: bool, locked: bool) -> Entry | None:
        """The entry if it is here or there, and sound; what is missing here is fetched, what is missing there is pushed."""
        found = super()._found(stage, key, checksums=checksums, locked=locked)
        if found is not None:
            return found if self._pushed(found, locked=locked) else None
        return None if stage in NO_STAGES else self._pulled(stage, key, locked=locked)

    def has(self, stage: str, key: str) -> bool:
        """Whether the entry is there for all; nothing is fetched, and one that is only here is pushed."""
        if self._is_there(stage, key):
            return True
        found = super()._found(stage, key, checksums=True, locked=False)
        return found is not None and self._pushed(found, locked=False)

    def committed(self, entry: Entry) -> None:
        """Push an entry that has just been made here."""
        super().committed(entry)
        self._push(entry)

    def remove(self, entry: Entry) -> None:
        """Delete an entry here and there."""
        self._forget_there(entry.manifest.stage, entry.key)  # first: if it fails, what is here leads there again
        super().remove(entry)

    def drop(self, stage: str, key: str) -> None:
        """Delete the entry of this name here and there, without fetching it."""
        self._forget_there(stage, key)
        super().drop(stage, key)

    def names_there(self) -> set[tuple[str, str]]:
        """Stage and key of every entry that is there, whether it is here or not."""
        self._fs.invalidate_cache()
        with self._reaching():
            try:
                self._fs.ls(self._base)  # a search leaves out what cannot be looked into, be it all
            except FileNotFoundError:
                return set()
            found = self._fs.glob(f"{self._base}/*/*/{MANIFEST}")
        names = (tuple(PurePosixPath(str(path)).parts[-3:-1]) for path in found)
        return {(stage, key) for stage, key in names if NAME.fullmatch(stage) and NAME.fullmatch(key)}

    def trim(self, stages: Collection[str]) -> None:
        """Delete copies here, of these stages, of what this process has made or fetched and others have since deleted there."""
        for stage, key in sorted(name for name in self._known if name[0] in stages):
            if self._is_there(stage, key):
                continue
            with self._locked_now(stage, key) as mine:  # another process of this machine may be pushing or fetching it
                if mine and not self._is_there(stage, key):
                    super().drop(stage, key)
                    self._known.discard((stage, key))

    def _forget_there(self, stage: str, key: str) -> None:
        self._known.discard((stage, key))
        with self._reaching():
            self._forget(stage, key)

    def _forget(self, stage: str, key: str) -> None:
        """Delete what is there, its manifest first: no one takes half of it for the whole."""
        folder = self._there(stage, key)
        for name, recursive in ((f"{folder}/{MANIFEST}", False), (folder, True)):
            if self._exists(name):
                self._fs.rm(name, recursive=recursive)

    def _is_there(self, stage: str, key: str) -> bool:
        with self._reaching():
            return self._exists(self._there(stage, key, MANIFEST))

    def _exists(self, there: str) -> bool:
        self._fs.invalidate_cache()  # of listings, which some libraries keep: another machine may have pushed since
        try:
            self._fs.info(there)
        except FileNotFoundError:
            return False
        return True  # not by its `exists`, for which a storage that fails is one that is empty

    def _pushed(self, entry: Entry, *, locked: bool) -> bool:
        """See that an entry that is here is there too; False if it was deleted in the meantime."""
        name = (entry.manifest.stage, entry.key)
        try:
            if name not in self._known and not self._is_there(*name):
                with self._holding(*name, locked=locked):  # another process may be pushing it
                    if not self._is_there(*name):
                        self._push(entry)
        except FileNotFoundError:
            return False
        self._known.add(name)
        return True

    def _push(self, entry: Entry) -> None:
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
        self._known.add((stage, key))

    def _pulled(self, stage: str, key: str, *, locked: bool) -> Entry | None:
        """Fetch an entry; None where there is none, or none that is sound."""
        reason, manifest = "", b""
        for _ in range(FETCHES):
            with self._reaching():
                try:
                    manifest = self._fs.cat_file(self._there(stage, key, MANIFEST))
                except FileNotFoundError:
                    return None
            with self.writing(), self._holding(stage, key, locked=locked):
                # Another process of this machine may have been quicker.
                found = super()._found(stage, key, checksums=True, locked=True)
                if found is None:
                    try:
                        found = self._fetched(stage, key, manifest)
                    except (
                        FileNotFoundError
                    ):  # it was deleted there in the meantime, its manifest first; or is not whole
                        reason = "a file of it is missing"
                        continue
                    except _DamagedError as error:
                        reason = str(error)
                        continue
            self._known.add((stage, key))
            return found
        self._set_aside(stage, key, manifest, reason)
        return None

    def _fetched(self, stage: str, key: str, manifest: bytes) -> Entry:
        """Fetch an entry whose lock is held, and put it in its place if it is sound."""
        folder, draft = self.folder(stage, key), self.root / "partial" / f"{PULLED}{stage}-{key}"
        shutil.rmtree(draft, ignore_errors=True)  # of one who was killed
        draft.mkdir(parents=True, exist_ok=True)
        try:
            with self._reaching(writing=True):
                for name in file_names(manifest):
                    (draft / name).parent.mkdir(parents=True, exist_ok=True)
                    self._fs.get_file(self._there(stage, key, name), str(draft / name))
            (draft / MANIFEST).write_bytes(manifest)
            try:
                said = read_manifest(draft)
            except StoreError as error:
                raise _DamagedError(str(error)) from None
            wrong = damage(draft, said, checksums=True)
            if wrong or (said.stage, said.key) != (stage, key):
                raise _DamagedError(wrong or "the manifest is that of another entry")
            folder.parent.mkdir(parents=True, exist_ok=True)
            draft.replace(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        entry = Entry(folder, said)
        self.remember_as_sound(entry)
        return entry

    def _set_aside(self, stage: str, key: str, manifest: bytes, reason: str) -> None:
        """Give the manifest of what is damaged there another name, so that nobody takes it for an entry."""
        there = self._there(stage, key, MANIFEST)
        with self._reaching():
            try:
                if self._fs.cat_file(there) != manifest:  # it has just been made anew
                    return
                self._fs.mv(there, f"{there}.damaged")
            except FileNotFoundError:
                return
        log.warning(
            "Cache entry %s/%s is damaged in %s: %s. It is not taken from there any more, and is made again where it is needed.",
            stage, key, shown_url(self.url), reason,
        )  # fmt: skip

    @contextmanager
    def _holding(self, stage: str, key: str, *, locked: bool) -> Iterator[None]:
        """Hold an entry's lock, if the caller does not already; waits as long as another process fetches, makes or pushes it."""
        if locked:
            yield
            return
        lock = self._lock(stage, key)
        try:
            lock.acquire(cancel_check=self.waiting)
        except Timeout as error:
            raise Cancelled(f"Waiting for {stage} {key} was cancelled.") from error
        try:
            yield
        finally:
            lock.release()

    def _there(self, *parts: str) -> str:
        return "/".join((self._base, *parts))

    @contextmanager
    def _reaching(self, *, writing: bool = False) -> Iterator[None]:
        """Turn what any file system's library may raise into one sentence; that a file is not there passes.

        Args:
            writing: whether files are written here: it is then this disk that may be full.
        """
        try:
            yield
        except (FileNotFoundError, StoreError):
            raise
        except Exception as error:
            if writing and is_full(error):
                raise StoreError(full_words(self.root, error)) from error
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
