"""Norm tests: how much of |v|² a linear map predicts, for the activation, the reconstruction and the parts of the error."""

from __future__ import annotations

import json
from collections.abc import Sequence

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, at_ticks, finite, known, with_text
from dmcore.charts.numbers import fixed
from dmcore.charts.panels import Panel, Panels
from dmcore.charts.theme import LINEAR, NEUTRAL, NONLINEAR, TOTAL, as_part, part_colour

ROW = 58
"""Height of a row, in pixels."""

QUANTITY_NAMES = {
    "x": "x",
    "recon": "Sae(x)",
    "recon_plus_nonlinear": "Sae(x) + nonlinear error",
    "error": "error",
    "linear": "linear error",
    "nonlinear": "nonlinear error",
}
"""Quantities of the `norm_tests` table, from the top."""
_PARTS = {"error": TOTAL, "linear": LINEAR, "nonlinear": NONLINEAR}
"""Those that have a colour of their own."""

PREDICTOR_NAMES = {"x": "from x", "itself": "from itself"}
LOWEST = -1.0
"""R2 below this is drawn at the edge, as a triangle; the table and the tooltip have its number."""


def named(table: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """A table of a site with the ids of its SAEs in place of their numbers (`about.saes`)."""
    ids = pl.Series(list(names), dtype=pl.String)
    return table.with_columns(sae=ids.gather(table["sae"].cast(pl.UInt32)))


def norm_tests_table(norm_tests: pl.DataFrame, records: pl.DataFrame) -> pl.DataFrame:
    """A row for each SAE, quantity and predictor: `sae`, `layer`, `d_sae`, `l0`, `quantity`, `predictor`, `r2`, `low`, `high`.

    Args:
        norm_tests: the table of that name with ids as `sae` (see `named`), of one or more sites; the predictor is `x` or
            anything else for the quantity itself.
        records: rows of `RECORD` of the same SAEs.
    """
    about = records.select("sae", "layer", "d_sae", "l0").unique("sae", maintain_order=True)
    by_x = pl.col("predictor") == "x"
    rows = norm_tests.join(about, on="sae", how="left", maintain_order="left").select(
        "sae", "layer", "d_sae", "l0", "quantity",
        predictor=pl.when(by_x).then(pl.lit("from x")).otherwise(pl.lit("from itself")),
        r2="r2", low="r2_low", high="r2_high",
    )  # fmt: skip
    # from x and from itself are one test for x
    both = rows.filter((pl.col("quantity") == "x") & (pl.col("predictor") == "from x"))
    has = rows.filter((pl.col("quantity") == "x") & (pl.col("predictor") == "from itself"))
    return rows if len(has) else pl.concat([rows, both.with_columns(predictor=pl.lit("from itself"))])


def norm_tests_chart(norm_tests: pl.DataFrame, records: pl.DataFrame, selected: str | None = None) -> alt.LayerChart:
    """A row a quantity, a dot an SAE: from x filled, from itself hollow; medians as bars, the selected SAE as a diamond."""
    table = norm_tests_table(norm_tests, records).filter(known("r2") & pl.col("quantity").is_in(list(QUANTITY_NAMES)))
    present = [q for q in QUANTITY_NAMES if q in set(table["quantity"])]
    low = min([0.0, *finite(table["r2"])])
    low = max(low, LOWEST) - 0.06 * (low < 0)
    panels = Panels([Panel(name, low, 1.0) for name in PREDICTOR_NAMES.values()], gap=0.2, room=0.03)
    rows = {q: len(present) - 1 - k for k, q in enumerate(present)}
    drawn = with_text(panels.place(table, "predictor", x="r2"), "r2", "low", "high").with_columns(
        row=pl.col("quantity").replace_strict(rows, return_dtype=pl.Float64),
        part=pl.col("quantity").replace_strict(_PARTS, default=None),
        name=pl.col("quantity").replace_strict(QUANTITY_NAMES),
        outside=pl.col("r2") < low,
        chosen=pl.col("sae") == (selected or ""),
    )
    # neighbours in value get different heights, so that dots of equal value can be told apart
    rank = pl.col("r2").rank("ordinal").over("quantity", "predictor").cast(pl.Int64)
    drawn = drawn.with_columns(y=pl.col("row") + ((rank * 3) % 7 - 3) * 0.045)
    labels = {str(at): QUANTITY_NAMES[q] for q, at in rows.items()}
    axis = alt.Axis(**at_ticks(list(rows.values())), labelExpr=f"{json.dumps(labels)}[format(datum.value, 'd')]", labelLimit=260,
                    ticks=False, domain=False, labelOverlap=False)  # fmt: skip
    y = alt.Y("y:Q", title=None, axis=axis, scale=alt.Scale(domain=[-0.6, len(present) - 0.35], nice=False, zero=False))
    x = alt.X("x:Q", **panels.axis("held-out R² of |quantity|²", grid=False))
    layers = [*_dots(drawn.filter(~pl.col("chosen")), x, y), *_medians(drawn), *_selected(drawn), _heads(panels)]
    return alt.layer(*layers).properties(height=ROW * len(present), autosize=FIT_WIDTH)


_TOOLTIP = [
    ("sae:N", "SAE", None), ("layer:Q", "layer", "d"), ("d_sae:Q", "width", ",d"), ("l0:Q", "L0", ".1f"),
    ("name:N", "quantity", None), ("predictor:N", "predicted", None), ("text:N", "R²", None),
]  # fmt: skip


def _tooltip() -> list[alt.Tooltip]:
    return [alt.Tooltip(f, title=t, format=form) if form else alt.Tooltip(f, title=t) for f, t, form in _TOOLTIP]


def _dots(drawn: pl.DataFrame, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Every SAE; those below the axis as triangles."""
    layers = []
    shape = alt.Shape(
        "outside:N", scale=alt.Scale(domain=[False, True], range=["circle", "triangle-left"]), legend=None
    )
    for has_colour in (False, True):
        for predictor, filled in (("from x", True), ("from itself", False)):
            rows = drawn.filter((pl.col("part").is_not_null() == has_colour) & (pl.col("predictor") == predictor))
            if len(rows):
                dots = alt.Chart(rows).mark_point(filled=filled, size=42, opacity=0.75, strokeWidth=1.5)
                colour = part_colour() if has_colour else alt.value(NEUTRAL)
                place = {"x": alt.X("x:Q"), "y": alt.Y("y:Q")} if layers else {"x": x, "y": y}
                layers.append(dots.encode(**place, color=colour, shape=shape, tooltip=_tooltip()))
    return layers


def _medians(drawn: pl.DataFrame) -> list[alt.Chart]:
    """A bar and a number at the median of each row and panel."""
    medians = drawn.group_by("row", "predictor", maintain_order=True).agg(pl.col("x").median(), pl.col("r2").median())
    medians = as_part(medians, TOTAL).with_columns(
        low=pl.col("row") - 0.22, high=pl.col("row") + 0.22,
        text=pl.Series([f"median {fixed(v, 2)}" for v in medians["r2"]], dtype=pl.String),
    )  # fmt: skip
    base = alt.Chart(medians).encode(x=alt.X("x:Q"), color=part_colour())
    return [
        base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        base.mark_text(dy=-8, fontSize=11).encode(y=alt.Y("high:Q"), text=alt.Text("text:N")),
    ]


def _selected(drawn: pl.DataFrame) -> list[alt.Chart]:
    chosen = as_part(drawn.filter("chosen"), TOTAL).with_columns(y=pl.col("row"))
    if not len(chosen):
        return []
    mark = alt.Chart(chosen).mark_point(
        filled=True, size=130, shape="diamond", opacity=1, stroke="white", strokeWidth=1.5
    )
    return [mark.encode(x=alt.X("x:Q"), y=alt.Y("y:Q"), color=part_colour(), tooltip=_tooltip())]


def _heads(panels: Panels) -> alt.Chart:
    text = alt.Chart(as_part(panels.spans(), TOTAL)).mark_text(align="left", fontWeight="bold", fontSize=13)
    return text.encode(x=alt.X("start:Q"), y=alt.value(-8), text=alt.Text("name:N"), color=part_colour())
