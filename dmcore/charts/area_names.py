"""Names of stacked areas: inside an area that has room, else above all areas with a thin line to the area."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from dmcore.charts.theme import ABSENT, ENCODER, LINEAR, NONLINEAR, TOTAL, as_part, part_colour

_PLOT_WIDTH = 640
"""Pixels that a label may count on."""
_DARK = "#1a1a1a"
_INK = {ABSENT: _DARK, ENCODER: _DARK, LINEAR: "#ffffff", NONLINEAR: "#ffffff"}
"""Colour of the words on each area: the same on a light and on a dark page, as the areas are."""


def area_names(table: pl.DataFrame, top: float, height: float, ends: Sequence[float]) -> list[alt.Chart]:
    """Each part's name in its area where it has room there, measured areas first; else above all areas, with a leader.

    Args:
        table: of `extrapolation.budget_table`.
        top, height: of the plot, in units of its y axis and in pixels.
        ends: of its x axis, in latents.
    """
    pixel = top / height
    octaves = math.log(ends[1] / ends[0])
    inside, outside = [], []
    for part in table["part"].unique(maintain_order=True).to_list():
        half = len(part) * 4.2 / _PLOT_WIDTH * octaves
        for measured in (True, False):
            place = _roomiest(table.filter((pl.col("part") == part) & (pl.col("measured") == measured)), half)
            if place is not None and place[1] >= 20 * pixel:
                inside.append({"d_sae": math.exp(place[0]), "y": place[2], "text": part, "ink": _INK[part]})
                break
        else:
            found = _beside(table, part, half, pixel, [math.log(end) for end in ends])
            outside += [found] if found else []
    layers = []
    if inside:
        text = alt.Chart(pl.DataFrame(inside)).mark_text(fontSize=14, fontWeight="bold")
        ink = alt.Color("ink:N", scale=None)
        # Estimated areas are thin, and dark on a dark page: dark words have a light edge there.
        dark = alt.Chart(pl.DataFrame(inside).filter(pl.col("ink") == _DARK)).mark_text(
            fontSize=14, fontWeight="bold", stroke="#ffffff", strokeWidth=3, strokeOpacity=0.7, strokeJoin="round"
        )
        layers.append(dark.encode(x=alt.X("d_sae:Q"), y=alt.Y("y:Q"), text=alt.Text("text:N"), color=ink))
        layers.append(text.encode(x=alt.X("d_sae:Q"), y=alt.Y("y:Q"), text=alt.Text("text:N"), color=ink))
    return layers + _leaders(outside, pixel, octaves)


def _beside(table: pl.DataFrame, part: str, half: float, pixel: float, ends: Sequence[float]) -> dict[str, Any] | None:
    """Where the name of a thin area stands above all areas, and where its leader ends; None for an area that is empty.

    Among the places where the area is at least half as thick as anywhere, the one with the shortest leader.
    """
    best: dict[str, Any] | None = None
    ceiling = table.unique("d_sae", maintain_order=True).sort("d_sae")
    above = ceiling.select(pl.max_horizontal("fvu", "fvu_high"))["fvu"]
    edges = np.log(ceiling["d_sae"].to_numpy()), above.to_numpy()
    for measured in (True, False):
        area = table.filter((pl.col("part") == part) & (pl.col("measured") == measured))
        if not len(area):
            continue
        logs = np.log(area["d_sae"].to_numpy())
        at = np.linspace(logs[0], logs[-1], 60)
        low, high = np.interp(at, logs, area["y_low"].to_numpy()), np.interp(at, logs, area["y_high"].to_numpy())
        thick = high - low
        if thick.max() < 1.5 * pixel:
            continue
        for k in np.nonzero(thick >= 0.5 * thick.max())[0]:
            centre = min(max(at[k], ends[0] + half), ends[1] - half)
            y = np.interp(np.linspace(centre - half, centre + half, 9), *edges).max() + 20 * pixel
            foot = (low[k] + high[k]) / 2
            cost = y - foot + _PLOT_WIDTH / 2 * pixel * abs(centre - at[k]) / (ends[1] - ends[0])
            if best is None or cost < best["cost"]:
                best = {"cost": cost, "part": part, "half": half, "d_sae": math.exp(centre), "y": y, "at": math.exp(at[k]),
                        "foot": foot}  # fmt: skip
        if thick.max() >= 4 * pixel:
            break
    return best


def _leaders(places: list[dict[str, Any]], pixel: float, octaves: float) -> list[alt.Chart]:
    """Names above the areas with thin lines to what they name; names that would touch are stacked."""
    for k, place in enumerate(places):
        for other in places[:k]:
            apart = abs(math.log(place["d_sae"] / other["d_sae"]))
            if apart < place["half"] + other["half"] + 0.02 * octaves and abs(place["y"] - other["y"]) < 17 * pixel:
                place["y"] = other["y"] + 17 * pixel
    if not places:
        return []
    base = alt.Chart(pl.DataFrame(places).with_columns(start=pl.col("y") - 8 * pixel))
    marks = alt.Chart(as_part(base.data, TOTAL)).encode(color=part_colour())
    line = marks.mark_rule(strokeWidth=0.8)
    foot = marks.mark_point(filled=True, size=14, opacity=1)
    words = base.mark_text(fontSize=13, fontWeight="bold")
    return [
        line.encode(x=alt.X("d_sae:Q"), y=alt.Y("start:Q"), x2=alt.X2("at:Q"), y2=alt.Y2("foot:Q")),
        foot.encode(x=alt.X("at:Q"), y=alt.Y("foot:Q")),
        words.encode(x=alt.X("d_sae:Q"), y=alt.Y("y:Q"), text=alt.Text("part:N"), color=part_colour()),
    ]


def _roomiest(area: pl.DataFrame, half: float) -> tuple[float, float, float] | None:
    """Log width, thickness and middle of the place where a label of half the given length has most room in an area."""
    if area["d_sae"].n_unique() < 2:
        if len(area):
            row = area.row(0, named=True)
            return math.log(row["d_sae"]), row["y_high"] - row["y_low"], (row["y_high"] + row["y_low"]) / 2
        return None
    logs, low, high = np.log(area["d_sae"].to_numpy()), area["y_low"].to_numpy(), area["y_high"].to_numpy()
    best = None
    for at in np.linspace(logs[0] + half, logs[-1] - half, 25) if logs[-1] - logs[0] > 2 * half else ():
        across = np.linspace(at - half, at + half, 7)
        bottom, ceiling = np.interp(across, logs, low).max(), np.interp(across, logs, high).min()
        if best is None or ceiling - bottom > best[1]:
            best = (float(at), float(ceiling - bottom), float((ceiling + bottom) / 2))
    return best
