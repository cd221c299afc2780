"""The same split under other settings: how much the choice of skipped positions and bias matters."""

from __future__ import annotations

import altair as alt
import polars as pl

from dmcore.charts.ridge import METRIC_NAMES, METRIC_PARTS
from dmcore.charts.theme import NEUTRAL, part_colour

ROW = 32
AXIS = 60
"""Height of a row and of the axis below the rows, in pixels."""


def setting_name(skip: int, fit_bias: bool) -> str:
    """`skip 16, bias`."""
    return f"skip {skip}, {'bias' if fit_bias else 'no bias'}"


def variants_table(variants: pl.DataFrame) -> pl.DataFrame:
    """One row per setting and metric: `setting`, `metric`, `part` (its colour), `r2`, `low`, `high`."""
    ordered = variants.sort(["skip_positions", "fit_bias"], descending=[False, True])
    rows = [
        {
            "setting": setting_name(row["skip_positions"], row["fit_bias"]),
            "metric": METRIC_NAMES[metric],
            "part": part,
            "r2": row[metric],
            "low": row[f"{metric}_low"],
            "high": row[f"{metric}_high"],
            "n_tokens": row["n_tokens"],
        }
        for row in ordered.to_dicts()
        for metric, part in METRIC_PARTS.items()
    ]
    return pl.DataFrame(rows)


def variants_chart(variants: pl.DataFrame, shown: str) -> alt.LayerChart:
    """A row a setting, a dot a metric, with its interval.

    Args:
        variants: the table of a `Summary`.
        shown: `setting_name` of the setting whose numbers the page shows.
    """
    table = variants_table(variants).with_columns(shown=pl.col("setting") == shown)
    order = table["setting"].unique(maintain_order=True).to_list()
    lows = table["low"].fill_nan(None).min()
    # A setting that fails (no bias, no skipping) can be far below zero: it stays at the edge, the tooltip has its number.
    start = max(min(0.0, float(lows) if lows is not None else 0.0), -0.5)  # type: ignore[arg-type]
    tops = table.select(pl.max_horizontal("r2", "high").fill_nan(None).max()).item()
    top = min(1.0, (tops if tops is not None and tops > 0 else 0.5) * 1.1)
    y = alt.Y(
        "setting:N",
        sort=order,
        title=None,
        axis=alt.Axis(labelLimit=200, ticks=False, domain=False, labelOverlap=False),
    )
    x = alt.X("r2:Q", title="held-out R²", scale=alt.Scale(domain=[start, top], clamp=True), axis=alt.Axis(tickCount=6))
    base = alt.Chart(table).encode(y=y, color=part_colour())
    tooltip = [alt.Tooltip("setting:N"), alt.Tooltip("metric:N"), alt.Tooltip("r2:Q", format=".4f", title="R²"),
               alt.Tooltip("low:Q", format=".4f"), alt.Tooltip("high:Q", format=".4f"),
               alt.Tooltip("n_tokens:Q", format=",d", title="tokens")]  # fmt: skip
    dots = base.mark_point(filled=True, opacity=1).encode(
        x=x, size=alt.condition("datum.shown", alt.value(130), alt.value(45)), tooltip=tooltip
    )
    apart = (pl.col("r2").max() - pl.col("r2").min()).alias("apart")
    clearest = table.group_by("setting").agg(apart).sort("apart", "setting")["setting"][-1]
    heads = table.filter(pl.col("setting") == clearest)
    row = alt.Chart(pl.DataFrame({"setting": [shown]})).mark_bar(color=NEUTRAL, opacity=0.13, height=ROW - 4)
    return alt.layer(
        row.encode(y=y),
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title="held-out R²"), x2=alt.X2("high:Q")),
        dots,
        alt.Chart(heads).mark_text(dy=-15, fontWeight="bold", clip=False)
        .encode(x=alt.X("r2:Q"), y=y, text=alt.Text("metric:N"), color=part_colour()),
    ).properties(height=ROW * len(order) + AXIS)  # fmt: skip
