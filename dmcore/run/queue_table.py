"""The table of the queue: its columns are the fields of `Job`, and one of an older version is given what it lacks."""

from __future__ import annotations

import sqlite3
from dataclasses import fields

from dmcore.run.job import Job

VERSION = 3
"""Of the table; 1 had no `target`, 2 no `asked_by`."""
COLUMNS = [f.name for f in fields(Job)]

_TYPES = {"str": "TEXT NOT NULL", "int": "INTEGER NOT NULL", "bool": "INTEGER NOT NULL", "float": "REAL NOT NULL"}
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS jobs ("
    + ", ".join(f"{f.name} {_TYPES.get(str(f.type), 'REAL')}" for f in fields(Job))
    + ", PRIMARY KEY (id))",
    "CREATE UNIQUE INDEX IF NOT EXISTS one_active ON jobs (key) WHERE state IN ('waiting', 'running')",
    f"PRAGMA user_version = {VERSION}",
)
_FROM_2 = ("ALTER TABLE jobs ADD COLUMN asked_by TEXT NOT NULL DEFAULT ''", f"PRAGMA user_version = {VERSION}")
_FROM_1 = ("ALTER TABLE jobs ADD COLUMN target TEXT NOT NULL DEFAULT ''", *_FROM_2)


def upgrade(db: sqlite3.Connection) -> None:
    """Make the table, or give the one of an older version what it lacks; whichever process comes first."""
    db.execute("BEGIN IMMEDIATE")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    for statement in {0: _SCHEMA, 1: _FROM_1, 2: _FROM_2}.get(version, ()):
        db.execute(statement)
    db.execute("COMMIT")
