"""In how many directions x and the parts of the error vary, and whether those come back in other texts."""

from __future__ import annotations

import math

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, clipped, known, log_x, with_text
from dmcore.charts.labels import spread
from dmcore.charts.part_names import colour, in_order, with_names
from dmcore.charts.theme import NEUTRAL

HEIGHT = 340
POINTS = 160
"""Of a line, at equal steps of the logarithm."""

_GAP = 17 / HEIGHT
"""Between labels, as a share of an axis from 0 to 1."""


def spectrum_table(spectra: pl.DataFrame) -> pl.DataFrame:
    """The lines: `part` (named), `direction`, `share` of it, `cumulative` share of it and those before.

    Args:
        spectra: the table of that name; of many directions about `POINTS` are kept, the first and the last among them.
    """
    rows = with_names(spectra.filter(known("share"))).select("part", "direction", "share").sort("part", "direction")
    rows = rows.with_columns(cumulative=pl.col("share").cum_sum().over("part"))
    last = int(rows["direction"].max() or 1)  # type: ignore[arg-type]
    kept = {round(last ** (k / (POINTS - 1))) for k in range(POINTS)}
    ends = pl.col("direction") == pl.col("direction").max().over("part")
    return rows.filter(pl.col("direction").is_in(list(kept)) | ends)


def ranks_table(spectra: pl.DataFrame, parts: pl.DataFrame) -> pl.DataFrame:
    """The effective ranks: `part` (named), `effective_rank`, its ends, `cumulative` share of so many directions."""
    rows = with_names(parts.filter(known("effective_rank") & (pl.col("effective_rank") >= 1)))
    rows = rows.select("part", "effective_rank", "effective_rank_low", "effective_rank_high")
    lines = with_names(spectra.filter(known("share"))).sort("part", "direction")
    found = []
    for part, rank in rows.select("part", "effective_rank").rows():
        shares = lines.filter(pl.col("part") == part)["share"]
        whole = math.floor(rank)
        rest = float(shares[whole]) * (rank - whole) if whole < len(shares) else 0.0
        found.append(float(shares.head(whole).sum()) + rest if len(shares) else None)
    return rows.with_columns(cumulative=pl.Series(found, dtype=pl.Float64)).filter(known("cumulative"))


def spectrum_chart(spectra: pl.DataFrame, parts: pl.DataFrame) -> alt.LayerChart:
    """Cumulative share of variance over the number of directions (log scale), the effective rank of each line marked."""
    table, ranks = spectrum_table(spectra), ranks_table(spectra, parts)
    last = max(float(table["direction"].max() or 1), 2.0)  # type: ignore[arg-type]
    x = log_x("direction:Q", "number of directions, the largest first (log scale)", last**-0.24, last * 1.04)
    y = alt.Y("cumulative:Q", title="share of the part's variance in them",
              scale=alt.Scale(domain=[0, 1], nice=False), axis=alt.Axis(format="%", tickCount=5))  # fmt: skip
    tooltip = [alt.Tooltip("part:N"), alt.Tooltip("direction:Q", title="directions", format=",d"),
               alt.Tooltip("cumulative:Q", title="share in them", format=".1%"),
               alt.Tooltip("share:Q", title="share of the last of them", format=".2~%")]  # fmt: skip
    starts = table.group_by("part", maintain_order=True).first()
    moved = spread(starts["cumulative"].to_list(), _GAP)
    lift = max(0.02 - min(moved, default=1.0), 0.0)
    starts = starts.with_columns(label_at=pl.Series([v + lift for v in moved], dtype=pl.Float64))
    line = alt.Chart(table).encode(x=x, y=y, color=colour())
    return alt.layer(
        line.mark_line(strokeWidth=2).encode(detail=[alt.Detail("part:N")]),
        line.mark_point(opacity=0, size=60, filled=True).encode(tooltip=tooltip),
        *_ranks(ranks),
        alt.Chart(starts).mark_text(align="right", dx=-9, fontWeight="bold", fontSize=12).encode(
            x=alt.X("direction:Q"), y=alt.Y("label_at:Q"), text=alt.Text("part:N"), color=colour()
        ),
    ).properties(height=HEIGHT, autosize=FIT_WIDTH)  # fmt: skip


def _ranks(ranks: pl.DataFrame) -> list[alt.Chart]:
    """Diamonds on the lines, each over its number at the axis, on a line of its own; above the plot what they are."""
    if ranks.is_empty():
        return []
    rows = with_text(ranks, "effective_rank", "effective_rank_low", "effective_rank_high").with_columns(
        words=pl.Series([f"{v:,.0f}" if v >= 10 else f"{v:.1f}" for v in ranks["effective_rank"]], dtype=pl.String)
    )
    tooltip = [alt.Tooltip("part:N"), alt.Tooltip("text:N", title="effective rank"),
               alt.Tooltip("cumulative:Q", title="share of variance in so many directions", format=".1%")]  # fmt: skip
    rows = (
        rows.sort("effective_rank").with_row_index("row").with_columns(at=0.03 + pl.col("row") * _GAP, zero=pl.lit(0.0))
    )
    base = alt.Chart(rows).encode(x=alt.X("effective_rank:Q"), y=alt.Y("cumulative:Q"), color=colour())
    key = alt.Chart(pl.DataFrame({"text": ["effective rank"], "direction": [1.0]})).encode(x=alt.X("direction:Q"))
    return [
        base.mark_point(filled=True, shape="diamond", size=120, opacity=1).encode(tooltip=tooltip),
        base.mark_rule(strokeDash=[2, 3], opacity=0.7).encode(y2=alt.Y2("zero:Q")),
        # to the left and to the right in turn, for ranks that are near each other
        *(
            alt.Chart(some)
            .mark_text(align=align, dx=dx, fontWeight="bold", fontSize=12)
            .encode(x=alt.X("effective_rank:Q"), y=alt.Y("at:Q"), text=alt.Text("words:N"), color=colour())
            for some, align, dx in ((rows[::2], "right", -5), (rows[1::2], "left", 5))
            if len(some)
        ),
        key.mark_point(filled=True, shape="diamond", size=90, opacity=1, color=NEUTRAL).encode(y=alt.value(-11)),
        key.mark_text(align="left", dx=9, color=NEUTRAL, fontSize=12).encode(y=alt.value(-10), text=alt.Text("text:N")),
    ]


def overlap_table(stability: pl.DataFrame) -> pl.DataFrame:
    """The lines: `part` (named), `k`, `overlap`, `overlap_least`, `overlap_most`, `chance`, `n_splits`.

    Args:
        stability: the table of that name of a structure.
    """
    columns = ["part", "k", "overlap", "overlap_least", "overlap_most", "chance", "n_splits"]
    return with_names(stability.filter(known("overlap"))).select(columns).sort("part", "k")


def overlap_chart(stability: pl.DataFrame) -> alt.LayerChart:
    """Overlap of the first k directions of two halves of the texts over k, least to most as bars; chance dashed."""
    table = clipped(overlap_table(stability), 0.0, 1.0, "overlap_least", "overlap_most")
    first, last = float(table["k"].min() or 1), float(table["k"].max() or 2)  # type: ignore[arg-type]
    last = max(last, first * 2)
    x = log_x("k:Q", "number of directions k (log scale)", first / 1.15, last * (last / first) ** 0.24, last * 1.001)
    y = alt.Y("overlap:Q", title="overlap of two halves of the texts (0 to 1)",
              scale=alt.Scale(domain=[0, 1.02], nice=False), axis=alt.Axis(values=[0, 0.2, 0.4, 0.6, 0.8, 1]))  # fmt: skip
    tooltip = [alt.Tooltip("part:N"), alt.Tooltip("k:Q", format=",d"),
               *(alt.Tooltip(f"{c}:Q", title=t, format=".3f") for c, t in (
                   ("overlap", "overlap"), ("overlap_least", "least"), ("overlap_most", "most"), ("chance", "by chance"))),
               alt.Tooltip("n_splits:Q", title="splits in halves")]  # fmt: skip
    chance = table.filter(known("chance")).group_by("k").agg(pl.col("chance").mean()).sort("k")
    line = alt.Chart(table).encode(x=x, y=y, color=colour())
    dashed = alt.Chart(chance).mark_line(color=NEUTRAL, strokeDash=[5, 4])
    return alt.layer(
        dashed.encode(x=alt.X("k:Q"), y=alt.Y("chance:Q")),
        line.mark_line(strokeWidth=2).encode(detail=[alt.Detail("part:N")]),
        line.mark_rule(strokeWidth=1.5).encode(y=alt.Y("overlap_least:Q"), y2=alt.Y2("overlap_most:Q")),
        line.mark_point(filled=True, size=45, opacity=1).encode(tooltip=tooltip),
        *_ends(table, chance),
    ).properties(height=HEIGHT, autosize=FIT_WIDTH)


def _ends(table: pl.DataFrame, chance: pl.DataFrame) -> list[alt.Chart]:
    """Parts and chance by name beside the ends of their lines, moved apart."""
    ends = table.group_by("part", maintain_order=True).last().select("part", pl.col("k").cast(pl.Float64), at="overlap")
    if len(chance):
        own = pl.DataFrame(
            {"part": ["chance, k / d"], "k": [float(chance["k"][-1])], "at": [float(chance["chance"][-1])]}
        )
        ends = pl.concat([ends, own])
    at = spread(ends["at"].to_list(), _GAP)
    drop = max(max(at, default=0.0) - 1.0, 0.0)
    rows = ends.with_columns(at=pl.Series([v - drop for v in at], dtype=pl.Float64), k=pl.col("k").max())
    named = rows.filter(pl.col("part").is_in(in_order(table)))
    layers = []
    for kept, ink in ((named, colour()), (rows.join(named, on="part", how="anti"), alt.value(NEUTRAL))):
        text = alt.Chart(kept).mark_text(align="left", dx=9, fontWeight="bold", fontSize=12)
        layers.append(text.encode(x=alt.X("k:Q"), y=alt.Y("at:Q"), text=alt.Text("part:N"), color=ink))
    return layers
