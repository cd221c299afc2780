"""Width against L0 of the SAEs in a catalogue: what sizes and sparsities there are to choose from."""

from __future__ import annotations

import altair as alt
import polars as pl

from dmcore.charts.labels import decade_ticks
from dmcore.charts.theme import LINEAR, as_part, part_colour

HEIGHT = 320

DIGITS = 2
"""L0s that are equal to so many digits share a dot, whose area is their number."""


def catalogue_table(frame: pl.DataFrame) -> pl.DataFrame:
    """A row for each width and L0 to two digits: `d_sae`, `l0`, `saes`, `releases`; unknown widths and L0s are left out.

    Args:
        frame: rows of a catalogue, with `release`, `d_sae`, `l0`.
    """
    return (
        frame.filter(pl.col("d_sae").is_not_null() & pl.col("l0").is_not_null())
        .with_columns(pl.col("l0").round_sig_figs(DIGITS))
        .group_by("d_sae", "l0")
        .agg(saes=pl.len(), releases=pl.col("release").n_unique())
        .sort("d_sae", "l0")
    )


def catalogue_chart(frame: pl.DataFrame) -> alt.LayerChart:
    """Dots at width and L0, both on log axes, their area the number of SAEs."""
    table = catalogue_table(frame)
    widths = table["d_sae"].unique().sort().to_list()
    low, high = (float(v) for v in table.select(pl.col("l0").min(), high=pl.col("l0").max()).row(0))
    x = alt.X("d_sae:Q", title="width (latents, log scale)",
              scale=alt.Scale(type="log", base=2, domain=[widths[0] / 1.3, widths[-1] * 1.3], nice=False),
              axis=alt.Axis(values=_apart(widths), format=",d", grid=False))  # fmt: skip
    y = alt.Y("l0:Q", title="L0 (active latents per token, log scale)",
              scale=alt.Scale(type="log", domain=[low / 1.2, high * 1.2], nice=False),
              axis=alt.Axis(values=decade_ticks(low / 1.2, high * 1.2), format="~g"))  # fmt: skip
    size = alt.Size("saes:Q", scale=alt.Scale(range=[20, 420], domainMin=1), legend=None)
    tooltip = [
        alt.Tooltip("d_sae:Q", title="width", format=",d"),
        alt.Tooltip("l0:Q", title="L0, about", format="~g"),
        alt.Tooltip("saes:Q", title="SAEs", format=",d"),
        alt.Tooltip("releases:Q", title="releases", format=",d"),
    ]
    dots = alt.Chart(as_part(table, LINEAR)).mark_circle(opacity=0.8)
    drawn = dots.encode(x=x, y=y, size=size, color=part_colour(), tooltip=tooltip)
    return alt.layer(drawn).properties(height=HEIGHT)


def _apart(widths: list[int]) -> list[int]:
    """The widths at which a tick has room: no two closer than a factor of 1.6, the narrowest first."""
    kept: list[int] = []
    for width in widths:
        if not kept or width >= 1.6 * kept[-1]:
            kept.append(width)
    return kept
