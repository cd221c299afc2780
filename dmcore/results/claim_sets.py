"""Which of a study's SAEs a statement is of: those at middle layers, and sets that differ in width alone."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from dmcore.results.compare import log_distance
from dmcore.specs import stack_of

SAME_L0 = 0.25
"""SAEs whose L0s are within this on a natural log scale count as of one L0."""


def middle_layers(records: pl.DataFrame) -> dict[str, list[int]]:
    """The middle third of the layers that SAEs are at, by stack of layers; none of a stack with fewer than three."""
    found: dict[str, list[int]] = {}
    stacks = [stack_of(site) for site in records["site"]]
    for stack in dict.fromkeys(stacks):
        layers = sorted({int(layer) for layer, own in zip(records["layer"], stacks, strict=True) if own == stack})
        third = (layers[-1] - layers[0]) / 3
        found[stack] = [v for v in layers if layers[0] + third <= v <= layers[-1] - third] if len(layers) > 2 else []
    return {stack: layers for stack, layers in found.items() if layers}


def span_words(numbers: Sequence[int]) -> str:
    """`2`, `13 to 27`."""
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def width_sets(records: pl.DataFrame) -> list[list[dict]]:
    """SAEs of one site, architecture and about one L0, one a width, by width; of at least two widths each."""
    sets = []
    for group in records.partition_by("site", "label", maintain_order=True):
        left = group.sort("d_sae", maintain_order=True).to_dicts()
        while left:
            first = left[0]
            own: dict[int, dict] = {}
            for row in left:
                if log_distance(row["l0"], first["l0"]) <= SAME_L0:
                    own.setdefault(row["d_sae"], row)
            left = [row for row in left if not any(row is one for one in own.values())]
            if len(own) > 1:
                sets.append(list(own.values()))
    return sets
