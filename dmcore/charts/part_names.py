"""What the parts of an SAE's error are called and how they are coloured where x stands beside them: x is neutral."""

from __future__ import annotations

from typing import Any

import polars as pl

from dmcore.charts.theme import LINEAR, NONLINEAR, TOTAL, part_colour_if

X = "activation x"

NAMES = {"x": X, "error": TOTAL, "linear": LINEAR, "nonlinear": NONLINEAR}
"""Of `dmcore.specs.PARTS`, in their order."""


def with_names(table: pl.DataFrame) -> pl.DataFrame:
    """The table with its parts called what pages call them."""
    return table.with_columns(pl.col("part").replace(NAMES))


def in_order(table: pl.DataFrame) -> list[str]:
    """The parts that a table has, named, in the order of `NAMES`; others after them."""
    found = with_names(table)["part"].unique(maintain_order=True).to_list()
    return [name for name in NAMES.values() if name in found] + [p for p in found if p not in NAMES.values()]


def colour() -> Any:
    """Colour by `part`, named; x in neutral."""
    return part_colour_if(f"datum.part !== '{X}'")
