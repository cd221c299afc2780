"""Which SAEs a study has, as a grid to slide over, and the nearest one to any wish.

1. The controls depend on each other from left to right: stream, layer, width, L0, architecture. Each offers only what
   exists at the choices before it.
2. A wish that does not exist there is replaced by the nearest that does: the nearest layer, the nearest width and L0 on a
   log scale.
3. SAEs of different architectures that were trained to one L0 measure slightly different ones. They share a step of the L0
   control, and the architecture control tells them apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import polars as pl

from dmcore.results import log_distance

STREAMS = ("residual", "mlp", "attention")
"""Streams in the order in which they are offered; others follow by name."""

SAME_L0 = 1.25
"""Largest ratio of measured L0s within a step of the control."""


@dataclass(frozen=True)
class Wish:
    """What somebody asked for; None leaves a choice to the grid."""

    stream: str | None = None
    layer: int | None = None
    width: int | None = None
    l0: float | None = None
    arch: str | None = None


@dataclass(frozen=True)
class L0Step:
    """One stop of the L0 control."""

    records: tuple[dict[str, Any], ...]
    """SAEs at this stop, one per architecture."""

    @property
    def l0(self) -> float:
        """Median of the measured L0s."""
        ordered = sorted(record["l0"] for record in self.records)
        return ordered[len(ordered) // 2]

    def distance(self, l0: float) -> float:
        """Smallest distance of a member from `l0`, on a log scale."""
        return min(log_distance(record["l0"], l0) for record in self.records)


@dataclass(frozen=True)
class Choice:
    """One SAE of a study, and what each control offers around it."""

    record: dict[str, Any]
    """The chosen row of `RECORD`."""
    streams: tuple[str, ...]
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    steps: tuple[L0Step, ...]
    step: int
    """Index of the chosen stop in `steps`."""
    archs: tuple[str, ...]
    snapped: tuple[str, ...]
    """Wishes (by field name) that had to be replaced by a neighbour."""


def l0_steps(records: Iterable[dict[str, Any]]) -> tuple[L0Step, ...]:
    """SAEs of one site and width as stops: neighbours within `SAME_L0` share one unless their label is the same."""
    stops: list[list[dict[str, Any]]] = []
    for record in sorted(records, key=lambda record: (record["l0"], record["label"])):
        last = stops[-1] if stops else []
        fits = bool(last) and record["l0"] <= SAME_L0 * max(last[0]["l0"], 0.01)
        if fits and record["label"] not in {other["label"] for other in last}:
            last.append(record)
        else:
            stops.append([record])
    return tuple(L0Step(tuple(stop)) for stop in stops)


def choose_nearest(records: pl.DataFrame, wish: Wish) -> Choice:
    """The SAE nearest to a wish, and what the controls offer around it. `records` must have a row."""
    snapped: list[str] = []
    rows = records.to_dicts()

    present = {row["stream"] for row in rows}
    streams = tuple(s for s in STREAMS if s in present) + tuple(sorted(present - set(STREAMS)))
    home = _home(rows, streams)
    stream = _exact(wish.stream, streams, home["stream"], "stream", snapped)

    rows = [row for row in rows if row["stream"] == stream]
    layers = tuple(sorted({row["layer"] for row in rows}))
    layer = wish.layer if wish.layer is not None else _home(rows, streams)["layer"]
    layer = _nearest(layer, layers, lambda a, b: abs(a - b), "layer", snapped)

    rows = [row for row in rows if row["layer"] == layer]
    widths = tuple(sorted({row["d_sae"] for row in rows}))
    width = wish.width if wish.width is not None else widths[len(widths) // 2]
    width = _nearest(width, widths, log_distance, "width", snapped)

    steps = l0_steps(row for row in rows if row["d_sae"] == width)
    l0 = wish.l0 if wish.l0 is not None else _usual_l0(records)
    step = min(range(len(steps)), key=lambda k: (steps[k].distance(l0), k))
    if wish.l0 is not None and steps[step].distance(l0) > math.log(SAME_L0):
        snapped.append("l0")

    at_step = {record["label"]: record for record in steps[step].records}
    archs = tuple(sorted(at_step))
    usual = max(archs, key=lambda label: sum(row["label"] == label for row in rows))
    arch = _exact(wish.arch, archs, usual, "arch", snapped)
    return Choice(at_step[arch], streams, layers, widths, steps, step, archs, tuple(snapped))


def _home(rows: list[dict[str, Any]], streams: tuple[str, ...]) -> dict[str, Any]:
    """A row of the stream and layer that have the most SAEs; the earlier stream, then the earlier layer, wins a tie."""
    sizes: dict[tuple[str, int], int] = {}
    for row in rows:
        site = (row["stream"], row["layer"])
        sizes[site] = sizes.get(site, 0) + 1
    stream, layer = min(sizes, key=lambda site: (-sizes[site], streams.index(site[0]), site[1]))
    return {"stream": stream, "layer": layer}


def _usual_l0(records: pl.DataFrame) -> float:
    return float(records["l0"].quantile(0.5, interpolation="nearest") or 1.0)


def _exact(wish: str | None, options: tuple[str, ...], default: str, field: str, snapped: list[str]) -> str:
    if wish in options:
        return wish
    if wish is not None:
        snapped.append(field)
    return default


def _nearest(wish: int, options: tuple[int, ...], distance: Any, field: str, snapped: list[str]) -> int:
    best = min(options, key=lambda option: (distance(option, wish), option))
    if best != wish:
        snapped.append(field)
    return best
