"""A Python function over a column, in the thread that asks for it.

Polars's own `map_elements`, in an expression, is called by one of polars's threads, of which there are as many as processors.
In an app with several sessions that can stop everything for ever: those threads wait for Python's lock, and whoever holds it
waits for one of those threads, as `to_pandas` does. So no expression calls Python; a test looks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl


def mapped(column: pl.Series, function: Callable[[Any], Any], dtype: Any = pl.String) -> pl.Series:
    """The function of each value, of the same name; null where there is none."""
    found = [None if value is None else function(value) for value in column]
    return pl.Series(column.name, found, dtype=dtype)
