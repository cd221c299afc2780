"""What a part of the error costs by how much of it is added back: loss over the dose."""

from __future__ import annotations

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, at_ticks, finite, known, linear_ends, linear_y, with_text
from dmcore.charts.labels import spread
from dmcore.charts.part_names import with_names
from dmcore.charts.theme import NEUTRAL, part_colour

HEIGHT = 340
_ROOM = 0.28
"""Share of the axis right of the last dose, for names."""


def doses_table(doses: pl.DataFrame) -> pl.DataFrame:
    """A row a part and dose: `part` (named), `dose`, `delta`, `low`, `high`, `kl`, `n_tokens`.

    Args:
        doses: `DOWNSTREAM_TABLES["doses"]`.
    """
    rows = with_names(doses.filter(known("delta"))).sort("part", "dose")
    return rows.select("part", "dose", "delta", "kl", "n_tokens", low="delta_low", high="delta_high")


def doses_chart(doses: pl.DataFrame) -> alt.LayerChart:
    """A line a part over the dose, with intervals; the clean model at 0 dashed, the whole part marked below."""
    table = with_text(doses_table(doses), "delta", "low", "high")
    low, high = linear_ends([0.0, *table["delta"], *table["low"], *table["high"]])
    last = max(finite(table["dose"]), default=1.0)
    end = last / (1 - _ROOM)
    ticks = table["dose"].unique().sort().to_list()
    x = alt.X("dose:Q", title="dose λ: Sae(x) + λ · part",
              scale=alt.Scale(domain=[-0.04 * last, end], nice=False, zero=False),
              axis=alt.Axis(**at_ticks(ticks), format="~g", grid=False))  # fmt: skip
    y = linear_y("delta:Q", "loss above the clean model's (nats a token)", low, high)
    tooltip = [alt.Tooltip("part:N"), alt.Tooltip("dose:Q", format="~g"), alt.Tooltip("text:N", title="loss increase"),
               alt.Tooltip("kl:Q", title="KL", format=".4f"), alt.Tooltip("n_tokens:Q", title="tokens", format=",d")]  # fmt: skip
    base = alt.Chart(table).encode(x=x, color=part_colour())
    clean = pl.DataFrame({"dose": [-0.04 * last], "end": [end], "delta": [0.0], "words": ["the clean model"]})
    ends = table.group_by("part", maintain_order=True).agg(pl.col("dose", "delta").last())
    gap = (high - low) * 17 / HEIGHT
    ends = ends.with_columns(pl.Series("delta", spread(ends["delta"].to_list(), gap), dtype=pl.Float64))
    rule = alt.Chart(clean)
    return alt.layer(
        rule.mark_rule(color=NEUTRAL, strokeDash=[5, 4], strokeWidth=1.5).encode(
            x=alt.X("dose:Q"), x2=alt.X2("end:Q"), y=alt.Y("delta:Q")
        ),
        rule.mark_text(align="right", dy=-9, color=NEUTRAL, fontSize=12).encode(
            x=alt.X("end:Q"), y=alt.Y("delta:Q"), text=alt.Text("words:N")
        ),
        base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        base.mark_line(strokeWidth=2.5).encode(y=y),
        base.mark_point(filled=True, size=55, opacity=1).encode(y=y, tooltip=tooltip),
        alt.Chart(ends).mark_text(align="left", dx=10, fontWeight="bold", fontSize=12).encode(
            x=alt.X("dose:Q"), y=alt.Y("delta:Q"), text=alt.Text("part:N"), color=part_colour()
        ),
    ).properties(height=HEIGHT, autosize=FIT_WIDTH)  # fmt: skip
