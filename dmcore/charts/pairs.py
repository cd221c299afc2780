"""How well the error norms of one SAE follow from those of another, for every pair of widths of a set."""

from __future__ import annotations

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, finite, known, with_text
from dmcore.charts.numbers import fixed

CELL = 46
"""Height of a row, in pixels."""

VALUES = {
    "r2": "held-out R² of the target's |e| from the source's |e|",
    "spearman": "Spearman correlation of |e| of source and target",
    "closed": "share of the unexplained variance that the source's nonlinear |e| closes",
}
"""Columns of the `pairs` table that can be drawn, and what they are."""

DARK_BELOW = "luminance(scale('color', datum.value)) < 0.2"
"""A Vega expression: the cell under a number is dark, whatever the theme."""


def pairs_table(pairs: pl.DataFrame, members: pl.DataFrame, value: str = "r2") -> pl.DataFrame:
    """The pairs of a set: `source_width`, `target_width`, their `source_l0`, `target_l0`, `value`, `low`, `high`.

    Args:
        pairs, members: tables of the same names; `members` of one set.
        value: `r2`, `spearman` or `closed`.
    """
    saes = members.select("sae", "d_sae", "l0").unique("sae")
    source = saes.rename({"sae": "source", "d_sae": "source_width", "l0": "source_l0"})
    target = saes.rename({"sae": "target", "d_sae": "target_width", "l0": "target_l0"})
    return (
        pairs.join(source, on="source")
        .join(target, on="target")
        .select(
            "source_width",
            "target_width",
            "source_l0",
            "target_l0",
            value=value,
            low=f"{value}_low",
            high=f"{value}_high",
        )
        .sort("source_width", "target_width")
    )


def pairs_chart(pairs: pl.DataFrame, members: pl.DataFrame, value: str = "r2") -> alt.LayerChart:
    """A cell a pair, coloured by the value, which is printed in it."""
    table = with_text(pairs_table(pairs, members, value).filter(known("value")), "value", "low", "high", "interval")
    table = table.with_columns(
        short=pl.Series([fixed(v, 2) for v in table["value"]], dtype=pl.String),
        source=pl.Series([f"{w:,}" for w in table["source_width"]], dtype=pl.String),
        target=pl.Series([f"{w:,}" for w in table["target_width"]], dtype=pl.String),
    )
    widths = sorted({*table["source_width"], *table["target_width"]})
    order = [f"{w:,}" for w in widths]
    values = finite(table["value"])
    low, high = min(values, default=0.0), max(values, default=1.0)
    scale = alt.Scale(domain=[low, high if high > low else low + 0.1], nice=False, zero=False)
    axis = alt.Axis(labelAngle=0, ticks=False, domain=False, grid=False)
    legend = alt.Legend(title=VALUES[value], orient="top", direction="horizontal", gradientLength=160,
                        gradientThickness=8, tickCount=4, format=".2~f", titleLimit=600)  # fmt: skip
    tooltip = [alt.Tooltip("source_width:Q", title="source width", format=",d"),
               alt.Tooltip("source_l0:Q", title="source L0", format=".1f"),
               alt.Tooltip("target_width:Q", title="target width", format=",d"),
               alt.Tooltip("target_l0:Q", title="target L0", format=".1f"),
               alt.Tooltip("interval:N", title={"r2": "R²"}.get(value, value))]  # fmt: skip
    base = alt.Chart(table).encode(
        x=alt.X("target:N", sort=order, title="target width (latents): the SAE whose |e| is predicted", axis=axis),
        y=alt.Y("source:N", sort=order, title="source width (latents)", axis=axis),
    )
    ink = alt.condition(DARK_BELOW, alt.value("#ffffff"), alt.value("#1a1a1a"))
    return alt.layer(
        base.mark_rect(cornerRadius=2).encode(color=alt.Color("value:Q", scale=scale, legend=legend), tooltip=tooltip),
        base.mark_text(fontSize=13, fontWeight="bold").encode(text=alt.Text("short:N"), color=ink),
    ).properties(height=CELL * len(order), autosize=FIT_WIDTH)
