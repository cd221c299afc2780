"""Known features: what each component of the error adds to its linear and to its nonlinear part; where intervals hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, at_ticks, finite, known
from dmcore.charts.numbers import percent
from dmcore.charts.planted import PART_NAMES
from dmcore.charts.theme import NEUTRAL, part_colour
from dmcore.results.agreement import agreement_by
from dmcore.results.synthetic import COMPONENTS, SPLIT

ROW = 46
_LEAST_LEFT = 0.8
"""The scale of shares begins no further to the right."""
COMPONENT_NAMES = {
    "absent": "absent features",
    "dense": "dense part",
    "shrunk": "shrinkage",
    "missed": "missed weak values",
    "manifold": "between the arcs of circles",
    "introduced": "introduced error",
}
ESTIMATE, TRUTH = "estimated", "true, all together"


def components_table(setting: Mapping[str, Any], components: pl.DataFrame) -> pl.DataFrame:
    """A row a component and part: `what`, `part` (named), `share`, `low`, `high`; the estimate first, then the truth.

    Args:
        setting: a row of `GROUND_TRUTH_TABLES["settings"]`.
        components: `GROUND_TRUTH_TABLES["components"]` of that setting, or of one that differs in the number of tokens alone.
    """
    rows = []
    for part in SPLIT:
        ends = {end: setting[f"{part}_{end}"] for end in ("low", "high")}
        rows.append({"what": ESTIMATE, "part": PART_NAMES[part], "share": setting[part], **ends})
        rows.append({"what": TRUTH, "part": PART_NAMES[part], "share": setting[f"truth_{part}"]})
        for row in components.to_dicts():
            rows.append({"what": COMPONENT_NAMES[row["component"]], "part": PART_NAMES[part], "share": row[part]})
    order = {name: k for k, name in enumerate((ESTIMATE, TRUTH, *(COMPONENT_NAMES[c] for c in COMPONENTS)))}
    schema = {"what": pl.String, "part": pl.String, "share": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    table = pl.DataFrame(rows, schema=schema).filter(known("share"))
    place = pl.col("what").replace_strict(order, return_dtype=pl.Int64)
    return table.sort(place, pl.col("part") == PART_NAMES["nonlinear"], maintain_order=True)


def components_chart(setting: Mapping[str, Any], components: pl.DataFrame) -> alt.LayerChart:
    """Two bars a component: what it adds to the linear and to the nonlinear error; the estimate on top with its intervals."""
    table = components_table(setting, components)
    order = table["what"].unique(maintain_order=True).to_list()
    low = min([0.0, *finite(table["share"]), *finite(table["low"])])
    high = max([*finite(table["share"]), *finite(table["high"])], default=0.0) or 0.1
    lane = {PART_NAMES[part]: 0.36 * (k - 0.5) for k, part in enumerate(SPLIT)}
    shares = table.select("share", "low", "high").rows()
    words = [f"{100 * s:.1f} %".replace("-0.0", "0.0") if a is None else percent(s, a, b) for s, a, b in shares]
    drawn = table.with_columns(
        pl.Series("words", words, dtype=pl.String),
        at=pl.col("what").replace_strict({name: k for k, name in enumerate(order)}, return_dtype=pl.Float64)
        + pl.col("part").replace_strict(lane, return_dtype=pl.Float64),
        beside=pl.max_horizontal("share", pl.col("high").fill_null(0.0), pl.lit(0.0)),
        foot=pl.lit(0.0),
    ).with_columns(top=pl.col("at") - 0.15, bottom=pl.col("at") + 0.15)
    drawn = drawn.with_columns(
        words=pl.when(pl.col("what") == TRUTH).then(pl.col("words") + "  " + pl.col("part")).otherwise("words")
    )
    x = alt.X("foot:Q", title="share of the variance of x", axis=alt.Axis(format="~%", tickCount=4),
              scale=alt.Scale(domain=[low * 1.25, high * 2.0], nice=False, zero=False))  # fmt: skip
    axis = alt.Axis(**at_ticks(list(range(len(order)))), labelExpr=f"{json.dumps(order)}[datum.value]", grid=False,
                    ticks=False, domain=False, labelLimit=280, labelFontSize=13, labelPadding=8)  # fmt: skip
    y = alt.Y("at:Q", title=None, axis=axis, scale=alt.Scale(domain=[len(order) - 0.5, -0.5], nice=False, zero=False))
    tooltip = [alt.Tooltip("what:N", title="of"), alt.Tooltip("part:N"), alt.Tooltip("words:N", title="share")]
    bars = alt.Chart(drawn)
    return alt.layer(
        bars.mark_rect(opacity=0.4).encode(
            x=x, x2=alt.X2("share:Q"), y=alt.Y("top:Q"), y2=alt.Y2("bottom:Q"), color=part_colour(), tooltip=tooltip
        ),
        alt.Chart(drawn.filter(known("low") & known("high"))).mark_rule(strokeWidth=2.5).encode(
            x=alt.X("low:Q"), x2=alt.X2("high:Q"), y=y, color=part_colour()
        ),
        bars.mark_text(align="left", dx=7, fontSize=12, fontWeight="bold").encode(
            x=alt.X("beside:Q"), y=alt.Y("at:Q"), text=alt.Text("words:N"), color=part_colour()
        ),
        alt.Chart(pl.DataFrame({"foot": [0.0]})).mark_rule(color=NEUTRAL).encode(x=alt.X("foot:Q")),
    ).properties(height=ROW * max(len(order), 1), autosize=FIT_WIDTH)  # fmt: skip


def agreement_table(
    settings: pl.DataFrame, titles: Mapping[str, str], texts: Mapping[str, Sequence[str]]
) -> pl.DataFrame:
    """A row an ingredient, level and part: `ingredient`, `level`, `part` (named), `inside`, `ratio`, `n`, `samples`.

    Args:
        settings: settings of a grid, with truths and estimates.
        titles: of the ingredients, by column.
        texts: of the levels of each, ascending.
    """
    rows = []
    for name, title in titles.items():
        for row, text in zip(agreement_by(settings, name).to_dicts(), texts[name], strict=True):
            for part in SPLIT:
                rows.append({
                    "ingredient": title, "level": text, "part": PART_NAMES[part], "inside": row[f"{part}_inside"],
                    "ratio": row[f"{part}_ratio"], "n": row["n"], "samples": row["samples"],
                })  # fmt: skip
    schema = {"ingredient": pl.String, "level": pl.String, "part": pl.String, "inside": pl.Float64, "ratio": pl.Float64,
              "n": pl.Int64, "samples": pl.Int64}  # fmt: skip
    return pl.DataFrame(rows, schema=schema)


def agreement_chart(table: pl.DataFrame) -> alt.LayerChart:
    """A row a level of an ingredient, a dot a part: in what share of the settings its interval holds the truth.

    Args:
        table: of `agreement_table`.
    """
    keys = table.select("ingredient", "level").unique(maintain_order=True).rows()
    labels = [f"{name}: {level}" if k == 0 or keys[k - 1][0] != name else level for k, (name, level) in enumerate(keys)]
    place = {key: k for k, key in enumerate(keys)}
    at = [float(place[key]) for key in table.select("ingredient", "level").rows()]
    shares = [f"{v:.0%}" if v is not None else "" for v in table["inside"]]
    ratios = [f"× {v:.3f}" if v is not None else "" for v in table["ratio"]]
    drawn = table.with_columns(
        pl.Series("at", at, dtype=pl.Float64), pl.Series("shares", shares, dtype=pl.String),
        pl.Series("ratios", ratios, dtype=pl.String),
    ).filter(known("inside"))  # fmt: skip
    left = max(min([_LEAST_LEFT, *finite(drawn["inside"])]) - 0.05, 0.0)
    x = alt.X("inside:Q", title="share of the settings in which the 95 % interval holds the truth",
              scale=alt.Scale(domain=[left, 1.02], nice=False, zero=False),
              axis=alt.Axis(format=".0%", tickCount=6))  # fmt: skip
    axis = alt.Axis(**at_ticks(list(range(len(keys)))), labelExpr=f"{json.dumps(labels)}[datum.value]", grid=False,
                    ticks=False, domain=False, labelLimit=320, labelFontSize=12, labelPadding=8)  # fmt: skip
    y = alt.Y("at:Q", title=None, axis=axis, scale=alt.Scale(domain=[len(keys) - 0.5, -1.4], nice=False, zero=False))
    names = [pl.DataFrame({"part": [PART_NAMES[part]], "inside": [left], "at": [-1.0]}) for part in SPLIT]
    tooltip = [alt.Tooltip("ingredient:N"), alt.Tooltip("level:N"), alt.Tooltip("part:N"),
               alt.Tooltip("shares:N", title="truth in the interval"),
               alt.Tooltip("ratios:N", title="estimate over truth, median"),
               alt.Tooltip("n:Q", title="settings", format=",d"),
               alt.Tooltip("samples:Q", title="distinct samples of tokens", format=",d")]  # fmt: skip
    meant = alt.Chart(pl.DataFrame({"inside": [0.95]}))
    return alt.layer(
        meant.mark_rule(color=NEUTRAL, strokeDash=[5, 4], strokeWidth=1.5).encode(x=alt.X("inside:Q")),
        alt.Chart(drawn).mark_point(filled=True, size=90, opacity=0.9).encode(x=x, y=y, color=part_colour(), tooltip=tooltip),
        *(
            alt.Chart(name).mark_text(align="left", fontSize=13, fontWeight="bold", dx=6 + 105 * k).encode(
                x=alt.X("inside:Q"), y=alt.Y("at:Q"), text=alt.Text("part:N"), color=part_colour()
            )
            for k, name in enumerate(names)
        ),
    ).properties(height=max(21 * len(keys), 60), autosize=FIT_WIDTH)  # fmt: skip
