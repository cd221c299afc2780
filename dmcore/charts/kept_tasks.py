"""What each method keeps of the model's own task, predicting the next token: points of accuracy lost, by kind of token."""

from __future__ import annotations

import json

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, at_ticks, known
from dmcore.charts.league import short_title
from dmcore.charts.numbers import compact
from dmcore.charts.theme import NEUTRAL
from dmcore.results.reduction import EVERY_KIND

ROW = 30
"""Height of a method, in pixels."""
LEAST = 50
"""Tokens that a kind needs to be drawn."""
CLEAN = "clean"


def tasks_table(tasks: pl.DataFrame, methods: pl.DataFrame) -> pl.DataFrame:
    """A row a method and kind: `method`, `title`, `kind`, `n_tokens`, `accuracy`, `lost`, `low`, `high` (percentage points).

    Args:
        tasks: `REDUCTION_TABLES["tasks"]`.
        methods: `REDUCTION_TABLES["methods"]`, for titles and order; those that were not run are left out.
    """
    titles = {row["method"]: short_title(row) for row in methods.to_dicts()}
    order = {name: k for k, name in enumerate(titles)}
    rows = tasks.filter((pl.col("n_tokens") >= LEAST) & pl.col("method").is_in(list(titles)) & known("accuracy_delta"))
    return (
        rows.with_columns(place=pl.col("method").replace_strict(order, default=None, return_dtype=pl.Int64))
        .sort("place", "order")
        .select(
            "method", "kind", "n_tokens", "accuracy", title=pl.col("method").replace_strict(titles, default=None),
            lost=-100 * pl.col("accuracy_delta"), low=-100 * pl.col("accuracy_delta_high"),
            high=-100 * pl.col("accuracy_delta_low"),
        )
    )  # fmt: skip


def tasks_chart(tasks: pl.DataFrame, methods: pl.DataFrame) -> alt.LayerChart:
    """A cell a method and kind of token, with the points of accuracy that it loses; the darker the more."""
    table = tasks_table(tasks, methods)
    names = table["method"].unique(maintain_order=True).to_list()
    titles = dict(table.select("method", "title").rows())
    kinds = table.unique("kind", keep="first", maintain_order=True).select("kind", "n_tokens").rows()
    clean = dict(tasks.filter(pl.col("method") == CLEAN).select("kind", "accuracy").rows())
    heads = [[f"{'all tokens' if kind == EVERY_KIND else kind} ({compact(n)})", f"clean {100 * clean[kind]:.0f} %"]
             if clean.get(kind) is not None else [kind] for kind, n in kinds]  # fmt: skip
    top = max([1.0, *table["lost"]])
    drawn = table.with_columns(
        x=pl.col("kind").replace_strict({kind: k for k, (kind, _) in enumerate(kinds)}, return_dtype=pl.Float64),
        y=pl.col("method").replace_strict({name: k for k, name in enumerate(names)}, return_dtype=pl.Float64),
        text=pl.Series([_points(value) for value in table["lost"]], dtype=pl.String),
        span=pl.Series([f"{_points(a)} to {_points(b)}" for a, b in table.select("low", "high").rows()], dtype=pl.String),
        light=pl.col("lost") > 0.6 * top,
    ).with_columns(
        left=pl.col("x") - 0.48, right=pl.col("x") + 0.48, upper=pl.col("y") - 0.46, lower=pl.col("y") + 0.46,
        shade=pl.col("lost").clip(0.0, top),
    )  # fmt: skip
    x_axis = alt.Axis(**at_ticks(list(range(len(kinds)))), labelExpr=f"{json.dumps(heads)}[datum.value]", orient="top",
                      grid=False, ticks=False, domain=False, labelFontSize=12, labelLimit=150, title=None)  # fmt: skip
    y_axis = alt.Axis(**at_ticks(list(range(len(names)))), grid=False, ticks=False, domain=False, labelLimit=310,
                      labelExpr=f"{json.dumps([titles[n] for n in names])}[datum.value]", labelFontSize=13,
                      title=None)  # fmt: skip
    x_scale = alt.Scale(domain=[-0.5, max(len(kinds), 1) - 0.5], nice=False, zero=False)
    y_scale = alt.Scale(domain=[max(len(names), 1) - 0.5, -0.5], nice=False, zero=False)
    tooltip = [alt.Tooltip("title:N", title="method"), alt.Tooltip("kind:N"), alt.Tooltip("text:N", title="points lost"),
               alt.Tooltip("span:N", title="95 % interval"), alt.Tooltip("accuracy:Q", format=".1%"),
               alt.Tooltip("n_tokens:Q", title="tokens", format=",d")]  # fmt: skip
    base = alt.Chart(drawn)
    cells = base.mark_rect().encode(
        x=alt.X("left:Q", scale=x_scale, axis=x_axis), x2=alt.X2("right:Q"), y=alt.Y("upper:Q", scale=y_scale, axis=y_axis),
        y2=alt.Y2("lower:Q"), tooltip=tooltip,
        color=alt.Color("shade:Q", scale=alt.Scale(domain=[0.0, top], range=["#f4f4f4", "#4d4d4d"]), legend=None),
    )  # fmt: skip
    words = base.mark_text(fontSize=12, fontWeight="bold").encode(
        x=alt.X("x:Q", scale=x_scale, axis=x_axis), y=alt.Y("y:Q", scale=y_scale, axis=y_axis), text=alt.Text("text:N"),
        color=alt.condition("datum.light", alt.value("white"), alt.value("#222222")), tooltip=tooltip,
    )  # fmt: skip
    first = (
        alt.Chart(pl.DataFrame({"x": [0.5]}))
        .mark_rule(color=NEUTRAL)
        .encode(x=alt.X("x:Q", scale=x_scale, axis=x_axis))
    )
    return alt.layer(cells, words, first).properties(height=ROW * max(len(names), 1), autosize=FIT_WIDTH)


def _points(value: float | None) -> str:
    """Percentage points with one decimal and a proper minus."""
    if value is None:
        return "-"
    return f"{value:.1f}".replace("-0.0", "0.0").replace("-", "\u2212")
