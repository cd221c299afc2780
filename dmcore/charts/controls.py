"""Controls: one row each, what it is against what it should be, every row on a scale of its own; and the learning curve."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, finite, known, linear_ends, linear_y, log_x
from dmcore.charts.numbers import MISSING
from dmcore.charts.theme import LINEAR, NEUTRAL, NONLINEAR, TOTAL, as_part, part_colour
from dmcore.results.controls import DIFFERS, FAILED, GROUPS, PASSED, UNDECIDED

ROW = 40
"""Height of a control, in pixels."""
ICONS = {PASSED: "✓", FAILED: "✗", UNDECIDED: "?"}
SHAPES = {PASSED: "circle", FAILED: "cross", UNDECIDED: "diamond"}
_PAD, _LEAST = 0.14, 0.012
_BAND, _VERDICT, _GAP = 0.635, 0.875, 0.025
"""Where the scale of a row begins and its verdict stands, from 0 to 1 of the width, and the room between: texts of 11 pixels fit
beside it in 620."""
_PLACES = ("left", "right", "place", "place_low", "place_high")
_NO_AXIS = alt.Axis(labels=False, ticks=False, domain=False, grid=False)
"""Not None, which Vega-Lite cannot put together with the layers that say nothing of it."""
CURVE_HEIGHT = 300


def fine(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A number with as many decimals as its interval supports, up to six: `−0.00250`; a bias is small."""
    if value is None:
        return MISSING
    decimals = 2 if low is None or high is None or high - low < 1e-9 else 1 - math.floor(math.log10((high - low) / 2))
    return signed(f"{value:.{min(max(decimals, 0), 6)}f}" if decimals != 2 or value == 0 else f"{value:.3g}")


def signed(text: str) -> str:
    """A number's text with a true minus, and none before 0."""
    return text.lstrip("-") if not float(text) else text.replace("-", "−")


def value_text(row: dict[str, Any]) -> str:
    """`−0.00250 (−0.00252 to −0.00248)`."""
    value, low, high = (row[f"value{end}"] for end in ("", "_low", "_high"))
    if value is None or low is None or high is None:
        return fine(value)
    if high - low < 1e-6:
        return signed(f"{value:.5f}".rstrip("0").rstrip("."))
    return f"{fine(value, low, high)} ({fine(low, low, high)} to {fine(high, low, high)})"


def expected_text(row: dict[str, Any]) -> str:
    """`−0.00251`, `0 ± 0.0002`, `above 1`, `not 0 ± 0.002`."""
    low, high, exact = row["expected_low"], row["expected_high"], row["expected"]
    no = "not " if row["rule"] == DIFFERS else ""
    if low is None and high is None:
        return MISSING
    if low is None or high is None:
        return f"{no}below {high:.3g}" if low is None else f"{no}above {low:.3g}"
    if high - low <= 1e-12:
        return no + signed(f"{low:.3g}")
    if abs(low + high) <= 1e-9 * abs(high):
        return f"{no}0 ± {high:.2g}"
    if exact is not None and exact in (low, high) and high - low < 1e-3 * abs(exact):
        return f"{no}{exact:.3g}"
    return no + signed(f"{low:.3g}") + " to " + signed(f"{high:.3g}")


def controls_table(controls: pl.DataFrame) -> pl.DataFrame:
    """A row a control, in the order of the groups: what is drawn, with the numbers as text."""
    rows = controls.to_dicts()
    return controls.with_columns(
        pl.Series("is_text", [value_text(row) for row in rows], dtype=pl.String),
        pl.Series("should_text", [expected_text(row) for row in rows], dtype=pl.String),
        pl.Series("verdict_text", [f"{ICONS[row['verdict']]} {row['verdict']}" for row in rows], dtype=pl.String),
    )


def controls_chart(controls: pl.DataFrame) -> alt.LayerChart:
    """A row a control: its name over its numbers, the expected range as a grey band with the value and its interval, the
    verdict as word, icon and shape.

    Args:
        controls: `CONTROL_TABLES["controls"]`.
    """
    rows, heads, height = _placed(controls_table(controls).to_dicts())
    places = [_BAND + (_VERDICT - _GAP - _BAND) * pl.col(c).cast(pl.Float64) for c in _PLACES]
    drawn = pl.DataFrame(rows, infer_schema_length=None).with_columns(
        numbers=pl.format("is {}; should be {}", "is_text", "should_text"),
        **{f"at_{name}": place for name, place in zip(_PLACES, places, strict=True)},
    )
    y = alt.Y("at:Q", title=None, axis=_NO_AXIS, scale=alt.Scale(domain=[height - 0.4, -0.7], nice=False, zero=False))
    x = {"title": None, "axis": _NO_AXIS, "scale": alt.Scale(domain=[0, 1], nice=False, zero=False)}
    tooltip = [alt.Tooltip("title:N", title="control"), alt.Tooltip("what:N", title="what is done"),
               alt.Tooltip("quantity:N", title="number"), alt.Tooltip("is_text:N", title="is"),
               alt.Tooltip("should_text:N", title="should be"), alt.Tooltip("why:N", title="why"),
               alt.Tooltip("note:N", title="note"), alt.Tooltip("n_tokens:Q", title="tokens", format=",d")]  # fmt: skip
    base = alt.Chart(drawn)
    differs = alt.datum.rule == DIFFERS
    band = base.encode(
        x=alt.X("at_left:Q", **x), x2=alt.X2("at_right:Q"), y=alt.Y("top:Q"), y2=alt.Y2("bottom:Q"), tooltip=tooltip
    )
    there = as_part(drawn.filter(known("place")), TOTAL)
    mark = alt.Shape("verdict:N", scale=alt.Scale(domain=list(SHAPES), range=list(SHAPES.values())), legend=None)
    line = alt.Chart(drawn.with_columns(start=pl.lit(_BAND), end=pl.lit(_VERDICT - _GAP)))
    return alt.layer(
        line.mark_rule(color=NEUTRAL, opacity=0.35).encode(x=alt.X("start:Q", **x), x2=alt.X2("end:Q"), y=y),
        band.transform_filter(~differs).mark_rect(color=NEUTRAL, opacity=0.38),
        band.transform_filter(differs).mark_rect(
            fillOpacity=0.0, stroke=NEUTRAL, strokeDash=[3, 3], strokeWidth=1.5, strokeOpacity=1
        ),
        alt.Chart(there)
        .mark_rule(strokeWidth=2.5)
        .encode(x=alt.X("at_place_low:Q"), x2=alt.X2("at_place_high:Q"), y=y, color=part_colour()),
        alt.Chart(there)
        .mark_point(filled=True, size=85, opacity=1)
        .encode(x=alt.X("at_place:Q"), y=y, color=part_colour(), shape=mark, tooltip=tooltip),
        *_texts(as_part(drawn, TOTAL), heads, tooltip),
    ).properties(height=round(ROW * height), autosize=FIT_WIDTH)


def _texts(drawn: pl.DataFrame, heads: pl.DataFrame, tooltip: list[alt.Tooltip]) -> list[alt.Chart]:
    """The name of a control, its numbers below that, and its verdict at the right; names of groups above theirs."""
    layers = []
    for name, place, dy, size, weight in (
        ("title", 0.0, -8, 12, "normal"), ("numbers", 0.0, 8, 11, "normal"), ("verdict_text", _VERDICT, 0, 12, "bold"),
    ):  # fmt: skip
        text = alt.Chart(drawn.with_columns(place_of_text=pl.lit(place)))
        grey: dict[str, Any] = {"color": NEUTRAL} if name == "numbers" else {}
        text = text.mark_text(align="left", fontSize=size, fontWeight=weight, dy=dy, **grey)  # type: ignore[arg-type]
        colour: dict[str, Any] = {} if grey else {"color": part_colour()}
        layers.append(
            text.encode(x=alt.X("place_of_text:Q"), y=alt.Y("at:Q"), text=f"{name}:N", tooltip=tooltip, **colour)
        )
    head = alt.Chart(as_part(heads, TOTAL)).mark_text(align="left", fontSize=13, fontWeight="bold")
    return [*layers, head.encode(x=alt.X("place_of_text:Q"), y=alt.Y("at:Q"), text="words:N", color=part_colour())]


def _placed(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], pl.DataFrame, float]:
    """Rows with their places; names of groups with theirs; the height in rows."""
    heads: list[dict[str, Any]] = []
    at, group, placed = 0.0, "", []
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            at += 0.2 if placed else 0.0
            heads.append({"place_of_text": 0.0, "at": at - 0.1, "words": GROUPS[group]})
            at += 0.75
        placed.append(row | _on_scale(row) | {"at": at, "top": at - 0.24, "bottom": at + 0.24})
        at += 1
    return placed, pl.DataFrame(heads), at


def _on_scale(row: dict[str, Any]) -> dict[str, float | None]:
    """Band, value and interval of a row between 0 and 1."""
    ends = finite([row["expected_low"], row["expected_high"], row["value"], row["value_low"], row["value_high"]])
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    spread = high - low or max(abs(high), 1e-6)
    low, high = low - _PAD * spread, high + _PAD * spread

    def place(value: float | None, beyond: float | None = None) -> float | None:
        return beyond if value is None or not math.isfinite(value) else (value - low) / (high - low)

    nowhere = row["expected_low"] is None and row["expected_high"] is None
    left, right = (
        place(row["expected_low"], None if nowhere else 0.0),
        place(row["expected_high"], None if nowhere else 1.0),
    )
    if left is not None and right is not None and right - left < _LEAST:
        middle = (left + right) / 2
        left, right = middle - _LEAST / 2, middle + _LEAST / 2
    return {"left": left, "right": right, "place": place(row["value"]), "place_low": place(row["value_low"]),
            "place_high": place(row["value_high"])}  # fmt: skip


CURVES = {
    "r2_error": ("held-out R² of the error vector", LINEAR),
    "fvu_nonlinear": ("nonlinear FVU (share of the variance)", NONLINEAR),
}


def curve_table(curve: pl.DataFrame, metric: str) -> pl.DataFrame:
    """The points of a metric that could be had, fewest tokens first."""
    return (
        curve.filter(known(metric))
        .sort("n_train")
        .select("share", "n_train", metric, f"{metric}_low", f"{metric}_high")
    )


def curve_chart(curve: pl.DataFrame, asymptotes: pl.DataFrame, metric: str) -> alt.LayerChart:
    """A number against training tokens, with its interval, and where it tends to, dashed.

    Args:
        curve, asymptotes: of `CONTROL_TABLES`.
        metric: of `CURVES`.
    """
    title, part = CURVES[metric]
    table = curve_table(curve, metric)
    drawn = as_part(table, part)
    tends = asymptotes.filter((pl.col("metric") == metric) & known("value"))
    low, high = linear_ends([*table[metric], *table[f"{metric}_low"], *table[f"{metric}_high"], *tends["value"]])
    numbers = finite(table["n_train"]) or [1.0]
    first, last = min(numbers) / 1.12, max(numbers) * 1.12
    x = log_x("n_train:Q", "training tokens of a fold (log scale)", first, last)
    y = linear_y(f"{metric}:Q", title, low, high)
    tooltip = [alt.Tooltip("n_train:Q", title="training tokens", format=",d"),
               alt.Tooltip("share:Q", title="share of the training contexts", format=".3g"),
               alt.Tooltip(f"{metric}:Q", title=title, format=".4f")]  # fmt: skip
    base = alt.Chart(drawn).encode(x=x, color=part_colour())
    return alt.layer(
        *_tendency(tends, first, last, part),
        base.mark_area(opacity=0.2).encode(y=alt.Y(f"{metric}_low:Q"), y2=alt.Y2(f"{metric}_high:Q")),
        base.mark_line(strokeWidth=2.5).encode(y=y),
        base.mark_point(filled=True, size=60, opacity=1).encode(y=y, tooltip=tooltip),
    ).properties(height=CURVE_HEIGHT, autosize=FIT_WIDTH)


def _tendency(tends: pl.DataFrame, first: float, last: float, part: str) -> list[alt.Chart]:
    if tends.is_empty():
        return []
    row = tends.row(0, named=True)
    words = f"with any number of tokens: {fine(row['value'], row['value_low'], row['value_high'])}"
    rows = as_part(pl.DataFrame({"first": [first], "n_train": [last], "value": [row["value"]], "words": [words]}), part)
    rule = alt.Chart(rows).mark_rule(strokeDash=[5, 4], strokeWidth=1.5)
    text = alt.Chart(rows).mark_text(align="left", dx=6, dy=-8, fontSize=12, fontWeight="bold")
    return [
        rule.encode(x=alt.X("first:Q"), x2=alt.X2("n_train:Q"), y=alt.Y("value:Q"), color=part_colour()),
        text.encode(x=alt.X("first:Q"), y=alt.Y("value:Q"), text=alt.Text("words:N"), color=part_colour()),
    ]


def spectra_chart(spectra: pl.DataFrame) -> alt.LayerChart:
    """Variance of the predicted error in each direction, and that of shuffled errors, dashed.

    Args:
        spectra: `CONTROL_TABLES["spectra"]`.
    """
    table = spectra_table(spectra)
    mine, null = as_part(table, LINEAR), table
    low = max(min([v for v in finite([*table["own"], *table["shuffled"]]) if v > 0] or [1e-6]), 1e-7)
    high = max([low * 10, *finite(table["own"]), *finite(table["shuffled"])]) * 1.3
    scale = alt.Scale(type="log", domain=[low, high], nice=False, clamp=True)
    y = alt.Y("own:Q", title="share of the error's variance (log scale)", scale=scale)
    y = y.axis(alt.Axis(format="~g", tickCount=5))
    x = log_x("rank:Q", "direction of the predicted error (log scale)", 0.95, max(len(table), 2) * 1.05)
    tooltip = [alt.Tooltip("rank:Q", title="direction"), alt.Tooltip("own:Q", title="the SAE's error", format=".3g"),
               alt.Tooltip("shuffled:Q", title="shuffled", format=".3g")]  # fmt: skip
    ends = pl.DataFrame({"rank": [1.0, 1.0], "own": [table["own"][0], table["shuffled"][0]], "words": ["the SAE's error",
                         "shuffled errors: chance"]})  # fmt: skip
    return alt.layer(
        alt.Chart(null).mark_line(strokeDash=[5, 4], color=NEUTRAL).encode(
            x=x, y=alt.Y("shuffled:Q", scale=scale), tooltip=tooltip
        ),
        alt.Chart(mine).mark_line(strokeWidth=2.5).encode(x=x, y=y, color=part_colour(), tooltip=tooltip),
        alt.Chart(ends).mark_text(align="left", dx=6, dy=-9, fontSize=12, fontWeight="bold", color=NEUTRAL).encode(
            x=alt.X("rank:Q"), y=alt.Y("own:Q"), text=alt.Text("words:N")
        ),
    ).properties(height=CURVE_HEIGHT, autosize=FIT_WIDTH)  # fmt: skip


def spectra_table(spectra: pl.DataFrame) -> pl.DataFrame:
    """Directions that have a share, the largest first."""
    return spectra.filter(known("own") & known("shuffled")).sort("rank")
