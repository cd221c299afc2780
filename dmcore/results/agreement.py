"""Where estimates agree with the truth: over a grid of settings, by level of each ingredient. No torch here: pages read it."""

from __future__ import annotations

import polars as pl

from dmcore.results.synthetic import SPLIT

LEAST = 1e-9
"""A truth below this is 0 up to rounding, and has no ratio."""
SOUND = 0.8
"""An interval that holds the truth in fewer of the settings than this is not to be trusted there: 95 % are meant, but settings
share texts, and few settings scatter."""


def with_agreement(table: pl.DataFrame) -> pl.DataFrame:
    """The table with `<part>_inside` (the truth is in the interval) and `<part>_ratio` (estimate / truth) of each part.

    Args:
        table: with `truth_<part>`, `<part>`, `<part>_low` and `<part>_high`.

    A truth of 0, up to rounding, in a part that is estimated as 0 is inside. Null where there is no interval.
    """
    columns = []
    for part in SPLIT:
        truth, none = pl.col(f"truth_{part}"), pl.col(f"truth_{part}").abs() < LEAST
        inside = truth.is_between(pl.col(f"{part}_low") - LEAST, pl.col(f"{part}_high") + LEAST)
        columns.append(inside.alias(f"{part}_inside"))
        columns.append(pl.when(~none).then(pl.col(part) / truth).alias(f"{part}_ratio"))
    return table.with_columns(columns)


def less_price(table: pl.DataFrame) -> pl.DataFrame:
    """The table with the known cost of the fit taken off: `nonlinear / (1 + price)`, and what that takes is linear.

    Args:
        table: with `price`, and the estimates of both parts with their ends. Ends move with their estimate.
    """
    price = pl.col("price")
    cost = pl.when(price.is_finite()).then(pl.col("nonlinear") * price / (1 + price)).otherwise(0.0)
    ends = ("", "_low", "_high")
    moved = [(pl.col(f"linear{end}") + cost).alias(f"linear{end}") for end in ends]
    return table.with_columns(*moved, *((pl.col(f"nonlinear{end}") - cost).alias(f"nonlinear{end}") for end in ends))


def agreement_by(table: pl.DataFrame, ingredient: str) -> pl.DataFrame:
    """A row a level of an ingredient: `level`, `n`, and of each part the share inside and the median ratio."""
    return (
        with_agreement(table)
        .group_by(level=pl.col(ingredient))
        .agg(
            pl.len().alias("n"),
            *(pl.col(f"{part}_inside").mean() for part in SPLIT),
            *(pl.col(f"{part}_ratio").median() for part in SPLIT),
        )
        .sort("level")
    )
