"""Are the directions of a part's latents in other dictionaries already? The largest cosine of each, against chance."""

from __future__ import annotations

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, finite, known
from dmcore.charts.panels import Panel, Panels
from dmcore.charts.part_names import colour, in_order, with_names
from dmcore.charts.theme import NEUTRAL
from dmcore.results.columns import mapped

HEIGHT = 300
POINTS = 120
"""Of a line."""
LONGEST = 30
"""Letters of a dictionary's name."""


def learned_table(not_learned: pl.DataFrame) -> pl.DataFrame:
    """The lines: `part` (named), `against`, `cosine`, `share` of the part's latents whose largest cosine is at least that.

    Args:
        not_learned: `NOT_LEARNED` with `part`; latents of several seeds count together. Without a cosine: left out.
    """
    rows = with_names(not_learned).filter(known("cosine"))
    lines = []
    for against in rows["against"].unique(maintain_order=True):
        for part in in_order(rows):
            here = rows.filter((pl.col("against") == against) & (pl.col("part") == part))["cosine"].cast(pl.Float64)
            if here.is_empty():
                continue
            values, n = here.sort(), len(here)
            drawn = values.gather(sorted({round(k * (n - 1) / (POINTS - 1)) for k in range(POINTS)})).unique().sort()
            before = values.search_sorted(drawn, side="left")
            columns = {"cosine": drawn, "share": 1 - before.cast(pl.Float64) / n}
            lines.append(
                pl.DataFrame(columns).select(pl.lit(part).alias("part"), pl.lit(against).alias("against"), *columns)
            )
    schema = {"part": pl.String, "against": pl.String, "cosine": pl.Float64, "share": pl.Float64}
    return pl.concat([pl.DataFrame(schema=schema), *lines])


def above_table(not_learned: pl.DataFrame) -> pl.DataFrame:
    """A row a part and dictionary: `baseline_95` (of random directions), `share` of latents above it, `n_latents`."""
    rows = with_names(not_learned).filter(known("cosine") & known("baseline_95"))
    return rows.group_by("against", "part", maintain_order=True).agg(
        baseline_95=pl.col("baseline_95").cast(pl.Float64).mean(),
        share=(pl.col("cosine") > pl.col("baseline_95")).mean(),
        n_latents=pl.len(),
    )


def learned_chart(not_learned: pl.DataFrame) -> alt.LayerChart:
    """A panel a dictionary, a line a part; random directions' 95 % quantile dashed, the shares above it in words."""
    lines, above, parts = learned_table(not_learned), above_table(not_learned), in_order(not_learned)
    low = min([0.0, *finite(lines["cosine"])])
    names = not_learned["against"].unique(maintain_order=True).to_list()
    panels = Panels([Panel(name, low, 1.0, ticks=_ticks(low)) for name in names], gap=0.16, room=1e-4)
    drawn = panels.place(_whole(lines, low), "against", x="cosine")
    marks = panels.place(above, "against", x="baseline_95")
    y = alt.Y("share:Q", title="share of latents with at least this cosine",
              scale=alt.Scale(domain=[0, 1], nice=False), axis=alt.Axis(format="%", tickCount=5))  # fmt: skip
    x = alt.X("x:Q", **panels.axis("largest cosine with a direction of the dictionary", grid=False))
    tooltip = [alt.Tooltip("part:N"), alt.Tooltip("against:N", title="dictionary"),
               alt.Tooltip("cosine:Q", format=".3f"),
               alt.Tooltip("share:Q", title="latents at least as near", format=".1%")]  # fmt: skip
    of_mark = [alt.Tooltip("part:N"), alt.Tooltip("against:N", title="dictionary"),
               alt.Tooltip("baseline_95:Q", title="95 % quantile of random directions", format=".3f"),
               alt.Tooltip("share:Q", title="latents above it", format=".1%"),
               alt.Tooltip("n_latents:Q", title="latents", format=",d")]  # fmt: skip
    base = alt.Chart(drawn).encode(x=x, y=y, color=colour())
    return alt.layer(
        *_rules(marks, panels),
        base.mark_line(strokeWidth=2).encode(
            detail=[alt.Detail("part:N"), alt.Detail("against:N")], order=alt.Order("share:Q", sort="descending"),
            tooltip=tooltip,
        ),
        alt.Chart(marks).mark_point(filled=True, size=55, opacity=1).encode(
            x=alt.X("x:Q"), y=alt.Y("share:Q"), color=colour(), tooltip=of_mark
        ),
        *_heads(marks, panels, parts),
    ).properties(height=HEIGHT, autosize=FIT_WIDTH)  # fmt: skip


def _whole(lines: pl.DataFrame, low: float) -> pl.DataFrame:
    """The lines from the left end of their panel, where all latents are, to none beyond the largest cosine."""
    by = lines.group_by("part", "against", maintain_order=True)
    starts = by.first().with_columns(cosine=pl.lit(low), share=pl.lit(1.0)).select(lines.columns)
    ends = by.last().with_columns(share=pl.lit(0.0)).select(lines.columns)
    return pl.concat([starts, lines, ends])


def _ticks(low: float) -> tuple[float, ...]:
    return (-0.5, 0.0, 0.5, 1.0) if low <= -0.5 else (0.0, 0.5, 1.0)


def _rules(marks: pl.DataFrame, panels: Panels) -> list[alt.Chart]:
    """The baseline of each panel, named at its top."""
    rules = marks.group_by("against", maintain_order=True).agg(pl.col("x").mean())
    rules = rules.join(panels.spans().select(against="name", start="start"), on="against")
    rules = rules.with_columns(text=pl.lit("random, 95 %"))
    base = alt.Chart(rules)
    return [
        base.mark_rule(color=NEUTRAL, strokeDash=[5, 4]).encode(x=alt.X("x:Q")),
        base.mark_text(align="left", dx=-4, color=NEUTRAL, fontSize=11).encode(
            x=alt.X("x:Q"), y=alt.value(-8), text=alt.Text("text:N")
        ),
    ]


def _share(share: float) -> str:
    """A share in percent, with a decimal where it is near neither half."""
    shown = 100 * share
    return f"{shown:.1f} %" if 0 < shown < 9.95 or 99 < shown < 99.95 else f"{shown:.0f} %"


def _heads(marks: pl.DataFrame, panels: Panels, parts: list[str]) -> list[alt.Chart]:
    """Above each panel its dictionary, and for each part the share of latents above the baseline."""
    short = pl.col("name").str.replace(r"^(base, .*) latents$", "$1")  # all have to fit side by side on a narrow page
    spans = panels.spans().with_columns(text=short)
    spans = spans.with_columns(mapped(spans["text"], lambda n: n if len(n) <= LONGEST else f"…{n[1 - LONGEST :]}"))
    top = 28 + 17 * len(parts)
    words = alt.Chart(spans).mark_text(align="left", color=NEUTRAL, fontSize=12, fontWeight="bold")
    layers = [words.encode(x=alt.X("start:Q"), y=alt.value(-top), text=alt.Text("text:N"))]
    for k, part in enumerate(parts):
        rows = marks.filter(pl.col("part") == part).join(
            panels.spans().select(against="name", start="start"), on="against"
        )
        said = [f"{part.removeprefix('activation ').removesuffix(' error')} {_share(share)}" for share in rows["share"]]
        text = alt.Chart(rows.with_columns(pl.Series("text", said, dtype=pl.String)))
        text = text.mark_text(align="left", fontSize=12, fontWeight="bold")
        layers.append(
            text.encode(x=alt.X("start:Q"), y=alt.value(-(top - 18 - 17 * k)), text=alt.Text("text:N"), color=colour())
        )
    return layers
