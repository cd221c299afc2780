"""The error budget of a site: which share of the activation's variance is lost, and to what, over dictionary width."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from dmcore.charts.numbers import number, point
from dmcore.charts.theme import LINEAR, NEUTRAL, NONLINEAR, TOTAL, as_part, log2_axis, log2_scale, part_colour

HEIGHT = 380

_Y_TITLE = "share of the activation's variance (FVU)"


def budget_table(records: pl.DataFrame) -> pl.DataFrame:
    """Two rows per width, one a part of the error, stacked from `y_low` to `y_high`; sorted by width.

    Args:
        records: rows of `RECORD`, one per width.
    """
    bounds = {NONLINEAR: (pl.lit(0.0), pl.col("fvu_nonlinear")), LINEAR: (pl.col("fvu_nonlinear"), pl.col("fvu"))}
    parts = [
        records.select(
            "d_sae",
            "l0",
            "sae",
            part=pl.lit(part),
            share_of_variance=high - low,
            y_low=low,
            y_high=high,
        )
        for part, (low, high) in bounds.items()
    ]
    return pl.concat(parts).sort("d_sae", "part")


def budget_chart(records: pl.DataFrame, selected: dict[str, Any]) -> alt.LayerChart:
    """Stacked areas over width, nonlinear error at the bottom, with the selected SAE marked.

    Args:
        records: rows of `RECORD`, one per width, at one site.
        selected: the row of the chosen SAE, which need not be among `records`.
    """
    table = budget_table(records)
    widths = sorted({*records["d_sae"].to_list(), selected["d_sae"]})
    lone = records.height == 1
    x = alt.X("d_sae:Q", scale=_lone_scale(widths) if lone else log2_scale(widths))
    x = x.axis(log2_axis("dictionary width (latents, log scale)", widths))
    top = max(records["fvu_high"].fill_nan(None).max() or 0, records["fvu"].max() or 0, selected["fvu"]) * 1.12
    y = alt.Y("y_low:Q", title=_Y_TITLE, scale=alt.Scale(domain=[0, top]), axis=alt.Axis(tickCount=6))
    base = alt.Chart(table).encode(x=x, y=y, y2=alt.Y2("y_high:Q"), color=part_colour())
    areas = base.mark_bar(size=90, opacity=0.92) if lone else base.mark_area(opacity=0.92, line=False)
    at_right = selected["d_sae"] > (min(widths) * max(widths) ** 3) ** 0.25
    layers = [areas, *_boundaries(records, x), *_area_labels(records), *_marker(selected, top, at_right)]
    return alt.layer(*layers).properties(height=HEIGHT)


def _lone_scale(widths: list[int]) -> alt.Scale:
    return alt.Scale(type="log", base=2, domain=[min(widths) / 4, max(widths) * 4], nice=False)


def _boundaries(records: pl.DataFrame, x: alt.X) -> list[alt.Chart]:
    """The measured points on top of each area, with their intervals."""
    rows = records.select("d_sae", "sae", "l0", *(c for c in records.columns if c.startswith("fvu")))
    texts = rows.with_columns(
        pl.Series(name, [number(*r) for r in rows.select(m, f"{m}_low", f"{m}_high").rows()], dtype=pl.String)
        for name, m in (("FVU", "fvu"), ("nonlinear FVU", "fvu_nonlinear"))
    )
    base = alt.Chart(as_part(texts, TOTAL)).encode(x=x, color=part_colour())
    tooltip = [
        alt.Tooltip("sae:N", title="SAE"),
        alt.Tooltip("d_sae:Q", title="width", format=",d"),
        alt.Tooltip("l0:Q", title="L0", format=".1f"),
        alt.Tooltip("FVU:N"),
        alt.Tooltip("nonlinear FVU:N"),
    ]
    marks: list[alt.Chart] = []
    for metric in ("fvu", "fvu_nonlinear"):
        marks.append(base.mark_line(strokeWidth=1.5).encode(y=alt.Y(f"{metric}:Q")))
        marks.append(base.mark_rule(strokeWidth=2).encode(y=alt.Y(f"{metric}_low:Q"), y2=alt.Y2(f"{metric}_high:Q")))
        marks.append(base.mark_point(filled=True, size=40, opacity=1).encode(y=alt.Y(f"{metric}:Q"), tooltip=tooltip))
    return marks


def _area_labels(records: pl.DataFrame) -> list[alt.Chart]:
    """Each part's name inside its area, in the widest gap between two measured widths."""
    rows = records.sort("d_sae").to_dicts()
    left, right = rows[0], rows[min(1, len(rows) - 1)]
    middle = (left["d_sae"] * right["d_sae"]) ** 0.5

    def halfway(metric: str) -> float:
        return (left[metric] + right[metric]) / 2

    places = pl.DataFrame(
        {
            "d_sae": [middle, middle],
            "y": [halfway("fvu_nonlinear") / 2, (halfway("fvu_nonlinear") + halfway("fvu")) / 2],
            "text": [NONLINEAR, LINEAR],
        }
    )
    label = alt.Chart(places).mark_text(color="white", fontSize=14, fontWeight="bold")
    return [label.encode(x=alt.X("d_sae:Q"), y=alt.Y("y:Q"), text=alt.Text("text:N"))]


def _marker(selected: dict[str, Any], top: float, at_right: bool) -> list[alt.Chart]:
    """A line at the chosen width and the chosen SAE's two numbers: the total above its mark, the other below."""
    side = {"align": "right", "dx": -10} if at_right else {"align": "left", "dx": 10}
    layers: list[alt.Chart] = []
    for metric, name, colour, dy in (
        ("fvu", "total", part_colour(), -24 if at_right else -11),
        ("fvu_nonlinear", "nonlinear", alt.value("white"), 13),
    ):
        text = f"{name} {point(selected[metric], selected[f'{metric}_low'], selected[f'{metric}_high'])}"
        row = {"d_sae": selected["d_sae"], "y": selected[metric], "text": text, "zero": 0.0, "top": top}
        base = alt.Chart(as_part(pl.DataFrame([row]), TOTAL)).encode(x=alt.X("d_sae:Q"), y=alt.Y("y:Q"))
        if not layers:
            rule = alt.Chart(pl.DataFrame([row])).mark_rule(color=NEUTRAL, strokeDash=[2, 3])
            layers.append(rule.encode(x=alt.X("d_sae:Q"), y=alt.Y("zero:Q"), y2=alt.Y2("top:Q")))
        mark = base.mark_point(filled=True, size=130, shape="diamond", opacity=1, stroke="white", strokeWidth=1.5)
        words = base.mark_text(dy=dy, fontWeight="bold", fontSize=13, **side)
        layers += [mark.encode(color=part_colour()), words.encode(text=alt.Text("text:N"), color=colour)]
    return layers
