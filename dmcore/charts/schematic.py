"""What dark matter is, drawn to scale with one SAE's numbers: x = Sae(x) + linear error + nonlinear error.

1. The upper bar is all of the activation's variance: what Sae(x) keeps, and at its right end what it misses.
2. The lower bar is the missed part, enlarged to the full width.
"""

from __future__ import annotations

import altair as alt
import polars as pl

from dmcore.charts.theme import LINEAR, NEUTRAL, NONLINEAR, TOTAL, as_part, part_colour

HEIGHT = 210

_UPPER = (86.0, 66.0)
_LOWER = (36.0, 16.0)


def schematic_table(fvu: float, fvu_nonlinear: float) -> pl.DataFrame:
    """The bars: `bar`, `part`, `start` and `end` on 0 to 1, `share` of the activation's variance, and a `text`.

    Args:
        fvu: share of the activation's variance that the SAE misses.
        fvu_nonlinear: share that is missed even with the linear error added back.
    """
    missed = min(max(fvu, 1e-9), 1.0)
    nonlinear = min(max(fvu_nonlinear, 0.0), missed)
    linear, kept = missed - nonlinear, 1 - missed
    rows = [
        ("upper", "kept", 0.0, kept, kept, f"Sae(x) keeps {kept:.1%}"),
        ("upper", LINEAR, kept, kept + linear, linear, ""),
        ("upper", NONLINEAR, kept + linear, 1.0, nonlinear, ""),
        ("lower", LINEAR, 0.0, linear / missed, linear, "linear error"),
        ("lower", NONLINEAR, linear / missed, 1.0, nonlinear, "nonlinear error"),
    ]
    return pl.DataFrame(rows, schema=["bar", "part", "start", "end", "share", "text"], orient="row")


def schematic_chart(fvu: float, fvu_nonlinear: float) -> alt.LayerChart:
    """The two bars and their labels."""
    table = schematic_table(fvu, fvu_nonlinear)
    levels = {"upper": _UPPER, "lower": _LOWER}
    bars = table.with_columns(
        top=pl.col("bar").replace_strict({k: v[0] for k, v in levels.items()}),
        bottom=pl.col("bar").replace_strict({k: v[1] for k, v in levels.items()}),
        middle=(pl.col("start") + pl.col("end")) / 2,
        height=pl.col("bar").replace_strict({k: sum(v) / 2 for k, v in levels.items()}),
        # a label needs about a hundredth of the width for each letter
        text=pl.when((pl.col("end") - pl.col("start")) > 0.0125 * pl.col("text").str.len_chars())
        .then("text")
        .otherwise(pl.lit("")),
    )
    errors, kept = bars.filter(pl.col("part") != "kept"), bars.filter(pl.col("part") == "kept")
    edge = float(kept["end"][0])
    wedge = pl.DataFrame({"y": [_UPPER[1], _LOWER[0]], "start": [edge, 0.0], "end": [1.0, 1.0]})
    label = {"fontSize": 14, "fontWeight": "bold"}
    texts = {"x": _x("middle"), "y": _y("height"), "text": alt.Text("text:N")}
    return alt.layer(
        alt.Chart(wedge)
        .mark_area(orient="horizontal", color=NEUTRAL, opacity=0.13)
        .encode(x=_x("start"), x2=alt.X2("end:Q"), y=_y("y")),
        alt.Chart(kept)
        .mark_rect(color=NEUTRAL, opacity=0.28)
        .encode(x=_x("start"), x2=alt.X2("end:Q"), y=_y("bottom"), y2=alt.Y2("top:Q")),
        alt.Chart(errors)
        .mark_rect()
        .encode(x=_x("start"), x2=alt.X2("end:Q"), y=_y("bottom"), y2=alt.Y2("top:Q"), color=part_colour()),
        alt.Chart(as_part(kept, TOTAL)).mark_text(**label).encode(**texts, color=part_colour()),
        alt.Chart(errors).mark_text(color="white", **label).encode(**texts),
        *_notes(fvu, fvu_nonlinear),
    ).properties(height=HEIGHT)


def _x(field: str) -> alt.X:
    return alt.X(f"{field}:Q", axis=None, scale=alt.Scale(domain=[0, 1]))


def _y(field: str) -> alt.Y:
    return alt.Y(f"{field}:Q", axis=None, scale=alt.Scale(domain=[0, 100]))


def _notes(fvu: float, fvu_nonlinear: float) -> list[alt.Chart]:
    """What the bars are, beside them."""
    shares = schematic_table(fvu, fvu_nonlinear)["share"]
    missed, linear, nonlinear = 1 - shares[0], shares[1], shares[2]
    notes = [
        (0.0, 94.0, "left", "activation x, all of its variance"),
        (1.0, 94.0, "right", f"missed: {missed:.1%}, the dark matter"),
        (0.0, 7.0, "left", f"linear error {linear:.1%}: a linear map of x predicts it"),
        (1.0, 7.0, "right", f"nonlinear error {nonlinear:.1%}: none does"),
    ]
    return [
        alt.Chart(as_part(pl.DataFrame({"x": [x], "y": [y], "text": [text]}), TOTAL))
        .mark_text(align=align, fontSize=13)
        .encode(x=_x("x"), y=_y("y"), text=alt.Text("text:N"), color=part_colour())
        for x, y, align, text in notes
    ]
