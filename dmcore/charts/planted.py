"""What was put in against what was found: the estimates of an error's parts over the truth, and what correlates with what."""

from __future__ import annotations

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, finite, known, linear_ends, linear_y, with_text
from dmcore.charts.numbers import number, point
from dmcore.charts.theme import LINEAR, NEUTRAL, NONLINEAR, TOTAL, as_part, part_colour
from dmcore.results.agreement import with_agreement
from dmcore.results.synthetic import SPLIT

HEIGHT = 420
PART_NAMES = {"linear": LINEAR, "nonlinear": NONLINEAR}
PLANTED_NAMES = {"acts": "noise on x", "recon": "noise on Sae(x)"}


def truth_table(rows: pl.DataFrame) -> pl.DataFrame:
    """A row a setting and part: `what`, `part` (named), `truth`, `found`, `low`, `high`, `verdict`, `n_tokens`, `chosen`.

    Args:
        rows: with `what` (the setting in words), `truth_<part>`, `<part>` with its ends, and `n_tokens`; `chosen` where some are
            to be ringed.
    """
    if "chosen" not in rows.columns:
        rows = rows.with_columns(chosen=pl.lit(False))
    judged = with_agreement(rows.filter(known("truth_fvu")))
    tables = [
        judged.select(
            "what",
            part=pl.lit(PART_NAMES[part]),
            truth=pl.col(f"truth_{part}"),
            found=pl.col(part),
            low=pl.col(f"{part}_low"),
            high=pl.col(f"{part}_high"),
            verdict=pl.when(pl.col(f"{part}_inside")).then(pl.lit("in the interval")).otherwise(pl.lit("outside")),
            n_tokens="n_tokens",
            chosen="chosen",
        )
        for part in SPLIT
    ]
    return pl.concat(tables).filter(known("found"))


def truth_chart(rows: pl.DataFrame) -> alt.LayerChart:
    """A dot a setting and part, its interval upright; on the dashed line where the estimate is the truth. Hollow: outside.

    Args:
        rows: as of `truth_table`.
    """
    table = with_text(truth_table(rows), "found", "low", "high")
    table = table.with_columns(
        pl.Series("truth_text", [point(v) for v in table["truth"]], dtype=pl.String),
        ring=pl.col("verdict") != "in the interval",
    )
    ends = finite([*table["truth"], *table["found"], *table["low"], *table["high"], 0.0])
    top, bottom = max(ends, default=1.0) * 1.06 or 1.0, min(ends) * 1.06 if min(ends) < 0 else 0.0
    scale = alt.Scale(domain=[bottom, top], nice=False, zero=False)
    x = alt.X("truth:Q", title="truth (share of the variance of x)", scale=scale,
              axis=alt.Axis(format=".0%", tickCount=6, grid=False))  # fmt: skip
    y = alt.Y("found:Q", title="estimate (share of the variance of x)", scale=scale,
              axis=alt.Axis(format=".0%", tickCount=6))  # fmt: skip
    tooltip = [alt.Tooltip("what:N", title="setting"), alt.Tooltip("part:N"), alt.Tooltip("truth_text:N", title="truth"),
               alt.Tooltip("text:N", title="estimate"), alt.Tooltip("verdict:N", title="truth is"),
               alt.Tooltip("n_tokens:Q", title="tokens", format=",d")]  # fmt: skip
    line = alt.Chart(pl.DataFrame({"truth": [max(bottom, 0.0)], "to": [top], "found": [max(bottom, 0.0)], "up": [top]}))
    base = alt.Chart(table)
    dots = base.encode(x=x, y=y, color=part_colour(), tooltip=tooltip)
    layers: list[alt.Chart] = [
        line.mark_rule(color=NEUTRAL, strokeDash=[5, 4], strokeWidth=1.5).encode(
            x=alt.X("truth:Q"), x2=alt.X2("to:Q"), y=alt.Y("found:Q"), y2=alt.Y2("up:Q")
        ),
        base.mark_rule(strokeWidth=2, opacity=0.65).encode(
            x=alt.X("truth:Q"), y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=part_colour()
        ),
        dots.transform_filter("!datum.ring").mark_point(filled=True, size=60, opacity=0.9),
        dots.transform_filter("datum.ring").mark_point(filled=False, size=75, strokeWidth=2, opacity=1),
        *_chosen(table.filter("chosen")),
        *_part_names(table, top),
    ]
    return alt.layer(*layers).properties(height=HEIGHT, autosize=FIT_WIDTH)


def miss_chart(rows: pl.DataFrame) -> alt.LayerChart:
    """How far each estimate is from its truth, with its interval; it is right where that reaches the dashed line.

    Args:
        rows: as of `truth_table`.
    """
    table = with_text(truth_table(rows), "found", "low", "high")
    table = table.with_columns(
        pl.Series("truth_text", [point(v) for v in table["truth"]], dtype=pl.String),
        ring=pl.col("verdict") != "in the interval",
        **{name: 100 * (pl.col(name) - pl.col("truth")) for name in ("found", "low", "high")},
    )
    low, high = linear_ends([0.0, *table["found"], *table["low"], *table["high"]])
    far = max(finite(table["truth"]), default=1.0) or 1.0
    x = alt.X("truth:Q", title="truth (share of the variance of x)", axis=alt.Axis(format=".0%", tickCount=6, grid=False),
              scale=alt.Scale(domain=[-0.03 * far, 1.06 * far], nice=False, zero=False))  # fmt: skip
    y = linear_y("found:Q", "estimate less truth (percentage points)", low, high)
    tooltip = [alt.Tooltip("what:N", title="setting"), alt.Tooltip("part:N"), alt.Tooltip("truth_text:N", title="truth"),
               alt.Tooltip("text:N", title="estimate"), alt.Tooltip("verdict:N", title="truth is")]  # fmt: skip
    zero = alt.Chart(pl.DataFrame({"found": [0.0]})).mark_rule(color=NEUTRAL, strokeDash=[5, 4], strokeWidth=1.5)
    base = alt.Chart(table)
    dots = base.encode(x=x, y=y, color=part_colour(), tooltip=tooltip)
    return alt.layer(
        zero.encode(y=alt.Y("found:Q")),
        base.mark_rule(strokeWidth=2, opacity=0.5).encode(
            x=alt.X("truth:Q"), y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=part_colour()
        ),
        dots.transform_filter("!datum.ring").mark_point(filled=True, size=60, opacity=0.9),
        dots.transform_filter("datum.ring").mark_point(filled=False, size=75, strokeWidth=2, opacity=1),
        *_chosen(table.filter("chosen")),
    ).properties(height=HEIGHT, autosize=FIT_WIDTH)


def _chosen(table: pl.DataFrame) -> list[alt.Chart]:
    """Rings about the points of the chosen setting."""
    if table.is_empty():
        return []
    ring = alt.Chart(table).mark_point(filled=False, size=330, strokeWidth=2, opacity=1, color=NEUTRAL)
    return [ring.encode(x=alt.X("truth:Q"), y=alt.Y("found:Q"))]


def _part_names(table: pl.DataFrame, top: float) -> list[alt.Chart]:
    """The parts named in the corner where nothing is: an estimate is never far above the line."""
    parts = table["part"].unique(maintain_order=True).to_list()
    words = pl.DataFrame(
        {
            "part": parts,
            "truth": [0.02 * top] * len(parts),
            "found": [top * (0.95 - 0.06 * k) for k in range(len(parts))],
        },
        schema={"part": pl.String, "truth": pl.Float64, "found": pl.Float64},
    )
    text = alt.Chart(words).mark_text(align="left", fontSize=13, fontWeight="bold")
    return [text.encode(x=alt.X("truth:Q"), y=alt.Y("found:Q"), text=alt.Text("part:N"), color=part_colour())]


def correlation_table(correlations: pl.DataFrame) -> pl.DataFrame:
    """`planted`, `found` (named), `r`, `low`, `high` of one noise and ablation."""
    return correlations.filter(known("r")).select(
        planted=pl.col("planted").replace_strict(PLANTED_NAMES, default=pl.col("planted")),
        found=pl.col("found").replace_strict(PART_NAMES, default=pl.col("found")),
        r="r", low="r_low", high="r_high",
    )  # fmt: skip


def correlation_chart(correlations: pl.DataFrame) -> alt.LayerChart:
    """The two by two table: which planted noise goes with which part that is found; darker is stronger.

    Args:
        correlations: `PLANTED_TABLES["correlations"]` of one noise and ablation.
    """
    table = correlation_table(correlations)
    words = [number(*row) for row in table.select("r", "low", "high").rows()]
    table = table.with_columns(
        pl.Series("words", [w.split(" (")[0] for w in words], dtype=pl.String),
        pl.Series("ends", [f"({w.split(' (')[1]}" if " (" in w else "" for w in words], dtype=pl.String),
        size=pl.col("r").abs().clip(0, 1),
    )
    x = alt.X("found:N", title=None, sort=list(PART_NAMES.values()),
              axis=alt.Axis(orient="top", labelAngle=0, labelFontSize=13, ticks=False, domain=False))  # fmt: skip
    y = alt.Y("planted:N", title=None, sort=list(PLANTED_NAMES.values()),
              axis=alt.Axis(labelFontSize=13, labelLimit=200, ticks=False, domain=False))  # fmt: skip
    tooltip = [alt.Tooltip("planted:N"), alt.Tooltip("found:N"), alt.Tooltip("words:N", title="r"),
               alt.Tooltip("ends:N", title="95 %")]  # fmt: skip
    base = alt.Chart(table).encode(x=x, y=y)
    return alt.layer(
        base.mark_rect(stroke=NEUTRAL, strokeWidth=1, color=NEUTRAL).encode(
            opacity=alt.Opacity("size:Q", scale=alt.Scale(domain=[0, 1], range=[0.02, 0.25]), legend=None),
            tooltip=tooltip,
        ),
        base.mark_text(fontSize=18, fontWeight="bold", dy=-6).encode(
            text=alt.Text("words:N"), color=part_colour("found")
        ),
        alt.Chart(as_part(table, TOTAL))
        .mark_text(fontSize=11, dy=14)
        .encode(x=x, y=y, text=alt.Text("ends:N"), color=part_colour()),
    ).properties(height=170, autosize=FIT_WIDTH)
