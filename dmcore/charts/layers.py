"""R2 of the error vector and of its squared norm over the layers of a stream."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from dmcore.charts.labels import spread
from dmcore.charts.ridge import METRIC_NAMES, METRIC_PARTS
from dmcore.charts.theme import NEUTRAL, part_colour

HEIGHT = 340


def layers_table(records: pl.DataFrame) -> pl.DataFrame:
    """One row per layer and metric: `layer`, `sae`, `metric`, `part` (its colour), `r2`, `low`, `high`."""
    return pl.concat(
        records.select(
            "layer",
            "sae",
            metric=pl.lit(METRIC_NAMES[metric]),
            part=pl.lit(part),
            r2=pl.col(metric),
            low=pl.col(f"{metric}_low"),
            high=pl.col(f"{metric}_high"),
        )
        for metric, part in METRIC_PARTS.items()
    ).sort("metric", "layer")


def layers_chart(records: pl.DataFrame, selected: dict[str, Any]) -> alt.LayerChart:
    """Two lines with intervals, named at their ends, with the selected layer marked.

    Args:
        records: rows of `RECORD`, one per layer.
        selected: the row of the chosen SAE.
    """
    table = layers_table(records)
    layers = table["layer"].unique().sort().to_list()
    first, last = layers[0], layers[-1]
    x = alt.X("layer:Q", title="layer", scale=alt.Scale(domain=[first, last + 0.42 * (last - first or 1)], nice=False),
              axis=alt.Axis(values=layers, format="d", grid=False))  # fmt: skip
    tops = table.select(pl.max_horizontal("r2", "high").fill_nan(None).max()).item() or 1.0
    bottom = min(0.0, table.select(pl.min_horizontal("r2", "low").fill_nan(None).min()).item() or 0.0)
    top = min(1.0, tops * 1.12)
    y = alt.Y("r2:Q", title="held-out R²", scale=alt.Scale(domain=[bottom, top], nice=False))
    base = alt.Chart(table).encode(x=x, color=part_colour())
    tooltip = [
        *(alt.Tooltip(f) for f in ("layer:O", "metric:N", "sae:N")),
        *(alt.Tooltip(f"{c}:Q", format=".4f") for c in ("r2", "low", "high")),
    ]
    ends = table.filter(pl.col("layer") == last)
    ends = ends.with_columns(r2=pl.Series(spread(ends["r2"].to_list(), (top - bottom) * 18 / HEIGHT)))
    here = alt.Chart(pl.DataFrame({"layer": [selected["layer"]]}))
    return alt.layer(
        here.mark_rule(color=NEUTRAL, strokeDash=[2, 3]).encode(x=x),
        base.mark_line(strokeWidth=2.5).encode(y=y),
        base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title="held-out R²"), y2=alt.Y2("high:Q")),
        base.mark_point(filled=True, size=55, opacity=1).encode(y=y, tooltip=tooltip),
        alt.Chart(ends).mark_text(align="left", dx=9, fontWeight="bold", fontSize=12)
        .encode(x=alt.X("layer:Q"), y=alt.Y("r2:Q"), text=alt.Text("metric:N"), color=part_colour()),
    ).properties(height=HEIGHT)  # fmt: skip
