"""What simple quantities predict of the squared norm of the error, beside a linear map of x."""

from __future__ import annotations

import altair as alt
import polars as pl

from dmcore.charts.labels import spread
from dmcore.charts.numbers import fixed
from dmcore.charts.theme import TOTAL, as_part, part_colour_if
from dmcore.results.columns import mapped

PREDICTOR_NAMES = {
    "x": "x (linear map)",
    "token": "token identity",
    "norm": "norm of x",
    "loss": "model's loss",
    "entropy": "entropy of prediction",
    "position": "position",
    "l0": "active latents (L0)",
}
"""Names of the predictors of the `baselines` table."""

ROW = 32
AXIS = 60
"""Room for the axis below the rows, in pixels."""

LAYERS_HEIGHT = 340


def baselines_table(baselines: pl.DataFrame) -> pl.DataFrame:
    """Best predictor first; `name` and `text` for people, `is_x` for the linear map."""
    name = pl.col("predictor").replace_strict(PREDICTOR_NAMES, default=pl.col("predictor"))
    return (
        as_part(baselines, TOTAL)
        .with_columns(name=name, is_x=pl.col("predictor") == "x", zero=0.0)
        .sort("r2", descending=True)
    )


def baselines_chart(baselines: pl.DataFrame) -> alt.LayerChart:
    """A row a predictor, with its interval and its number."""
    table = baselines_table(baselines.filter(pl.col("r2").is_not_null() & pl.col("r2").is_not_nan()))
    table = table.with_columns(mapped(table["r2"], lambda v: fixed(v, 2)).alias("text"))
    order = table["name"].to_list()
    y = alt.Y(
        "name:N", sort=order, title=None, axis=alt.Axis(labelLimit=200, ticks=False, domain=False, labelOverlap=False)
    )
    lowest = float(table["r2"].min() or 0)  # type: ignore[arg-type]
    scale = alt.Scale(domain=[min(0.0, max(lowest, -0.3)), 1], clamp=True)
    title = "held-out R² of |e|²"
    x = alt.X("r2:Q", title=title, scale=scale, axis=alt.Axis(tickCount=6))
    tooltip = [
        alt.Tooltip("name:N", title="predictor"),
        *(alt.Tooltip(f"{c}:Q", format=".4f") for c in ("r2", "r2_low", "r2_high")),
    ]

    base = alt.Chart(table).encode(y=y, color=part_colour_if("datum.is_x"))
    start, end = alt.X("r2_low:Q", title=title), alt.X("r2_high:Q", title=title)
    dash = alt.condition("datum.is_x", alt.value([1, 0]), alt.value([4, 3]))
    return alt.layer(
        base.mark_rule(strokeWidth=2.5).encode(x=start, x2=alt.X2("r2_high:Q")),
        base.mark_rule(strokeWidth=1, opacity=0.55).encode(
            x=alt.X("zero:Q", title=title), x2=alt.X2("r2:Q"), strokeDash=dash
        ),
        base.mark_point(filled=True, size=90, opacity=1).encode(x=x, tooltip=tooltip),
        base.mark_text(align="left", dx=14, fontWeight="bold", fontSize=12).encode(x=end, text=alt.Text("text:N")),
    ).properties(height=ROW * len(order) + AXIS)


def baselines_by_layer_chart(table: pl.DataFrame) -> alt.LayerChart:
    """A line a predictor over layers, named at its end; the linear map of x solid, the others dashed.

    Args:
        table: the `baselines` tables of several SAEs, with their `layer`.
    """
    table = baselines_table(table.filter(pl.col("r2").is_not_null() & pl.col("r2").is_not_nan()))
    layers = table["layer"].unique().sort().to_list()
    low = max(min(float(table["r2"].min() or 0), 0.0), -0.3)  # type: ignore[arg-type]
    high = min(1.0, float(table["r2"].max() or 1) * 1.1)  # type: ignore[arg-type]
    last = layers[-1]
    x = alt.X("layer:Q", title="layer", scale=alt.Scale(domain=[layers[0], last + 0.42 * (last - layers[0] or 1)], nice=False),
              axis=alt.Axis(values=layers, format="d", grid=False))  # fmt: skip
    y = alt.Y("r2:Q", title="held-out R² of |e|²", scale=alt.Scale(domain=[low, high], clamp=True))
    tooltip = [alt.Tooltip("name:N", title="predictor"), alt.Tooltip("layer:O"), alt.Tooltip("r2:Q", format=".3f")]
    ends = table.filter(pl.col("layer") == last)
    ends = ends.with_columns(r2=pl.Series(spread(ends["r2"].to_list(), (high - low) * 17 / LAYERS_HEIGHT)))

    colour = part_colour_if("datum.is_x")
    lines = alt.Chart(table).encode(x=x, y=y, color=colour, detail=alt.Detail("name:N"))
    return alt.layer(
        lines.mark_line(strokeWidth=2).encode(
            strokeDash=alt.condition("datum.is_x", alt.value([1, 0]), alt.value([4, 3]))
        ),
        lines.mark_point(filled=True, size=40, opacity=1).encode(tooltip=tooltip),
        alt.Chart(ends)
        .mark_text(align="left", dx=9, fontWeight="bold", fontSize=12)
        .encode(x=alt.X("layer:Q"), y=alt.Y("r2:Q"), text=alt.Text("name:N"), color=colour),
    ).properties(height=LAYERS_HEIGHT)
