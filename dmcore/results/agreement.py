"""Where estimates agree with the truth: over a grid of settings, by level of each ingredient. No torch here: pages read it.

Settings that are estimated on the same tokens have one luck, not many: what counts for how sure a share is, is how many distinct
samples of tokens it is of. So a share is judged by its Wilson interval with *samples* as n.
"""

from __future__ import annotations

import math

import polars as pl

from dmcore.results.synthetic import SPLIT

LEAST = 1e-9
"""A truth below this is 0 up to rounding, and has no ratio."""
MEANT = 0.95
"""In this share of the samples an interval is meant to hold the truth."""
SAMPLE = ("density", "dense", "circles", "tokens")
"""Settings that agree in these are estimated on the same tokens; a table without these columns is of one sample."""
LEAST_SAMPLES = 5
"""Of fewer samples nothing is said of how often their intervals hold the truth."""
_Z = 1.959963984540054


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


def n_samples(table: pl.DataFrame) -> int:
    """How many distinct samples of tokens the estimates of a table are of."""
    return table.select(SAMPLE).n_unique() if set(SAMPLE) <= set(table.columns) else min(len(table), 1)


def could_be_meant(inside: float, samples: int) -> bool:
    """Whether a share inside, over so many samples, may be of intervals that hold the truth as often as is meant.

    So it may unless the upper end of its 95 % Wilson interval is below `MEANT`. The share of a sample is the mean over its
    settings, which varies at most as a draw of 0 or 1 does: the interval errs on the wide side. Fewer than `LEAST_SAMPLES`
    samples never tell.
    """
    if samples < LEAST_SAMPLES:
        return True
    centre = inside + _Z**2 / (2 * samples)
    half = _Z * math.sqrt(inside * (1 - inside) / samples + _Z**2 / (4 * samples**2))
    return (centre + half) / (1 + _Z**2 / samples) >= MEANT


def agreement_by(table: pl.DataFrame, ingredient: str) -> pl.DataFrame:
    """A row a level of an ingredient: `level`, `n` settings of `samples` distinct samples of tokens, and of each part the share
    inside and the median ratio."""
    distinct = pl.struct(SAMPLE).n_unique() if set(SAMPLE) <= set(table.columns) else pl.lit(1)
    return (
        with_agreement(table)
        .group_by(level=pl.col(ingredient))
        .agg(
            pl.len().alias("n"),
            distinct.cast(pl.Int64).alias("samples"),
            *(pl.col(f"{part}_inside").mean() for part in SPLIT),
            *(pl.col(f"{part}_ratio").median() for part in SPLIT),
        )
        .sort("level")
    )
