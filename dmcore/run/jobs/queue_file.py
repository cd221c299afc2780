"""The file of the queue: one SQLite database in the cache folder, opened, brought up to date, or moved aside if it is none.

Every operation opens the file, makes one short transaction, and closes it. Where the cache cannot be written, the file is
read as it is.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock

from dmcore.errors import StoreError
from dmcore.run.jobs.queue_table import VERSION, upgrade
from dmcore.store.disk import disk_words, full_words, is_writable, unwritable_words
from dmcore.store.store import default_root

log = logging.getLogger(__name__)

BUSY_SECONDS = 10
"""How long an operation waits for another's transaction."""


class QueueFile:
    """The database of one cache folder."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()
        self.folder = self.root / "jobs"
        self.file = self.folder / "queue.sqlite"

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[sqlite3.Connection]:
        """The open database, in a transaction that is committed at the end of the block.

        Raises:
            StoreError: the file cannot be read; or written, where that is asked for.
        """
        try:
            with closing(self._open(write)) as db:
                db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                yield db
                db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(self._words(error)) from error

    def _words(self, error: sqlite3.Error) -> str:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return full_words(self.folder)
        if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN} and not is_writable(self.folder):
            return unwritable_words(self.folder)
        return (
            f"The queue of jobs in {self.folder} cannot be used ({error}): check that the folder can be written and "
            "that its disk is not full."
        )

    def _open(self, write: bool) -> sqlite3.Connection:
        if not write and not is_writable(self.folder):
            return self._read_only()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return self._connect()
        except sqlite3.OperationalError as error:
            if not write and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                with suppress(StoreError):  # on a full disk there is no place for what a reader puts beside the file
                    return self._read_only()
            raise
        except sqlite3.DatabaseError as error:
            try:
                self._move_aside(str(error))
            except OSError as refused:  # or another process has been at it for long
                reason = refused.strerror or refused
                raise StoreError(
                    f"The queue of jobs in {self.folder} is damaged and cannot be moved aside ({reason}): see that it can "
                    "be written."
                ) from error
            return self._connect()
        except OSError as error:
            raise StoreError(disk_words(error, self.folder) or unwritable_words(self.folder)) from error

    def _read_only(self) -> sqlite3.Connection:
        """The file as it is, of a cache that cannot be written: nothing beside it can be made, as a lock would have to be."""
        db = sqlite3.connect(f"file:{quote(str(self.file))}?immutable=1", uri=True, isolation_level=None)
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
        except BaseException:
            db.close()
            raise
        if version != VERSION:
            db.close()
            raise StoreError(f"{self.file} was written by another version of dmcore, and cannot be written here.")
        return db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.file, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version < VERSION:
                upgrade(db)
            elif version != VERSION:
                raise StoreError(
                    f"{self.file} was written by another version of dmcore: move it away to start a new queue."
                )
        except BaseException:
            db.close()
            raise
        return db

    def _move_aside(self, reason: str) -> None:
        """Put a queue that is no database out of the way; results are not in it, so only the list of jobs is lost."""
        with FileLock(self.folder / "mend.lock", timeout=BUSY_SECONDS):
            try:
                self._connect().close()
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                aside = self.folder / f"queue-damaged-{time.time_ns()}.sqlite"
                self.file.replace(aside)
                for ending in ("-wal", "-shm"):
                    Path(f"{self.file}{ending}").unlink(missing_ok=True)
                log.warning(
                    "The queue of jobs was damaged (%s). It was moved to %s; results are untouched.", reason, aside
                )

    def damaged(self) -> list[Path]:
        """Queues that were moved aside because they could not be read."""
        return sorted(self.folder.glob("queue-damaged-*.sqlite"))
