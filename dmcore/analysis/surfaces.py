"""Metrics of one site's SAEs over width and L0: cells and lines of equal value, inside what was measured.

1. For each label: its SAEs as points (log2 width, log10 L0); 3 or more that are not on one line span a surface.
2. For each metric: the cells of a grid whose centres are inside the points' hull, and lines at round levels.
3. What spans no surface becomes a sentence in `remarks`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from dmcore.errors import DataError
from dmcore.math.surface import Surface, fit_surface, round_levels
from dmcore.results.scaling import SURFACE_METRICS, TABLES

N_CELLS = 40
"""Cells along each axis."""


def _cells(surface: Surface, names: dict[str, Any]) -> pl.DataFrame:
    bounds, values = surface.cells(N_CELLS)
    columns = {
        "width_low": 2 ** bounds[:, 0],
        "width_high": 2 ** bounds[:, 1],
        "l0_low": 10 ** bounds[:, 2],
        "l0_high": 10 ** bounds[:, 3],
        "value": values,
    }
    return pl.DataFrame(columns).with_columns(**{name: pl.lit(value) for name, value in names.items()})


def _lines(surface: Surface, names: dict[str, Any]) -> list[pl.DataFrame]:
    frames = []
    for level in round_levels(float(surface.values.min()), float(surface.values.max())):
        for line in surface.isolines(float(level)):
            columns = {"order": np.arange(len(line)), "width": 2 ** line[:, 0], "l0": 10 ** line[:, 1]}
            places = names | {"level": float(level), "line": len(frames)}
            frames.append(pl.DataFrame(columns).with_columns(**{name: pl.lit(value) for name, value in places.items()}))
    return frames


def _stack(name: str, frames: list[pl.DataFrame]) -> pl.DataFrame:
    """Frames with the columns of a table, in any order, as that table."""
    if not frames:
        return pl.DataFrame(schema=TABLES[name])
    return pl.concat(
        [frame.select(pl.col(column).cast(dtype) for column, dtype in TABLES[name].items()) for frame in frames]
    )


def surface_tables(records: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Tables surfaces, isolines and remarks of one site, from its rows of `RECORD`."""
    surfaces, isolines, remarks = [], [], []
    for label in records["label"].unique(maintain_order=True):
        refused: dict[str, list[str]] = {}
        for metric in SURFACE_METRICS:
            places = records.filter(
                (pl.col("label") == label) & (pl.col("l0") > 0) & pl.col("l0").is_finite() & pl.col(metric).is_finite()
            )
            points = np.stack([np.log2(places["d_sae"].to_numpy()), np.log10(places["l0"].to_numpy())], 1)
            try:
                surface = fit_surface(points, places[metric].to_numpy())
            except DataError:
                count = f"{len(places)} SAE{'' if len(places) == 1 else 's'}"
                refused.setdefault(count, []).append(metric)
                continue
            surfaces.append(_cells(surface, {"label": label, "metric": metric}))
            isolines += _lines(surface, {"label": label, "metric": metric})
        for count, metrics in refused.items():
            text = f"{count} of {label}: a surface needs 3 or more that differ in both width and L0 and are not on one line."
            own = metrics[0] if len(metrics) < len(SURFACE_METRICS) else None
            remarks += [
                {"set": None, "metric": metric, "label": label, "topic": "surface", "text": text}
                for metric in (metrics if own else [None])
            ]
    return {
        "surfaces": _stack("surfaces", surfaces),
        "isolines": _stack("isolines", isolines),
        "remarks": pl.DataFrame(remarks, schema=TABLES["remarks"]),
    }
