"""At which kinds of token predictions suffer: how often the model is right, clean and with something else at a site."""

from __future__ import annotations

import json

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, at_ticks, finite, known, with_text
from dmcore.charts.downstream import COLOURS, NAMES
from dmcore.charts.numbers import compact
from dmcore.charts.panels import Panel, Panels
from dmcore.charts.parts import heads
from dmcore.charts.theme import NEUTRAL, part_colour_if
from dmcore.results.downstream import KIND_VARIANTS

ROW = 54
"""Height of a kind, in pixels."""
LEAST = 30
"""Tokens that a kind needs to be drawn."""
RIGHT, LOST = "accuracy", "accuracy lost"
TITLES = {RIGHT: "next tokens predicted rightly", LOST: "percentage points below clean"}
CLEAN = "clean"


def kinds_table(kinds: pl.DataFrame) -> pl.DataFrame:
    """A row a number: `kind`, `n_tokens`, `variant`, `part` (null for the clean model), `measure`, `value`, `low`, `high`.

    Accuracy is a share; what is lost of it is in percentage points. Kinds of fewer than `LEAST` tokens are left out.

    Args:
        kinds: `DOWNSTREAM_TABLES["kinds"]`.
    """
    rows = kinds.filter(pl.col("n_tokens") >= LEAST)
    own = rows.select("order", "kind", "n_tokens", "variant", measure=pl.lit(RIGHT), value="accuracy",
                      low="accuracy_low", high="accuracy_high")  # fmt: skip
    lost = rows.filter(pl.col("variant") != CLEAN).select(
        "order", "kind", "n_tokens", "variant", measure=pl.lit(LOST), value=-100 * pl.col("accuracy_delta"),
        low=-100 * pl.col("accuracy_delta_high"), high=-100 * pl.col("accuracy_delta_low"),
    )  # fmt: skip
    places = {variant: k for k, variant in enumerate(KIND_VARIANTS)}
    table = pl.concat([own, lost]).filter(known("value") & pl.col("variant").is_in(KIND_VARIANTS))
    table = table.with_columns(part=pl.col("variant").replace_strict(COLOURS, default=None))
    table = table.sort("order", pl.col("variant").replace_strict(places), "measure")
    return table.select("kind", "n_tokens", "variant", "part", "measure", "value", "low", "high")


def kinds_chart(kinds: pl.DataFrame) -> alt.LayerChart:
    """A row a kind, a dot with its interval for each variant: how often the model is right, and how much less than clean."""
    table = kinds_table(kinds)
    order = table["kind"].unique(maintain_order=True).to_list()
    counts = dict(table.select("kind", "n_tokens").rows())
    labels = [f"{kind} ({compact(counts[kind])})" for kind in order]
    lost = table.filter(pl.col("measure") == LOST)
    ends = finite([*lost["value"], *lost["low"], *lost["high"]])
    low, high = min([0.0, *ends]), max([1.0, *ends])
    panels = Panels([Panel(RIGHT, 0.0, 1.0, percent=True), Panel(LOST, low, high * 1.05)], gap=0.18, room=0.02)
    variants = [v for v in KIND_VARIANTS if v in set(table["variant"])]
    lane = {v: 0.6 * ((k + 0.5) / len(variants) - 0.5) for k, v in enumerate(variants)}
    drawn = panels.place(with_text(table, "value", "low", "high"), "measure", x="value", x_low="low", x_high="high")
    drawn = drawn.with_columns(
        at=pl.col("kind").replace_strict({n: k for k, n in enumerate(order)}, return_dtype=pl.Float64)
        + pl.col("variant").replace_strict(lane, return_dtype=pl.Float64),
        name=pl.col("variant").replace(NAMES | {CLEAN: "the clean model"}), part=pl.col("part").fill_null(CLEAN),
    )  # fmt: skip
    colour = part_colour_if(f"datum.part !== '{CLEAN}'")
    axis = alt.Axis(**at_ticks(list(range(len(order)))), labelExpr=f"{json.dumps(labels)}[datum.value]", grid=False,
                    ticks=False, domain=False, labelLimit=240, labelFontSize=13, labelPadding=8)  # fmt: skip
    y = alt.Y("at:Q", title=None, axis=axis,
              scale=alt.Scale(domain=[max(len(order), 1) - 0.5, -0.5], nice=False, zero=False))  # fmt: skip
    tooltip = [alt.Tooltip("kind:N"), alt.Tooltip("name:N", title="the site holds"), alt.Tooltip("measure:N"),
               alt.Tooltip("text:N", title="value"), alt.Tooltip("n_tokens:Q", title="tokens", format=",d")]  # fmt: skip
    base = alt.Chart(drawn).encode(y=y, color=colour)
    bars = alt.Chart(drawn.filter(known("x_low") & known("x_high"))).encode(y=y, color=colour)
    zero = panels.place(pl.DataFrame({"measure": [LOST], "value": [0.0]}), "measure", x="value")
    return alt.layer(
        alt.Chart(zero).mark_rule(color=NEUTRAL, strokeDash=[5, 4], strokeWidth=1.5).encode(x=alt.X("x:Q")),
        bars.mark_rule(strokeWidth=2).encode(x=alt.X("x_low:Q"), x2=alt.X2("x_high:Q")),
        base.mark_point(filled=True, size=50, opacity=1).encode(
            x=alt.X("x:Q", **panels.axis(None, grid=False)), tooltip=tooltip
        ),
        heads(panels, TITLES),
        *_legend(drawn, variants),
    ).properties(height=ROW * max(len(order), 1), autosize=FIT_WIDTH)


def _legend(drawn: pl.DataFrame, variants: list[str]) -> list[alt.Chart]:
    """The variants by name and colour, one below the other: beside each other they would read as heads of the panels."""
    rows = drawn.unique("variant", keep="first", maintain_order=True).select("variant", "part", "name")
    texts = []
    for k, variant in enumerate(variants):
        one = rows.filter(pl.col("variant") == variant).with_columns(x=pl.lit(0.0))
        text = alt.Chart(one).mark_text(align="left", fontSize=12, fontWeight="bold")
        colour = part_colour_if(f"datum.part !== '{CLEAN}'")
        texts.append(
            text.encode(
                x=alt.X("x:Q"), y=alt.value(-34 - 17 * (len(variants) - 1 - k)), text=alt.Text("name:N"), color=colour
            )
        )
    return texts
