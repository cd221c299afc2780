"""How strongly one latent is active where it is active."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, finite, linear_ends, log_y
from dmcore.charts.part_names import X, colour
from dmcore.charts.theme import NEUTRAL, as_part

HEIGHT = 220

_FLOOR = 0.7
"""Where bars stand on the log axis: below one token, so that one token has a height."""


def histogram_table(edges: Sequence[float], counts: Sequence[int]) -> pl.DataFrame:
    """A row a bin: `low`, `high` (activation), `tokens`.

    Args:
        edges: ends of the bins, one more than there are bins.
        counts: tokens in each.
    """
    return pl.DataFrame(
        {"low": list(edges[:-1]), "high": list(edges[1:]), "tokens": list(counts)},
        schema={"low": pl.Float64, "high": pl.Float64, "tokens": pl.Int64},
    )


def deciles_table(histogram: pl.DataFrame) -> pl.DataFrame:
    """Where nine tenths, eight tenths, … of the activations lie: `decile`, `activation`, within a bin by its even share.

    Args:
        histogram: as `histogram_table` gives it.
    """
    total = int(histogram["tokens"].sum())
    rows, before = [], 0
    wanted = [(k, k * total / 10) for k in range(1, 10)] if total else []
    for low, high, tokens in histogram.select("low", "high", "tokens").rows():
        while wanted and wanted[0][1] <= before + tokens and tokens:
            k, rank = wanted.pop(0)
            rows.append((k, low + (high - low) * (rank - before) / tokens))
        before += tokens
    return pl.DataFrame(rows, schema={"decile": pl.Int32, "activation": pl.Float64}, orient="row")


def histogram_chart(edges: Sequence[float], counts: Sequence[int], part: str = X) -> alt.LayerChart:
    """Bars of tokens, on a log axis, over the activation; the deciles as ticks under them.

    Args:
        part: in whose colour the bars are; an SAE of a study is one on x.
    """
    table = histogram_table(edges, counts)
    bars = as_part(table.filter(pl.col("tokens") > 0).with_columns(foot=pl.lit(_FLOOR)), part)
    most = max([*finite(bars["tokens"]), 1.0])
    right = max([*finite(table["high"]), 0.0]) or linear_ends([])[1]
    scale = alt.Scale(domain=[0.0, right], nice=False, zero=False)
    x = alt.X("low:Q", title="activation of the latent (bins of equal width)", scale=scale, axis=alt.Axis(grid=False))
    y = log_y("tokens:Q", "tokens (log scale)", _FLOOR, max(most * 1.6, 10.0))
    tooltip = [alt.Tooltip("low:Q", title="activation from", format=".3~g"), alt.Tooltip("high:Q", title="to", format=".3~g"),
               alt.Tooltip("tokens:Q", format=",d")]  # fmt: skip
    deciles = deciles_table(table)
    ticks = alt.Chart(deciles).encode(x=alt.X("activation:Q"))
    decile_tip = [
        alt.Tooltip("decile:Q", title="tenths of its tokens below"),
        alt.Tooltip("activation:Q", format=".3~g"),
    ]
    return alt.layer(
        alt.Chart(bars).mark_rect(opacity=0.85, stroke=None).encode(
            x=x, x2=alt.X2("high:Q"), y=y, y2=alt.Y2("foot:Q"), color=colour(), tooltip=tooltip
        ),
        ticks.mark_rule(color=NEUTRAL, strokeWidth=1.5, strokeDash=[2, 2]).encode(
            y=alt.value(0), y2=alt.value(8), tooltip=decile_tip
        ),
        *_names(deciles, right),
    ).properties(height=HEIGHT, autosize=FIT_WIDTH)  # fmt: skip


def _names(deciles: pl.DataFrame, right: float) -> list[alt.Chart]:
    """The median and the last decile by name, each on its free side."""
    layers = []
    last = deciles.filter(pl.col("decile") == 9)
    crowded = len(last) > 0 and float(last["activation"][0]) / right > 0.82
    for decile, align in ((5, "right"), (9, "left")):
        row = deciles.filter(pl.col("decile") == decile)
        share = float(row["activation"][0]) / right if len(row) else 0.0
        turned = decile == 9 and share > 0.82
        if row.is_empty() or (decile == 5 and (share < 0.08 or crowded)):
            continue
        text = "median" if decile == 5 else "a tenth is beyond this" if turned else "a tenth is beyond →"
        base = alt.Chart(row.with_columns(text=pl.lit(text)))
        words = base.mark_text(align="right" if turned else align, color=NEUTRAL, fontSize=11, dy=-8)  # type: ignore[arg-type]
        layers.append(words.encode(x=alt.X("activation:Q"), y=alt.value(0), text=alt.Text("text:N")))
    return layers
