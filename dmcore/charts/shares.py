"""Does a part of the error cost the model what its size says? Its share of the loss against its share of the error."""

from __future__ import annotations

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, finite, known, with_text
from dmcore.charts.numbers import compact
from dmcore.charts.part_names import with_names
from dmcore.charts.theme import NEUTRAL, part_colour

HEIGHT = 430

AGAINST = {
    "norm_sq_share": "share of the error's squared norm",
    "norm_share": "share of the error's norm",
    "r2_share": "share of the error vector's variance (held-out R²)",
}
"""What a part's size is measured by, and the axis."""
SHARES = {
    "sae": pl.String,
    "layer": pl.Int64,
    "d_sae": pl.Int64,
    "l0": pl.Float64,
    "part": pl.String,
    **{f"{name}{end}": pl.Float64 for name in (*AGAINST, "recovered", "kl_recovered") for end in ("", "_low", "_high")},
}
"""A row an SAE and part: `parts` of each SAE's results, with what it is of."""


def shares_table(shares: pl.DataFrame, against: str, gained: str = "recovered") -> pl.DataFrame:
    """What is drawn: `sae`, `layer`, `d_sae`, `l0`, `part` (named), `share`, `recovered`, each with `_low` and `_high`.

    Args:
        shares: `SHARES`.
        against: of `AGAINST`.
        gained: `recovered` (loss) or `kl_recovered`.
    """
    rows = with_names(shares.filter(known(against) & known(gained)))
    columns = {f"{new}{end}": f"{old}{end}" for new, old in (("share", against), ("recovered", gained))
               for end in ("", "_low", "_high")}  # fmt: skip
    return rows.select("sae", "layer", "d_sae", "l0", "part", **columns).sort("part", "layer", "d_sae", "l0", "sae")


def shares_chart(shares: pl.DataFrame, against: str, gained: str = "recovered", selected: str = "") -> alt.LayerChart:
    """A dot an SAE and part with intervals both ways, larger where wider; the diagonal is in proportion.

    Args:
        shares, against, gained: as of `shares_table`.
        selected: name of the SAE that is ringed.
    """
    table = shares_table(shares, against, gained)
    ends = [*table["share"], *table["recovered"], *table["recovered_low"], *table["recovered_high"]]
    low, high = min([0.0, *finite(ends)]), max([1.0, *finite(ends)])
    low, high = (low - 0.03 if low < 0 else 0.0), high + 0.06
    drawn = with_text(table, "share", "share_low", "share_high", "share_text")
    drawn = with_text(drawn, "recovered", "recovered_low", "recovered_high")
    drawn = drawn.with_columns(octave=pl.col("d_sae").cast(pl.Float64).log(2))
    what = "loss that Sae(x) costs" if gained == "recovered" else "KL that Sae(x) costs"
    scale = alt.Scale(domain=[low, high], nice=False, zero=False)
    x = alt.X("share:Q", title=AGAINST[against], scale=alt.Scale(domain=[0.0, 1.06], nice=False, zero=False),
              axis=alt.Axis(format=".0%", tickCount=6, grid=False))  # fmt: skip
    y = alt.Y("recovered:Q", title=f"share recovered of the {what}", scale=scale,
              axis=alt.Axis(format=".0%", tickCount=6))  # fmt: skip
    tooltip = [alt.Tooltip("sae:N", title="SAE"), alt.Tooltip("part:N"), alt.Tooltip("share_text:N", title=AGAINST[against]),
               alt.Tooltip("text:N", title=f"recovered of the {what}"), alt.Tooltip("layer:Q", format="d"),
               alt.Tooltip("d_sae:Q", title="width", format=",d"), alt.Tooltip("l0:Q", title="L0", format=".1f")]  # fmt: skip
    base = alt.Chart(drawn).encode(color=part_colour())
    layers = [
        *_diagonal(),
        base.mark_rule(strokeWidth=1.5, opacity=0.6).encode(
            x=alt.X("share:Q"), y=alt.Y("recovered_low:Q"), y2=alt.Y2("recovered_high:Q")
        ),
        base.mark_rule(strokeWidth=1.5, opacity=0.6).encode(
            x=alt.X("share_low:Q"), x2=alt.X2("share_high:Q"), y=alt.Y("recovered:Q")
        ),
        base.mark_point(filled=True, opacity=0.9).encode(x=x, y=y, size=_size(drawn), tooltip=tooltip),
        *_names(drawn, selected),
    ]
    return alt.layer(*layers).properties(height=HEIGHT, autosize=FIT_WIDTH)


def _size(drawn: pl.DataFrame) -> alt.Size:
    ends = finite(drawn["octave"]) or [8.0]
    return alt.Size("octave:Q", scale=alt.Scale(domain=[min(ends), max(max(ends), min(ends) + 1)], range=[40, 190]),
                    legend=None)  # fmt: skip


def _diagonal() -> list[alt.Chart]:
    line = alt.Chart(pl.DataFrame({"share": [0.0], "to": [1.0], "recovered": [0.0], "up": [1.0]}))
    words = alt.Chart(pl.DataFrame({"share": [0.5], "recovered": [0.5], "words": ["in proportion"]}))
    return [
        line.mark_rule(color=NEUTRAL, strokeDash=[5, 4], strokeWidth=1.5).encode(
            x=alt.X("share:Q"), x2=alt.X2("to:Q"), y=alt.Y("recovered:Q"), y2=alt.Y2("up:Q")
        ),
        words.mark_text(align="left", dx=10, dy=8, color=NEUTRAL, fontSize=12).encode(
            x=alt.X("share:Q"), y=alt.Y("recovered:Q"), text=alt.Text("words:N")
        ),
    ]


def _names(drawn: pl.DataFrame, selected: str) -> list[alt.Chart]:
    """The selected SAE's parts ringed and named; of no SAE, the first row of each part."""
    own = drawn.filter(pl.col("sae") == selected)
    named = own if len(own) else drawn.unique("part", keep="first", maintain_order=True)
    named = named.with_columns(words=pl.col("part"))
    text = alt.Chart(named).mark_text(align="right", dx=-14, dy=-12, fontWeight="bold", fontSize=12)
    layers = [text.encode(x=alt.X("share:Q"), y=alt.Y("recovered:Q"), text=alt.Text("words:N"), color=part_colour())]
    if len(own):
        ring = alt.Chart(own).mark_point(filled=False, size=420, strokeWidth=2, opacity=1, color=NEUTRAL)
        layers.insert(0, ring.encode(x=alt.X("share:Q"), y=alt.Y("recovered:Q")))
    return layers


def widths_words(shares: pl.DataFrame) -> str:
    """`256 to 4,096 latents`."""
    widths = shares["d_sae"].drop_nulls().sort()
    if widths.is_empty():
        return ""
    first, last = compact(float(widths[0])), compact(float(widths[-1]))
    return f"{first} latents" if first == last else f"{first} to {last} latents"
