"""A result that is a folder of tables: `about.json` and one parquet a table, in schemas that are said in one place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import polars as pl

from dmcore.errors import DataError, StoreError

ABOUT = "about.json"


@dataclass(frozen=True)
class TableFolder:
    """Tables are read when they are first asked for. A kind of result is a subclass that says `SCHEMAS` and `UNREADABLE`."""

    SCHEMAS: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Columns of each table, by its name."""
    UNREADABLE: ClassVar[str]
    """Said where a file has gone or is no table; names the remedy."""

    about: Mapping[str, Any]
    """What is said of the whole."""
    folder: Path
    """The entry."""
    _tables: dict[str, pl.DataFrame] = field(default_factory=dict, repr=False)

    def __getitem__(self, table: str) -> pl.DataFrame:
        """A table, with the columns of `SCHEMAS`.

        Raises:
            StoreError: it cannot be read.
            DataError: there is no table of this name.
        """
        if table not in self.SCHEMAS:
            raise DataError(f"There is no table {table!r}: there are {', '.join(self.SCHEMAS)}.")
        if table not in self._tables:
            with self.readable():
                found = pl.read_parquet(self.folder / f"{table}.parquet")
                self._tables[table] = self.in_schema(table, found)
        return self._tables[table]

    @classmethod
    @contextmanager
    def readable(cls) -> Iterator[None]:
        """A file that has gone or is no table, as a `StoreError`."""
        try:
            yield
        except (OSError, ValueError, RecursionError, pl.exceptions.PolarsError) as error:
            raise StoreError(cls.UNREADABLE) from error

    @classmethod
    def in_schema(cls, name: str, table: pl.DataFrame) -> pl.DataFrame:
        """The table with exactly the columns of `SCHEMAS`."""
        return table.select(pl.col(column).cast(dtype) for column, dtype in cls.SCHEMAS[name].items())

    @classmethod
    def write(cls, folder: Path, about: Mapping[str, Any], tables: Mapping[str, pl.DataFrame]) -> None:
        """Write `about.json` and every table, in exactly its schema."""
        (folder / ABOUT).write_text(json.dumps(dict(about), indent=1), encoding="utf-8")
        for name in cls.SCHEMAS:
            content = cls.in_schema(name, tables[name])
            content.write_parquet(folder / f"{name}.parquet", compression="zstd", compression_level=12)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Open what `write` wrote.

        Raises:
            StoreError: it cannot be read.
        """
        with cls.readable():
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            if not isinstance(about, dict):
                raise ValueError("it says nothing of the whole")
        return cls(about, folder)

    def record(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {"about": dict(self.about), **{name: self[name].to_dicts() for name in self.SCHEMAS}}
