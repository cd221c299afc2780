"""Latent check: if |Sae(x)|² were linear in Sae(x), a probe for it would have each latent's mean active value as its slope."""

from __future__ import annotations

import math

import altair as alt
import numpy as np
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, at_ticks, few, finite, known
from dmcore.charts.labels import decade_ticks
from dmcore.charts.theme import NEUTRAL

HEIGHT = 400

_X_TITLE = "mean value where active × norm of its decoder row"
_Y_TITLE = "probe's slope along the decoder row"


def latents_table(latents: pl.DataFrame) -> pl.DataFrame:
    """A row a latent that has both numbers: `latent`, `frequency`, `mean_active`, `probe`, the most frequent first.

    Args:
        latents: the table of that name, of one SAE.
    """
    return (
        latents.filter(known("mean_active") & known("probe"))
        .select("latent", *(pl.col(c).cast(pl.Float64) for c in ("frequency", "mean_active", "probe")))
        .sort("frequency", "latent", descending=[True, False])
    )


def latents_chart(latents: pl.DataFrame) -> alt.LayerChart:
    """A dot a latent, coloured by how often it is active, and the line on which both numbers agree.

    An axis is logarithmic where its numbers are positive; where some are not, it is linear around 0 and logarithmic beyond.
    """
    table = latents_table(latents)
    scales = {column: _scale(table[column].to_list()) for column in ("mean_active", "probe")}
    words = {column: f"{title} ({kind} scale)" for (column, (_, _, kind)), title
             in zip(scales.items(), (_X_TITLE, _Y_TITLE), strict=True)}  # fmt: skip
    axes = {column: alt.Axis(**at_ticks(ticks), labelExpr="format(datum.value, '~g')", grid=False)
            for column, (_, ticks, _) in scales.items()}  # fmt: skip
    x = alt.X("mean_active:Q", title=words["mean_active"], scale=scales["mean_active"][0], axis=axes["mean_active"])
    y = alt.Y("probe:Q", title=words["probe"], scale=scales["probe"][0], axis=axes["probe"])
    often = [v for v in finite(table["frequency"]) if v > 0] or [0.1, 1.0]
    least, most = min(often), max(often)
    # of the scale's own ticks some would be below the rarest latent, where the scale starts for the sake of the palest dots
    ticks = few(decade_ticks(least / 1.01, most * 1.01), 4) if most > 2 * least else [least, most]
    legend = alt.Legend(title="share of tokens on which the latent is active (log scale)", orient="top",
                        direction="horizontal", gradientLength=160, gradientThickness=8, values=ticks, format=".2~p",
                        titleLimit=500)  # fmt: skip
    drawn = table.with_columns(shown=pl.col("frequency").fill_nan(None).fill_null(least).clip(lower_bound=least))
    # the palest tenth of the theme's colours cannot be seen as dots
    start = least / max(most / least, 2.0) ** 0.45
    colour = alt.Color(
        "shown:Q", scale=alt.Scale(type="log", domain=[start, max(most, least * 2)], nice=False), legend=legend
    )
    tooltip = [alt.Tooltip("latent:Q", format="d"), alt.Tooltip("frequency:Q", title="active on", format=".2%"),
               alt.Tooltip("mean_active:Q", title="mean value where active", format=".3~g"),
               alt.Tooltip("probe:Q", title="probe's slope", format=".3~g")]  # fmt: skip
    dots = alt.Chart(drawn).mark_circle(size=38, opacity=0.85, aria=False)
    layers = [*_agreement(table), dots.encode(x=x, y=y, color=colour, tooltip=tooltip)]
    return alt.layer(*layers).properties(height=HEIGHT, autosize=FIT_WIDTH)


def _scale(values: list[float]) -> tuple[alt.Scale, list[float], str]:
    """Scale, ticks and name of an axis."""
    numbers = finite(values) or [0.1, 1.0]
    low, high = min(numbers), max(numbers)
    if low > 0:
        low, high = low / 1.2, high * 1.2
        return alt.Scale(type="log", domain=[low, high], nice=False), decade_ticks(low, high), "log"
    unit = float(np.median([abs(v) for v in numbers if v] or [1.0])) / 4
    largest = max(abs(low), abs(high), 4 * unit)
    powers = [10.0**k for k in range(math.floor(math.log10(unit)) + 1, math.floor(math.log10(largest)) + 1)]
    ticks = sorted([*(-p for p in powers), 0.0, *powers])
    low, high = min(low * 1.4, -0.5 * unit), max(high * 1.4, unit)
    scale = alt.Scale(type="symlog", constant=unit, domain=[low, high], nice=False, zero=False)
    return scale, [t for t in ticks if low <= t <= high], "symmetric log"


def _agreement(table: pl.DataFrame) -> list[alt.Chart]:
    """The line y = x where both axes show it: a polyline, as the axes may bend differently."""
    sides = [finite(table[column]) for column in ("mean_active", "probe")]
    low, high = max(min(side) for side in sides), min(max(side) for side in sides)
    if not low < high:
        return []
    steps = np.geomspace(low, high, 40) if low > 0 else np.linspace(low, high, 200)
    line = pl.DataFrame({"mean_active": steps, "probe": steps, "rank": range(len(steps))})
    base = alt.Chart(line).encode(x=alt.X("mean_active:Q"), y=alt.Y("probe:Q"))
    start = alt.Chart(line.head(1).with_columns(text=pl.lit("slope = mean value")))
    return [
        base.mark_line(color=NEUTRAL, strokeDash=[5, 4]).encode(order=alt.Order("rank:Q")),
        start.mark_text(align="left", dx=10, dy=8, color=NEUTRAL, fontWeight="bold").encode(
            x=alt.X("mean_active:Q"), y=alt.Y("probe:Q"), text=alt.Text("text:N")
        ),
    ]
