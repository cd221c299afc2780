"""Where an SAE fails: the error and its parts in each group of tokens, against the average over all."""

from __future__ import annotations

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, finite, known, log_ends, with_text
from dmcore.charts.panels import Panel, Panels
from dmcore.charts.theme import LINEAR, NEUTRAL, NONLINEAR, TOTAL, part_colour

ROW = 44
"""Height of a row, in pixels."""

LONGEST = 32
"""Letters of a group's name."""

RATIO, SHARE = "ratio", "share"
"""The panels: mean squared norm over its average; nonlinear share of the squared norm."""

_COLUMNS = {
    "error_ratio": (RATIO, TOTAL),
    "linear_ratio": (RATIO, LINEAR),
    "nonlinear_ratio": (RATIO, NONLINEAR),
    "nonlinear_share": (SHARE, NONLINEAR),
}
_TITLES = {
    RATIO: "mean squared norm / average over all (log scale)",
    SHARE: "nonlinear share of the squared norm",
}


def slices_table(slices: pl.DataFrame, by: str = "class") -> pl.DataFrame:
    """A row for each group and number: `group`, `n_tokens`, `measure` (`ratio` or `share`), `part`, `value`, `low`, `high`.

    Args:
        slices: the table of that name, of one SAE.
        by: `class`, `position` or `domain`.
    """
    rows = slices.filter(pl.col("by") == by)
    return pl.concat(
        rows.select(
            "order", "group", "n_tokens", measure=pl.lit(measure), part=pl.lit(part),
            value=column, low=f"{column}_low", high=f"{column}_high",
        )
        for column, (measure, part) in _COLUMNS.items()
    ).sort("order", "group", "measure", "part").drop("order")  # fmt: skip


def slices_chart(slices: pl.DataFrame, by: str = "class") -> alt.LayerChart:
    """A row a group; dots with intervals for the error and its parts, and beside them the nonlinear share."""
    table = slices_table(slices, by)
    rows = table.select("group", "n_tokens").unique(maintain_order=True)
    labels = _labels(rows)
    drawn = table.filter(known("value")).with_columns(
        label=pl.col("group").replace_strict(labels, default=pl.col("group"))
    )
    ratios = drawn.filter(pl.col("measure") == RATIO)
    ends = log_ends([*ratios["value"], *ratios["low"], *ratios["high"], 1.0], 1.1)
    shares = finite(drawn.filter(pl.col("measure") == SHARE).select("value", "low", "high").to_numpy().ravel())
    panels = Panels([Panel(RATIO, *ends, log=True, size=1.5),
                     Panel(SHARE, min(0.0, *shares, 0.0), max(1.0, *shares, 1.0), percent=True)], gap=0.12)  # fmt: skip
    drawn = panels.place(with_text(drawn, "value", "low", "high"), "measure", x="value", x_low="low", x_high="high")
    order = list(labels.values())
    y = alt.Y("label:N", title=None, scale=alt.Scale(domain=order),
              axis=alt.Axis(labelLimit=320, ticks=False, domain=False, labelOverlap=False, grid=True))  # fmt: skip
    offset = alt.YOffset("part:N", scale=alt.Scale(domain=[TOTAL, LINEAR, NONLINEAR], padding=0.9))
    x = alt.X("x:Q", **panels.axis(None, grid=False))
    tooltip = [alt.Tooltip("group:N"), alt.Tooltip("n_tokens:Q", title="tokens", format=",d"), alt.Tooltip("part:N"),
               alt.Tooltip("measure:N"), alt.Tooltip("text:N", title="value")]  # fmt: skip
    base = alt.Chart(drawn).encode(y=y, yOffset=offset, color=part_colour())
    one = alt.Chart(pl.DataFrame({"x": [panels.at(panels.panels[0], 1.0)]}))
    return alt.layer(
        one.mark_rule(color=NEUTRAL, strokeDash=[5, 4]).encode(x=alt.X("x:Q")),
        base.mark_rule(strokeWidth=2).encode(x=alt.X("x_low:Q"), x2=alt.X2("x_high:Q")),
        base.mark_point(filled=True, size=65, opacity=1).encode(x=x, tooltip=tooltip),
        *_heads(panels),
    ).properties(height=ROW * len(order), autosize=FIT_WIDTH)


def _labels(rows: pl.DataFrame) -> dict[str, str]:
    """`digits (1,234 tokens)` for each group; a long name is cut, where that leaves names apart."""
    groups = rows["group"].to_list()
    short = [g if len(g) <= LONGEST else g[: LONGEST - 1] + "…" for g in groups]
    names = short if len(set(short)) == len(groups) else groups
    return {g: f"{name} ({n:,} tokens)" for g, name, n in zip(groups, names, rows["n_tokens"], strict=True)}


def _heads(panels: Panels) -> list[alt.Chart]:
    """What each panel shows, and the parts by name in their colours, above the rows."""
    spans = panels.spans()
    ratio, share = (spans["start"][k] for k in (0, 1))
    layers = []
    # One above the other: side by side they run into each other where the panels are narrow.
    for name, at, align, y in ((RATIO, ratio, "left", -45), (SHARE, spans["end"][1], "right", -28)):
        title = alt.Chart(pl.DataFrame({"x": [at], "text": [_TITLES[name]]}))
        words = title.mark_text(align=align, color=NEUTRAL, fontSize=12)  # type: ignore[arg-type]
        layers.append(words.encode(x=alt.X("x:Q"), y=alt.value(y), text=alt.Text("text:N")))
    # By pixels, for the same reason.
    for start, part, dx in ((ratio, TOTAL, 0), (ratio, LINEAR, 40), (ratio, NONLINEAR, 80), (share, NONLINEAR, 0)):
        name = pl.DataFrame({"start": [start], "part": [part], "words": [part.removesuffix(" error")]})
        text = alt.Chart(name).mark_text(align="left", fontWeight="bold", fontSize=12, dx=dx)
        layers.append(text.encode(x=alt.X("start:Q"), y=alt.value(-11), text=alt.Text("words:N"), color=part_colour()))
    return layers
