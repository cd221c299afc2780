"""What changes with depth: a metric over layers with a line for each width, and numbers of the scaling over layers."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from dmcore.charts.axes import (
    FIT_WIDTH,
    METRICS,
    at_ticks,
    clipped,
    finite,
    known,
    linear_ends,
    linear_y,
    width_colour,
    with_shade,
    with_text,
)
from dmcore.charts.labels import spread
from dmcore.charts.panels import Panel, Panels
from dmcore.charts.theme import NEUTRAL, NONLINEAR, TOTAL, as_part, part_colour
from dmcore.results import nearest_l0_each

HEIGHT = 340

STREAMS = ("residual", "mlp", "attention")
"""In the order of the panels."""
STREAM_NAMES = {"residual": "residual stream", "mlp": "MLP output", "attention": "attention output"}
STREAM_SHAPES = {"residual": "circle", "mlp": "square", "attention": "triangle-up"}


def depth_table(
    records: pl.DataFrame, l0: float, label: str | None = None, metric: str = "fvu_nonlinear"
) -> pl.DataFrame:
    """One SAE for each site and width, the nearest in L0: `stream`, `layer`, `d_sae`, `l0`, `sae`, `value`, `low`, `high`.

    Args:
        records: rows of `RECORD` of all sites.
        l0: the chosen L0.
        label: the architecture to take; the commonest of a site where it has none of it or none is given.
        metric: a column of `RECORD` with its interval.
    """
    kept = []
    for site in records.filter(known(metric)).partition_by("site", maintain_order=True):
        own = site.filter(pl.col("label") == label) if label else site.head(0)
        if not len(own):
            common = site.group_by("label").len().sort(["len", "label"], descending=[True, False])["label"][0]
            own = site.filter(pl.col("label") == common)
        kept.append(nearest_l0_each(own, "d_sae", l0))
    table = pl.concat(kept) if kept else records.head(0)
    return table.select(
        "stream", "layer", "d_sae", "l0", "sae", "label", value=metric, low=f"{metric}_low", high=f"{metric}_high"
    ).sort("stream", "d_sae", "layer")


def depth_chart(table: pl.DataFrame, metric: str = "fvu_nonlinear", selected: str | None = None) -> alt.LayerChart:
    """A panel a stream, in it a line a width over layers, named at its end.

    Args:
        table: of `depth_table`.
        selected: id of the chosen SAE, which is marked where it is one of those that are drawn.
    """
    drawn = with_text(with_shade(table.filter(known("value"))), "value", "low", "high")
    streams = _in_order(drawn["stream"].to_list())
    panels = _layer_panels(drawn, streams)
    drawn = panels.place(drawn, "stream", x="layer")
    values = finite([*drawn["value"], *drawn["low"], *drawn["high"]])
    low, high = linear_ends(values)
    low = 0.0 if min(values, default=0.0) >= 0 and low < 0.5 * high else low
    y = linear_y("value:Q", METRICS[metric].title, low, high)
    x = alt.X("x:Q", **panels.axis("layer", grid=False))
    drawn = clipped(drawn, low, high, "low", "high")
    tooltip = [alt.Tooltip("stream:N"), alt.Tooltip("layer:O"), alt.Tooltip("d_sae:Q", title="width", format=",d"),
               alt.Tooltip("l0:Q", title="L0", format=".1f"), alt.Tooltip("sae:N", title="SAE"),
               alt.Tooltip("text:N", title=METRICS[metric].name)]  # fmt: skip
    base = alt.Chart(drawn).encode(color=width_colour())
    at = {"x": alt.X("x:Q")}
    lines = base.encode(**at, detail=[alt.Detail("stream:N"), alt.Detail("d_sae:N")])
    layers = [
        lines.mark_line(strokeWidth=2).encode(y=alt.Y("value:Q")),
        base.mark_rule(strokeWidth=1.5).encode(**at, y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        base.mark_point(filled=True, size=45, opacity=1).encode(x=x, y=y, tooltip=tooltip),
        _width_names(drawn, (high - low) * 15 / HEIGHT),
        *([_heads(panels)] if len(streams) > 1 else []),
    ]
    chosen = drawn.filter(pl.col("sae") == (selected or ""))
    if len(chosen):
        ring = alt.Chart(chosen).mark_point(filled=False, size=260, strokeWidth=2, opacity=1, color=NEUTRAL)
        layers.append(ring.encode(x=alt.X("x:Q"), y=alt.Y("value:Q")))
    return alt.layer(*layers).resolve_scale(color="independent").properties(height=HEIGHT, autosize=FIT_WIDTH)


def _in_order(streams: Sequence[str]) -> list[str]:
    return sorted(set(streams), key=lambda s: (STREAMS.index(s) if s in STREAMS else len(STREAMS), s))


def _layer_panels(drawn: pl.DataFrame, streams: list[str]) -> Panels:
    """A panel for each stream over its layers, with room for names at the right of each."""
    panels, room = [], 0.14 * len(streams)
    there = {s: drawn.filter(pl.col("stream") == s)["layer"].unique().sort().to_list() for s in streams}
    most = max(len(layers) for layers in there.values())
    for stream, layers in there.items():
        span = max(layers[-1] - layers[0], 1)
        step = -(-len(layers) // max(12 // len(streams), 3))
        panels.append(Panel(stream, layers[0] - 0.03 * span, layers[-1] + room * span,
                            ticks=tuple(layers[::step]), size=max(len(layers) / most, 0.5)))  # fmt: skip
    return Panels(panels, gap=0.06)


def _width_names(drawn: pl.DataFrame, gap: float) -> alt.Chart:
    """The width of each line at its end, moved apart within each panel."""
    kept = []
    for panel in drawn.partition_by("stream", maintain_order=True):
        ends = panel.sort("layer").group_by("d_sae", maintain_order=True).last()
        kept.append(ends.with_columns(y=pl.Series(spread(ends["value"].to_list(), gap), dtype=pl.Float64)))
    labels = pl.concat(kept)
    labels = labels.with_columns(name=pl.Series([f"{w:,}" for w in labels["d_sae"]], dtype=pl.String))
    text = alt.Chart(labels).mark_text(align="left", dx=9, fontWeight="bold", fontSize=11)
    return text.encode(x=alt.X("x:Q"), y=alt.Y("y:Q"), text=alt.Text("name:N"), color=width_colour())


def _heads(panels: Panels) -> alt.Chart:
    names = as_part(panels.spans(), TOTAL)
    names = names.with_columns(text=pl.col("name").replace_strict(STREAM_NAMES, default=pl.col("name")))
    text = alt.Chart(names).mark_text(align="left", fontWeight="bold", fontSize=13)
    return text.encode(x=alt.X("start:Q"), y=alt.value(-9), text=alt.Text("text:N"), color=part_colour())


def over_layers_table(table: pl.DataFrame, value: str) -> pl.DataFrame:
    """`stream`, `layer`, `value`, `low`, `high` of a column that has an interval; rows without a number are left out.

    Args:
        table: a row a site, with `stream`, `layer`, `<value>`, `<value>_low`, `<value>_high`.
    """
    return table.filter(known(value)).select(
        "stream", "layer", value=value, low=f"{value}_low", high=f"{value}_high"
    ).sort("stream", "layer")  # fmt: skip


def exponents_chart(laws: pl.DataFrame, metric: str = "fvu") -> alt.LayerChart:
    """The exponent m of the law with a floor over layers, a line a stream.

    Args:
        laws: rows of the table of that name, a set a site, with that site's `stream` and `layer`.
    """
    rows = laws.filter((pl.col("metric") == metric) & (pl.col("law") == "power"))
    title = f"exponent m of {METRICS[metric].name} (c + a W^-m)"
    return over_layers_chart(over_layers_table(rows, "m"), title, METRICS[metric].part, reference=0.0)


def constancy_chart(constancy: pl.DataFrame, metric: str = "fvu_nonlinear") -> alt.LayerChart:
    """The widest SAE's value over the narrowest's, over layers, a line a stream.

    Args:
        constancy: rows of the table of that name, a set a site, with that site's `stream` and `layer`.
    """
    rows = constancy.filter(pl.col("metric") == metric)
    title = f"{METRICS[metric].name}, widest / narrowest SAE"
    return over_layers_chart(over_layers_table(rows, "ratio"), title, METRICS[metric].part, reference=1.0)


def same_tokens_chart(table: pl.DataFrame) -> alt.LayerChart:
    """Held-out R2 of the widest SAE's |e| from the narrowest's, over layers, a line a stream.

    Args:
        table: `layer`, `stream`, `r2`, `r2_low`, `r2_high` (or `low`, `high`).
    """
    if "low" in table.columns:
        table = table.rename({"low": "r2_low", "high": "r2_high"})
    title = "held-out R², widest |e| from narrowest |e|"
    return over_layers_chart(over_layers_table(table, "r2"), title, TOTAL)


def over_layers_chart(
    table: pl.DataFrame, title: str, part: str = NONLINEAR, reference: float | None = None
) -> alt.LayerChart:
    """A number with its interval over layers, a line and a shape a stream, named at its end.

    Args:
        table: of `over_layers_table`.
        title: of the y axis, with the unit.
        part: whose colour it has.
        reference: a value that gets a dashed line.
    """
    layers = table["layer"].unique().sort().to_list()
    first, last = layers[0], layers[-1]
    streams = _in_order(table["stream"].to_list())
    values = finite([*table["value"], *table["low"], *table["high"], *([reference] if reference is not None else [])])
    low, high = linear_ends(values)
    drawn = as_part(clipped(with_text(table, "value", "low", "high"), low, high, "low", "high"), part)
    drawn = drawn.with_columns(name=pl.col("stream").replace_strict(STREAM_NAMES, default=pl.col("stream")))
    span = last - first or 1
    # streams that share a layer stand beside each other, so that their intervals can be told apart
    beside = {stream: (k - (len(streams) - 1) / 2) * 0.011 * span for k, stream in enumerate(streams)}
    drawn = drawn.with_columns(x=pl.col("layer") + pl.col("stream").replace_strict(beside, return_dtype=pl.Float64))
    ends = [first - 0.03 * span, last + (0.42 if len(streams) > 1 else 0.03) * span]
    x = alt.X("x:Q", title="layer", axis=alt.Axis(**at_ticks(layers), format="d", grid=False),
              scale=alt.Scale(domain=ends, nice=False, zero=False))  # fmt: skip
    y = linear_y("value:Q", title, low, high)
    shapes = alt.Scale(domain=streams, range=[STREAM_SHAPES.get(s, "diamond") for s in streams])
    tooltip = [alt.Tooltip("name:N", title="stream"), alt.Tooltip("layer:O"), alt.Tooltip("text:N", title="value")]
    base = alt.Chart(drawn).encode(x=x, color=part_colour())
    rule = alt.Chart(pl.DataFrame({"value": [reference]})).mark_rule(color=NEUTRAL, strokeDash=[5, 4])
    names = drawn.sort("layer").group_by("stream", maintain_order=True).last()
    gap = (high - low) * 17 / HEIGHT
    # a name stands beside the end of its own line; those that end at one layer are moved apart
    names = pl.concat(
        ends.with_columns(y=pl.Series(spread(ends["value"].to_list(), gap), dtype=pl.Float64), x=pl.col("x").max())
        for ends in names.partition_by("layer", maintain_order=True)
    )
    words = alt.Chart(names).mark_text(align="left", dx=11, fontWeight="bold", fontSize=12)
    return alt.layer(
        *([rule.encode(y=alt.Y("value:Q"))] if reference is not None else []),
        base.mark_line(strokeWidth=1.8, opacity=0.7).encode(y=y, detail=alt.Detail("stream:N")),
        base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        base.mark_point(filled=True, size=70, opacity=1)
        .encode(y=y, shape=alt.Shape("stream:N", scale=shapes, legend=None), tooltip=tooltip),
        *([words.encode(x=alt.X("x:Q"), y=alt.Y("y:Q"), text=alt.Text("name:N"), color=part_colour())]
          if len(streams) > 1 else []),
    ).properties(height=HEIGHT, autosize=FIT_WIDTH)  # fmt: skip
