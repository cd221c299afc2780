"""The store: entries that are made once, whoever asks, and are either complete and checked or not there.

1. An entry is a folder `<root>/<stage>/<key>`; its manifest, written last, makes it complete.
2. It is made in `<root>/partial/<stage>-<key>`, under a lock that dies with its owner, and moved into place by one rename.
   What a killed process left in `partial` is given to the next maker, who may go on from it (`leftovers`).
3. Before an entry is used its checksums are compared (once per process and state of its files); one that is damaged is
   moved to `<root>/damaged`, the user is told, and it is made again.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dmcore.errors import Cancelled, DarkMatterError, StoreError
from dmcore.places import SHIPPED_CACHE
from dmcore.store import leftovers
from dmcore.store.disk import disk_words
from dmcore.store.fingerprint import content_key
from dmcore.store.manifest import MANIFEST, Manifest, damage, identity, read_manifest, write_manifest

log = logging.getLogger(__name__)

NO_STAGES = {"partial", "locks", "damaged", "fingerprints", "jobs", "studies", "catalogue", "demo-build"}
"""Folders of the cache that hold no entries."""
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
"""What a stage or a key may look like: nothing that could leave the cache folder."""


@dataclass(frozen=True)
class Entry:
    """A complete entry."""

    path: Path
    manifest: Manifest

    @property
    def key(self) -> str:
        """The hash of its spec."""
        return self.manifest.key


class Draft:
    """An entry that is being made, locked against other makers. `commit` it, or leave it for the next maker."""

    def __init__(self, store: Store, stage: str, spec: dict[str, Any], lock: FileLock) -> None:
        self._store, self._lock = store, lock
        self.stage, self.spec, self.key = stage, spec, content_key(spec)
        self.path = store.root / "partial" / f"{stage}-{self.key}"
        leftovers.note_maker(store.root, self.path.name)
        self.path.mkdir(parents=True, exist_ok=True)
        self._started = time.monotonic()

    def clear(self) -> None:
        """Delete what an earlier maker left."""
        shutil.rmtree(self.path)
        self.path.mkdir()

    def commit(self) -> Entry:
        """Write the manifest and move the folder into place; one that is there gives way in two renames."""
        manifest = write_manifest(self.path, self.stage, self.key, self.spec, time.monotonic() - self._started)
        target = self._store.folder(self.stage, self.key)
        target.parent.mkdir(parents=True, exist_ok=True)
        grave = self._store.grave(self.stage, self.key)
        replaced = target.exists()
        if replaced:
            target.replace(grave)
        self.path.replace(target)
        if replaced:
            shutil.rmtree(grave, ignore_errors=True)
        entry = Entry(target, manifest)
        try:
            self._store.committed(entry)  # who waits for the lock finds it in all its places
        finally:
            self.release()
        return entry

    def release(self) -> None:
        """Let go of the lock; the folder stays for the next maker."""
        if self._lock.is_locked:
            leftovers.forget_maker(self._store.root, self.path.name)
            self._lock.release()


def default_root() -> Path:
    """`$DMCORE_CACHE`, or `cache/` beside the package."""
    return Path(os.environ.get("DMCORE_CACHE") or SHIPPED_CACHE).expanduser().absolute()


class Store:
    """The entries under one folder."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()
        self._sound: dict[Path, tuple[Any, ...]] = {}
        self.waiting: Callable[[], bool] = lambda: False
        """Asked again and again while another process makes an entry; True gives up."""
        self.seen: Callable[[str, str], object] = lambda _stage, _key: None
        """Told of every entry that is found."""

    def folder(self, stage: str, key: str) -> Path:
        """Where an entry is or would be.

        Raises:
            StoreError: the stage or key is not a plain name.
        """
        if not (NAME.fullmatch(stage) and NAME.fullmatch(key)):
            raise StoreError(
                "That is not the name of a cache entry: choose one that `python -m dmcore cache ls` lists."
            )
        return self.root / stage / key

    def find(self, stage: str, key: str, *, checksums: bool = True) -> Entry | None:
        """The entry if it is there and sound. One that is damaged is moved aside, with a warning."""
        entry = self._found(stage, key, checksums=checksums, locked=False)
        if entry is not None:
            self.seen(stage, key)
        return entry

    def _found(self, stage: str, key: str, *, checksums: bool, locked: bool) -> Entry | None:
        """As `find`; `locked`: whether the caller holds the entry's lock."""
        folder = self.folder(stage, key)
        while folder.is_dir():
            seen = identity(folder)
            try:
                return self._checked(folder, checksums=checksums)
            except StoreError as error:
                reason = str(error)
            # While this process was looking, another one may have put a new entry there, or taken it away.
            if identity(folder) != seen:
                continue
            if locked:
                self._move_aside(folder, reason)
                return None
            # Only under its lock: else a sound entry that another process has just put there could be moved aside.
            with self._locked_now(stage, key) as mine:
                return self._found(stage, key, checksums=checksums, locked=True) if mine else None
        return None

    @contextmanager
    def _locked_now(self, stage: str, key: str) -> Iterator[bool]:
        """Hold an entry's lock, unless another process does: then False. Where nothing can be written nobody makes anything."""
        try:
            lock = self._lock(stage, key)
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        except OSError:
            yield True
            return
        try:
            yield True
        finally:
            lock.release()

    def has(self, stage: str, key: str) -> bool:
        """Whether the entry is there; a store that has more places than its folder need not fetch it."""
        return self.find(stage, key) is not None

    def committed(self, entry: Entry) -> None:
        """Told of every entry that has just been made here."""
        self.remember_as_sound(entry)

    def _checked(self, folder: Path, *, checksums: bool) -> Entry:
        manifest = read_manifest(folder)
        if (manifest.stage, manifest.key) != (folder.parent.name, folder.name):
            raise StoreError("the manifest is that of another entry")
        entry = Entry(folder, manifest)
        if self._sound.get(folder) != self._mark(entry):
            found = damage(folder, manifest, checksums=checksums)
            if found:
                raise StoreError(found)
            if checksums:
                self.remember_as_sound(entry)
        return entry

    def remember_as_sound(self, entry: Entry) -> None:
        """Do not compare the checksums again until a file's size or time changes."""
        self._sound[entry.path] = self._mark(entry)

    def begin(self, stage: str, spec: dict[str, Any], *, wait: float = -1) -> Entry | Draft:
        """The entry of this spec, or a locked draft of it; waits while another process makes it.

        Raises:
            StoreError: `wait` seconds (0 or above) have passed, or the cache folder cannot be written.
        """
        key = content_key(spec)
        entry = self.find(stage, key)
        if entry is not None:
            return entry
        with self.writing():
            lock = self._lock(stage, key)
            try:
                lock.acquire(timeout=wait, cancel_check=self.waiting)
            except Timeout as error:
                if self.waiting():
                    raise Cancelled(f"Waiting for {stage} {key} was cancelled.") from error
                raise StoreError(f"Another process is making {stage} {key}: wait for it, or cancel it.") from error
            try:
                entry = self._found(stage, key, checksums=True, locked=True)
                if entry is None:
                    return Draft(self, stage, spec, lock)
                lock.release()
                return entry
            except BaseException:
                lock.release()
                raise

    def get_or_make(self, stage: str, spec: dict[str, Any], make: Callable[[Path], None]) -> Entry:
        """The entry of this spec; if it is not there, `make` fills an empty folder with its files."""
        found = self.begin(stage, spec)
        if isinstance(found, Entry):
            return found
        try:
            with self.writing():
                found.clear()
                make(found.path)
                return found.commit()
        finally:
            found.release()

    def replace(self, stage: str, spec: dict[str, Any], make: Callable[[Path], None]) -> Entry:
        """Make an entry anew, in place of the one that is there: for pointers to results, not for results."""
        with self.writing():
            lock = self._lock(stage, content_key(spec))
            with lock:
                draft = Draft(self, stage, spec, lock)
                try:
                    draft.clear()
                    make(draft.path)
                    return draft.commit()
                finally:
                    draft.release()

    def _lock(self, stage: str, key: str) -> FileLock:
        """The lock of an entry, not held yet."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{stage}-{key}.lock")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn the failures of a disk into sentences."""
        try:
            yield
        except Exception as error:  # libraries wrap what a disk says in errors of their own
            words = None if isinstance(error, DarkMatterError | Cancelled) else disk_words(error, self.root)
            if words is None:
                raise
            raise StoreError(words) from error

    def entries(self) -> Iterator[Entry | Path]:
        """Every entry, by stage and key; the folder alone where the manifest cannot be read."""
        for folder in sorted(self.root.glob("*/*")):
            if folder.parent.name in NO_STAGES or not folder.is_dir():
                continue
            try:
                if not (folder / MANIFEST).exists() and not any(folder.iterdir()):
                    continue
                found: Entry | Path = Entry(folder, read_manifest(folder))
            except (FileNotFoundError, StoreError):
                found = folder
            if folder.is_dir():  # else another process has just deleted it
                yield found

    def remove(self, entry: Entry) -> None:
        """Delete an entry: out of sight by one rename first, so that no reader sees half of it. It may be gone already."""
        self._bury(entry.path, entry.manifest.stage, entry.key)

    def drop(self, stage: str, key: str) -> None:
        """Delete the entry of this name if it is there, without looking into it."""
        self._bury(self.folder(stage, key), stage, key)

    def trim(self, stages: Collection[str]) -> None:
        """Delete copies of what has been deleted where it came from; a store of one folder has none."""

    def _bury(self, folder: Path, stage: str, key: str) -> None:
        if not folder.is_dir():
            return
        grave = self.grave(stage, key)
        grave.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.replace(grave)
        except FileNotFoundError:
            return
        shutil.rmtree(grave, ignore_errors=True)  # another process may be sweeping what is left here

    def grave(self, stage: str, key: str) -> Path:
        """A folder of no one else's, for what is about to be deleted."""
        return leftovers.grave(self.root, f"{stage}-{key}")

    def sweep_partial(self) -> list[Path]:
        """Delete what killed makers left and nobody holds; returns what was deleted. What cannot be deleted is told and stays."""
        return leftovers.sweep(self.root)

    def _mark(self, entry: Entry) -> tuple[Any, ...]:
        marks = []
        for name in entry.manifest.files:
            try:
                stat = (entry.path / name).stat()
            except OSError:
                return ()
            marks.append((name, stat.st_size, stat.st_mtime_ns, stat.st_ino))
        return (entry.manifest.created, *marks)

    def _move_aside(self, folder: Path, reason: str) -> None:
        aside = self.root / leftovers.DAMAGED / f"{folder.parent.name}-{folder.name}-{time.time_ns()}"
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            folder.replace(aside)
        except FileNotFoundError:
            return
        except OSError as error:  # a cache that can only be read, or a disk that is full: it counts as not there
            log.warning("Cache entry %s/%s is damaged: %s. It stays, because %s cannot be written (%s).",
                        folder.parent.name, folder.name, reason, self.root, error.strerror or error)  # fmt: skip
            return
        log.warning(
            "Cache entry %s/%s is damaged: %s. It was moved to %s.", folder.parent.name, folder.name, reason, aside
        )
