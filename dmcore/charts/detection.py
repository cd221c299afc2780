"""How well latents can be told from the text: accuracy by decile of activation, and the means of each part with its seeds."""

from __future__ import annotations

import json

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, at_ticks, finite, known, with_text
from dmcore.charts.labels import spread
from dmcore.charts.numbers import point
from dmcore.charts.panels import Panel, Panels
from dmcore.charts.part_names import colour, in_order, with_names
from dmcore.charts.theme import NEUTRAL

HEIGHT = 340
ROW = 64
"""Height of a part, in pixels."""
GUESS = 0.5
"""Share that who guesses tells rightly."""
MEASURES = {
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "silent_accuracy": "silent windows told rightly",
}
"""The panels of `means_chart` (measures of the table), and what they are called."""

_SILENT, _FIRST = 0.0, 1.6
"""Where silent windows and the lowest decile are along the axis; deciles are 1 apart."""
_APART = 0.15
"""Between the parts of a place."""


def deciles_table(table: pl.DataFrame) -> pl.DataFrame:
    """A row a number: `part` (named), `seed` (null for the mean over seeds), `windows`, `n` (latents), `value`, `low`, `high`.

    Args:
        table: `dmcore.explain.compare.SAES`.
    """
    rows = table.filter(pl.col("measure").is_in(["silent_accuracy", "decile_accuracy"]) & known("value"))
    words = pl.when(pl.col("decile").is_null()).then(pl.lit("silent")).otherwise(
        pl.format("decile {}", pl.col("decile") + 1)
    )  # fmt: skip
    order = {part: k for k, part in enumerate(in_order(rows))}
    rows = with_names(rows).with_columns(windows=words).sort(
        pl.col("part").replace_strict(order), "seed", "decile", nulls_last=False, maintain_order=True
    )  # fmt: skip
    return rows.select("part", "seed", "windows", "decile", "n", "value", "low", "high")


def deciles_chart(table: pl.DataFrame) -> alt.LayerChart:
    """Share of windows told rightly, silent ones and each decile: a line with intervals a part, a faint one a seed."""
    rows, order = deciles_table(table), in_order(table)
    shift = {part: _APART * (k - (len(order) - 1) / 2) for k, part in enumerate(order)}
    place = pl.col("decile").cast(pl.Float64) + _FIRST
    rows = rows.with_columns(
        at=place.fill_null(_SILENT) + pl.col("part").replace_strict(shift, return_dtype=pl.Float64)
    )
    rows = with_text(rows, "value", "low", "high")
    mean, each = rows.filter(pl.col("seed").is_null()), rows.filter(pl.col("seed").is_not_null())
    low = max(0.0, min([0.45, *(v - 0.03 for v in finite([*rows["value"], *mean["low"]]))]))
    last = _FIRST + 9
    x, y = _windows_axis(last), _share_axis("value:Q", low)
    tooltip = [alt.Tooltip("part:N"), alt.Tooltip("seed:Q"), alt.Tooltip("windows:N"),
               alt.Tooltip("text:N", title="told rightly"), alt.Tooltip("n:Q", title="latents", format=",d")]  # fmt: skip
    bars = alt.Chart(mean.filter(known("low") & known("high"))).mark_rule(strokeWidth=2)
    return alt.layer(
        *_guess(last + 0.5, "guessing"),
        alt.Chart(each.filter(pl.col("decile").is_not_null())).mark_line(strokeWidth=1, opacity=0.35).encode(
            x=x, y=y, color=colour(), detail=[alt.Detail("part:N"), alt.Detail("seed:N")]
        ),
        alt.Chart(mean.filter(pl.col("decile").is_not_null())).mark_line(strokeWidth=2.5).encode(
            x=x, y=y, color=colour(), detail=[alt.Detail("part:N")]
        ),
        alt.Chart(each).mark_point(filled=True, size=14, opacity=0.45).encode(x=x, y=y, color=colour(), tooltip=tooltip),
        bars.encode(x=x, y=_share_axis("low:Q", low), y2=alt.Y2("high:Q"), color=colour()),
        alt.Chart(mean).mark_point(filled=True, size=46, opacity=1).encode(x=x, y=y, color=colour(), tooltip=tooltip),
        _names(mean, 1 - low, last),
    ).properties(height=HEIGHT, autosize=FIT_WIDTH)  # fmt: skip


def _windows_axis(last: float) -> alt.X:
    labels = {f"{_SILENT:.1f}": "silent", **{f"{_FIRST + k:.1f}": str(k + 1) for k in range(10)}}
    axis = alt.Axis(**at_ticks([float(place) for place in labels]), grid=False, ticks=False, labelFlush=False,
                    labelExpr=f"{json.dumps(labels)}[format(datum.value, '.1f')]")  # fmt: skip
    scale = alt.Scale(domain=[_SILENT - 0.7, last + 3.3], nice=False, zero=False)
    title = "silent windows, and deciles of activation (10: strongest)"
    return alt.X("at:Q", title=title, scale=scale, axis=axis)


def _share_axis(field: str, low: float) -> alt.Y:
    scale = alt.Scale(domain=[low, 1.0], nice=False, zero=False)
    return alt.Y(field, title="windows told rightly (mean over latents)", scale=scale,
                 axis=alt.Axis(format=".0%", tickCount=6))  # fmt: skip


def _guess(end: float, words: str) -> list[alt.Chart]:
    """The dashed line of who guesses."""
    line = alt.Chart(pl.DataFrame({"at": [_SILENT - 0.7], "end": [end], "value": [GUESS], "text": [words]}))
    return [
        line.mark_rule(color=NEUTRAL, strokeDash=[5, 4], strokeWidth=1.5).encode(
            x=alt.X("at:Q"), x2=alt.X2("end:Q"), y=alt.Y("value:Q")
        ),
        line.mark_text(align="right", dy=-9, color=NEUTRAL, fontSize=12).encode(
            x=alt.X("end:Q"), y=alt.Y("value:Q"), text=alt.Text("text:N")
        ),
    ]


def _names(mean: pl.DataFrame, height: float, last: float) -> alt.Chart:
    """Each part, named beside the end of its line."""
    ends = mean.filter(pl.col("decile").is_not_null()).group_by("part", maintain_order=True).agg(
        pl.col("value").sort_by("decile").last()
    )  # fmt: skip
    gap = height * 17 / HEIGHT
    ends = ends.with_columns(
        pl.lit(last + 0.3).alias("at"), pl.Series("value", spread(ends["value"].to_list(), gap), dtype=pl.Float64)
    )
    words = alt.Chart(ends).mark_text(align="left", dx=12, fontWeight="bold", fontSize=12)
    return words.encode(x=alt.X("at:Q"), y=alt.Y("value:Q"), text=alt.Text("part:N"), color=colour())


def means_table(table: pl.DataFrame) -> pl.DataFrame:
    """A row a number: `part` (named), `seed` (null for the mean over seeds), `measure`, `n` (latents), `value`, `low`, `high`.

    Args:
        table: `dmcore.explain.compare.SAES`.
    """
    rows = table.filter(pl.col("measure").is_in(list(MEASURES)) & known("value"))
    order = {part: k for k, part in enumerate(in_order(rows))}
    rows = with_names(rows).select("part", "seed", "measure", "n", "value", "low", "high")
    place = pl.col("measure").replace_strict({name: k for k, name in enumerate(MEASURES)})
    return rows.sort(pl.col("part").replace_strict(order), place, "seed", nulls_last=False)


def means_chart(table: pl.DataFrame) -> alt.LayerChart:
    """A row a part, a panel a measure: a dot with interval a seed, the mean over seeds as a line and in words."""
    rows, order = means_table(table), in_order(table)
    shown = [measure for measure in MEASURES if measure in set(rows["measure"])] or list(MEASURES)
    low = max(0.0, min([0.45, *(v - 0.02 for v in finite([*rows["value"], *rows["low"]]))]))
    panels = Panels([Panel(m, low, 1.0, percent=m != "auc", ticks=_ticks(low)) for m in shown], gap=0.22, room=0.03)
    height = {part: float(k) for k, part in enumerate(order)}
    rank = (pl.col("seed").rank("dense").over("part", "measure") - 0.5) / pl.col("seed").n_unique().over(
        "part", "measure"
    )
    drawn = panels.place(with_text(rows, "value", "low", "high"), "measure", x="value", x_low="low", x_high="high")
    drawn = drawn.with_columns(
        row=pl.col("part").replace_strict(height, return_dtype=pl.Float64), name=pl.col("measure").replace(MEASURES)
    )
    mean = drawn.filter(pl.col("seed").is_null())
    each = drawn.filter(pl.col("seed").is_not_null()).with_columns(at=pl.col("row") + 0.5 * (rank - 0.5) + 0.1)
    mean = mean.with_columns(
        top=pl.col("row") - 0.2, bottom=pl.col("row") + 0.42, above=pl.col("row") - 0.33,
        words=pl.Series([_percent(m, *v) for m, *v in mean.select("measure", "value", "low", "high").rows()],
                        dtype=pl.String),
    )  # fmt: skip
    x, y = alt.X("x:Q", **panels.axis(None, grid=False)), _rows_axis("at:Q", order)
    tooltip = [alt.Tooltip("part:N"), alt.Tooltip("seed:Q"), alt.Tooltip("name:N", title="measure"),
               alt.Tooltip("text:N", title="value"), alt.Tooltip("n:Q", title="latents", format=",d")]  # fmt: skip
    return alt.layer(
        *_guesses(panels, low),
        alt.Chart(mean).mark_rule(strokeWidth=5, opacity=0.3).encode(
            x=alt.X("x:Q"), y=alt.Y("top:Q"), y2=alt.Y2("bottom:Q"), color=colour(), tooltip=tooltip
        ),
        alt.Chart(each.filter(known("x_low") & known("x_high"))).mark_rule(strokeWidth=2).encode(
            x=alt.X("x_low:Q"), x2=alt.X2("x_high:Q"), y=y, color=colour()
        ),
        alt.Chart(each).mark_point(filled=True, size=50, opacity=1).encode(x=x, y=y, color=colour(), tooltip=tooltip),
        alt.Chart(mean).mark_text(fontWeight="bold", fontSize=12).encode(
            x=alt.X("x:Q"), y=alt.Y("above:Q"), text=alt.Text("words:N"), color=colour()
        ),
        _heads(panels),
    ).properties(height=ROW * max(len(order), 1), autosize=FIT_WIDTH)  # fmt: skip


def _ticks(low: float) -> tuple[float, ...]:
    return tuple(tick for tick in (0.0, 0.25, 0.5, 0.75, 1.0) if tick >= low)


def _percent(measure: str, value: float, low: float | None, high: float | None) -> str:
    """The mean as its panel has it."""
    if measure == "auc":
        return point(value, low, high)
    return f"{point(*(None if v is None else 100 * v for v in (value, low, high)))} %"


def _rows_axis(field: str, order: list[str]) -> alt.Y:
    """An axis whose whole numbers are rows, the first on top, each with its name."""
    scale = alt.Scale(domain=[len(order) - 0.45, -0.55], nice=False, zero=False)
    axis = alt.Axis(**at_ticks(list(range(len(order)))), labelExpr=f"{json.dumps(order)}[datum.value]", grid=False,
                    ticks=False, domain=False, labelLimit=240, labelFontSize=13, labelPadding=8)  # fmt: skip
    return alt.Y(field, title=None, scale=scale, axis=axis)


def _guesses(panels: Panels, low: float) -> list[alt.Chart]:
    """A dashed line through each panel where who guesses is."""
    if low > GUESS:
        return []
    rows = pl.DataFrame({"measure": [panel.name for panel in panels.panels], "value": [GUESS] * len(panels.panels)})
    rule = alt.Chart(panels.place(rows, "measure", x="value"))
    return [rule.mark_rule(color=NEUTRAL, strokeDash=[5, 4], strokeWidth=1.5).encode(x=alt.X("x:Q"))]


def _heads(panels: Panels) -> alt.Chart:
    spans = panels.spans().with_columns(text=pl.col("name").replace_strict(MEASURES))
    words = alt.Chart(spans).mark_text(align="left", color=NEUTRAL, fontSize=12)
    return words.encode(x=alt.X("start:Q"), y=alt.value(-11), text=alt.Text("text:N"))
