"""The table of the queue: its columns are the fields of `Job`, and one of an older version is given what it lacks."""

from __future__ import annotations

import sqlite3
from dataclasses import fields

from dmcore.run.jobs.job import ACTIVE, Job

VERSION = 4
"""Of the table; 1 had no `target`, 2 no `asked_by`, 3 no state `interrupted` and nothing of who runs a job."""
IS_ACTIVE = "state IN (" + ", ".join(f"'{state}'" for state in ACTIVE) + ")"
"""That a job waits, runs, or waits to go on, in SQL."""
COLUMNS = [f.name for f in fields(Job)]

_TYPES = {"str": "TEXT NOT NULL", "int": "INTEGER NOT NULL", "bool": "INTEGER NOT NULL", "float": "REAL NOT NULL"}
_INDEX = (
    "DROP INDEX IF EXISTS one_active",
    f"CREATE UNIQUE INDEX one_active ON jobs (key) WHERE {IS_ACTIVE}",
)
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS jobs ("
    + ", ".join(f"{f.name} {_TYPES.get(str(f.type), 'REAL')}" for f in fields(Job))
    + ", PRIMARY KEY (id))",
    *_INDEX,
    f"PRAGMA user_version = {VERSION}",
)
_FROM_3 = (
    "ALTER TABLE jobs ADD COLUMN note TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE jobs ADD COLUMN hangs INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE jobs ADD COLUMN beat REAL",
    *_INDEX,
    f"PRAGMA user_version = {VERSION}",
)
_FROM_2 = ("ALTER TABLE jobs ADD COLUMN asked_by TEXT NOT NULL DEFAULT ''", *_FROM_3)
_FROM_1 = ("ALTER TABLE jobs ADD COLUMN target TEXT NOT NULL DEFAULT ''", *_FROM_2)


def upgrade(db: sqlite3.Connection) -> None:
    """Make the table, or give the one of an older version what it lacks; whichever process comes first."""
    db.execute("BEGIN IMMEDIATE")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    for statement in {0: _SCHEMA, 1: _FROM_1, 2: _FROM_2, 3: _FROM_3}.get(version, ()):
        db.execute(statement)
    db.execute("COMMIT")
