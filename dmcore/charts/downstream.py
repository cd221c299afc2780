"""What it costs a model to hold something else at a site: loss, distance of predictions, agreement; a row a variant."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, at_ticks, finite, known, with_text
from dmcore.charts.numbers import point
from dmcore.charts.panels import Panel, Panels
from dmcore.charts.parts import heads
from dmcore.charts.theme import LINEAR, NONLINEAR, TOTAL, part_colour_if
from dmcore.results.downstream import EXACT

ROW = 36
"""Height of a variant, in pixels."""
DELTA, KL, TOP1 = "loss increase", "KL", "same top token"
"""The panels, `measure` in the table."""
TITLES = {
    DELTA: "loss above clean (nats)",
    KL: "KL from clean (nats)",
    TOP1: "same top token",
}
_COLUMNS = {DELTA: "delta", KL: "kl", TOP1: "top1"}

NAMES = {
    "sae": "Sae(x)",
    "sae_linear": "Sae(x) + linear error",
    "sae_nonlinear": "Sae(x) + nonlinear error",
    EXACT: "Sae(x) + both",
    "x_random": "x + random vector",
    "sae_random": "Sae(x) + random vector",
    "sae_shuffled": "Sae(x) + another token's error",
    "mean": "the mean of x",
    "zero": "0",
}
"""Variants in the order of rows, and what rows are called. Of the clean model there is nothing to draw."""
COLOURS = {"sae": TOTAL, "sae_linear": LINEAR, "sae_nonlinear": NONLINEAR, EXACT: TOTAL}
"""Whose colour a variant has: the part that is added; of Sae(x) the error that is left. Controls are neutral."""
ABLATIONS = ("zero", "mean")


def whole_sums(sums: pl.DataFrame) -> dict[str, float] | None:
    """`delta`, `kl`, `top1` of Sae(x) + both parts on the contexts of the doses; None where it was not run.

    Args:
        sums: `DOWNSTREAM_TABLES["sums"]`.
    """
    totals = {
        name: sums.filter((pl.col("panel") == "doses") & (pl.col("variant") == name)).sum() for name in ("clean", EXACT)
    }
    n = totals[EXACT]["n_tokens"][0]
    if not n:
        return None
    clean, whole = totals["clean"], totals[EXACT]
    return {"delta": (whole["ce"][0] - clean["ce"][0]) / n, "kl": whole["kl"][0] / n, "top1": whole["top1"][0] / n}


def cost_table(variants: pl.DataFrame, sums: pl.DataFrame) -> pl.DataFrame:
    """A row a number: `variant`, `name`, `part` (whose colour; null for controls), `measure`, `value`, `low`, `high`.

    Args:
        variants, sums: the tables of these names.
    """
    kept = ["variant", "measure", "value", "low", "high"]
    none = pl.lit(None, dtype=pl.Float64)
    tables = [
        variants.select("variant", measure=pl.lit(m), value=c, low=f"{c}_low", high=f"{c}_high").select(kept)
        for m, c in _COLUMNS.items()
    ]
    whole = whole_sums(sums)
    if whole is not None:
        rows = {
            "variant": [EXACT] * 3,
            "measure": list(_COLUMNS),
            "value": [float(whole[c]) for c in _COLUMNS.values()],
        }
        tables.append(pl.DataFrame(rows).select("variant", "measure", "value", low=none, high=none))
    table = pl.concat(tables).filter(pl.col("variant").is_in(list(NAMES)) & known("value"))
    order = {name: k for k, name in enumerate(NAMES)}
    table = table.with_columns(
        name=pl.col("variant").replace_strict(NAMES), part=pl.col("variant").replace_strict(COLOURS, default=None)
    )
    table = table.sort(pl.col("variant").replace_strict(order), pl.col("measure").replace_strict(_order(TITLES)))
    return table.select("variant", "name", "part", "measure", "value", "low", "high")


def _order(names: dict[str, str]) -> dict[str, int]:
    return {name: k for k, name in enumerate(names)}


def cost_chart(variants: pl.DataFrame, sums: pl.DataFrame) -> alt.LayerChart:
    """A row a variant, a panel a measure: a bar from 0 with its interval and number. Ablations leave the panels of losses.

    Losses of ablations are many times the rest: a bar that ends at the border of its panel goes on, as its number says.
    """
    table = cost_table(variants, sums)
    panels = _panels(table)
    order = table["name"].unique(maintain_order=True).to_list()
    drawn = panels.place(with_text(table, "value", "low", "high"), "measure", x="value", x_low="low", x_high="high")
    zeros = panels.place(drawn.with_columns(zero=pl.lit(0.0)), "measure", foot="zero")
    tops = {panel.name: panel.high for panel in panels.panels}
    beyond = pl.col("value") > pl.col("measure").replace_strict(tops, return_dtype=pl.Float64)
    words = [_words(*row) for row in drawn.select("measure", "value", "low", "high").rows()]
    drawn = zeros.with_columns(
        pl.Series("words", words, dtype=pl.String), beyond=beyond, part=pl.col("part").fill_null("control"),
        at=pl.col("name").replace_strict({n: k for k, n in enumerate(order)}, return_dtype=pl.Float64),
    ).with_columns(
        top=pl.col("at") - 0.3, bottom=pl.col("at") + 0.3, beside=pl.max_horizontal("x", "x_high"),
        words=pl.when("beyond").then(pl.format("{} →", "words")).otherwise("words"),
    )  # fmt: skip
    colour = part_colour_if("datum.part !== 'control'")
    y = _rows_axis("at:Q", order)
    tooltip = [
        alt.Tooltip("name:N", title="the site holds"),
        alt.Tooltip("measure:N"),
        alt.Tooltip("text:N", title="value"),
    ]
    inside = drawn.filter(~pl.col("beyond") & known("x_low") & known("x_high"))
    return alt.layer(
        alt.Chart(drawn).mark_rect(opacity=0.3).encode(
            x=alt.X("foot:Q", **panels.axis(None, grid=False)), x2=alt.X2("x:Q"), y=alt.Y("top:Q"),
            y2=alt.Y2("bottom:Q"), color=colour, tooltip=tooltip,
        ),
        alt.Chart(inside).mark_rule(strokeWidth=2.5).encode(
            x=alt.X("x_low:Q"), x2=alt.X2("x_high:Q"), y=y, color=colour
        ),
        *_numbers(drawn, colour),
        heads(panels, TITLES),
    ).properties(height=ROW * max(len(order), 1), autosize=FIT_WIDTH)  # fmt: skip


def _numbers(drawn: pl.DataFrame, colour: Any) -> list[alt.Chart]:
    """The number right of each bar; within those that go on beyond their panel, where it cannot meet the next."""
    texts = []
    for rows, align, dx in ((drawn.filter(~pl.col("beyond")), "left", 6), (drawn.filter("beyond"), "right", -5)):
        text = alt.Chart(rows).mark_text(align=align, dx=dx, fontSize=12, fontWeight="bold")  # type: ignore[arg-type]
        texts.append(text.encode(x=alt.X("beside:Q"), y=alt.Y("at:Q"), text=alt.Text("words:N"), color=colour))
    return [
        text for text, some in zip(texts, (drawn["beyond"].not_().any(), drawn["beyond"].any()), strict=True) if some
    ]


def _panels(table: pl.DataFrame) -> Panels:
    """Panels that end beyond the largest number but those of ablations."""
    near = table.filter(~pl.col("variant").is_in(ABLATIONS))
    panels = []
    for measure in TITLES:
        rows = near.filter(pl.col("measure") == measure)
        values = finite([*rows["value"], *rows["low"], *rows["high"]])
        if measure == TOP1:
            panels.append(Panel(measure, 0.0, 1.0, percent=True, ticks=(0.0, 0.5, 1.0), size=0.55))
            continue
        least = min([0.0, *values])
        most = max([v for v in values if v > 0], default=max(finite(table["value"]), default=1.0) or 1.0)
        panels.append(Panel(measure, least, max(most * 1.03, least + 1e-6)))
    return Panels(panels, gap=0.36, room=0.3)


def _words(measure: str, value: float, low: float | None, high: float | None) -> str:
    if measure == TOP1:
        return f"{point(*(None if v is None else 100 * v for v in (value, low, high)))} %"
    return "0" if abs(value) < 5e-5 else point(value, low, high)


def _rows_axis(field: str, order: list[str]) -> alt.Y:
    axis = alt.Axis(**at_ticks(list(range(len(order)))), labelExpr=f"{json.dumps(order)}[datum.value]", grid=False,
                    ticks=False, domain=False, labelLimit=280, labelFontSize=13, labelPadding=8)  # fmt: skip
    scale = alt.Scale(domain=[len(order) - 0.5, -0.5], nice=False, zero=False)
    return alt.Y(field, title=None, scale=scale, axis=axis)
