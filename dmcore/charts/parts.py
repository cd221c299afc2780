"""SAEs trained on x and on the parts of an SAE's error: what they leave unexplained, and how it fell in training."""

from __future__ import annotations

import json

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, at_ticks, finite, known, log_ends, log_x, log_y, with_text
from dmcore.charts.labels import spread
from dmcore.charts.numbers import number, point
from dmcore.charts.panels import Panel, Panels
from dmcore.charts.part_names import NAMES, colour, in_order, with_names
from dmcore.charts.theme import NEUTRAL

ROW = 64
"""Height of a part, in pixels."""
HEIGHT = 340

FVU, DEAD = "FVU", "dead share"
"""The panels, `measure` in the table."""

_TITLES = {FVU: "FVU (share of the part's variance that is left)", DEAD: "dead latents (share)"}
_ROWS_APART = 0.62
"""Share of a row over which the seeds of a part are spread."""


def parts_table(saes: pl.DataFrame, means: pl.DataFrame) -> pl.DataFrame:
    """A row a number: `part` (named), `seed` (null for the mean over seeds), `measure`, `value`, `low`, `high`.

    Args:
        saes, means: the tables of these names, of one base.
    """
    kept = ["part", "seed", "measure", "value", "low", "high"]
    none = pl.lit(None, dtype=pl.Float64)
    fvu = saes.select("part", "seed", measure=pl.lit(FVU), value="fvu", low="fvu_low", high="fvu_high")
    dead = saes.select("part", "seed", measure=pl.lit(DEAD), value="dead_share", low=none, high=none)
    mean = means.select(
        "part", seed=pl.lit(None, dtype=pl.Int64), measure=pl.lit(FVU), value="fvu", low="fvu_low", high="fvu_high"
    )
    order = in_order(saes)
    table = with_names(pl.concat([mean, fvu, dead]).filter(known("value"))).select(kept)
    place = pl.col("part").replace_strict({p: k for k, p in enumerate(order)}, default=len(order))
    return table.sort(place, pl.col("measure").replace_strict({FVU: 0, DEAD: 1}), "seed", nulls_last=False)


def parts_chart(saes: pl.DataFrame, means: pl.DataFrame, differences: pl.DataFrame) -> alt.LayerChart:
    """A row a part: the mean over seeds as a bar, a dot with interval for each seed, and beside them the dead share.

    Args:
        differences: the table of that name; said when the bar of a part is pointed at.
    """
    table, order = parts_table(saes, means), in_order(saes)
    most = max(finite([*table["value"], *table["high"]]), default=1.0)
    top = max(1.0, most + 0.12)  # room for the number beside the longest bar
    panels = Panels([Panel(FVU, 0.0, top), Panel(DEAD, 0.0, 1.0, percent=True, size=0.5)], gap=0.12, room=1e-4)
    heights = _heights(saes, order)
    drawn = panels.place(with_text(table, "value", "low", "high"), "measure", x="value", x_low="low", x_high="high")
    drawn = drawn.join(heights, on=["part", "seed"], how="left", nulls_equal=True)
    mean, dots = drawn.filter(pl.col("seed").is_null()), drawn.filter(pl.col("seed").is_not_null())
    mean = mean.with_columns(
        left=pl.lit(0.0), top=pl.col("row") - 0.36, bottom=pl.col("row") + 0.36,
        against=pl.Series([_against(differences, part) for part in mean["part"]], dtype=pl.String),
        words=pl.Series([point(*v) for v in mean.select("value", "low", "high").rows()], dtype=pl.String),
    )  # fmt: skip
    furthest = dots.filter(pl.col("measure") == FVU).group_by("part").agg(beside=pl.max_horizontal("x", "x_high").max())
    mean = mean.join(furthest, on="part", how="left").with_columns(beside=pl.max_horizontal("beside", "x", "x_high"))
    x, y = alt.X("x:Q", **panels.axis(None, grid=False)), _rows_axis("at:Q", order)
    of_bar = [alt.Tooltip("part:N"), alt.Tooltip("text:N", title="mean FVU over seeds"),
              alt.Tooltip("against:N", title="paired differences")]  # fmt: skip
    of_dot = [alt.Tooltip("part:N"), alt.Tooltip("seed:Q"), alt.Tooltip("measure:N"),
              alt.Tooltip("text:N", title="value")]  # fmt: skip
    return alt.layer(
        alt.Chart(mean).mark_rect(opacity=0.28).encode(
            x=alt.X("left:Q"), x2=alt.X2("x:Q"), y=alt.Y("top:Q"), y2=alt.Y2("bottom:Q"), color=colour(),
            tooltip=of_bar,
        ),
        alt.Chart(dots.filter(known("x_low") & known("x_high"))).mark_rule(strokeWidth=2).encode(
            x=alt.X("x_low:Q"), x2=alt.X2("x_high:Q"), y=y, color=colour()
        ),
        alt.Chart(dots).mark_point(filled=True, size=55, opacity=1).encode(x=x, y=y, color=colour(), tooltip=of_dot),
        alt.Chart(mean).mark_text(align="left", dx=10, fontWeight="bold", fontSize=13).encode(
            x=alt.X("beside:Q"), y=alt.Y("at:Q"), text=alt.Text("words:N"), color=colour()
        ),
        heads(panels, _TITLES),
    ).properties(height=ROW * len(order), autosize=FIT_WIDTH)  # fmt: skip


def heads(panels: Panels, titles: dict[str, str], above: float = 11) -> alt.Chart:
    """What each panel shows, above it."""
    spans = panels.spans().with_columns(text=pl.col("name").replace_strict(titles))
    words = alt.Chart(spans).mark_text(align="left", color=NEUTRAL, fontSize=12)
    return words.encode(x=alt.X("start:Q"), y=alt.value(-above), text=alt.Text("text:N"))


def _heights(saes: pl.DataFrame, order: list[str]) -> pl.DataFrame:
    """`part`, `seed` (null for the mean), `row`, `at`: where each seed is in the row of its part."""
    rows = []
    named = with_names(saes)
    for k, part in enumerate(order):
        seeds = sorted(set(named.filter(pl.col("part") == part)["seed"].to_list()))
        rows.append((part, None, float(k), float(k)))
        for rank, seed in enumerate(seeds):
            rows.append((part, seed, float(k), k + _ROWS_APART * ((rank + 0.5) / len(seeds) - 0.5)))
    return pl.DataFrame(rows, schema={"part": pl.String, "seed": pl.Int64, "row": pl.Float64, "at": pl.Float64},
                        orient="row")  # fmt: skip


def _rows_axis(field: str, order: list[str]) -> alt.Y:
    """An axis whose whole numbers are rows, the first on top, each with its name."""
    scale = alt.Scale(domain=[len(order) - 0.5, -0.5], nice=False, zero=False)
    axis = alt.Axis(**at_ticks(list(range(len(order)))), labelExpr=f"{json.dumps(order)}[datum.value]", grid=False,
                    ticks=False, domain=False, labelLimit=240, labelFontSize=13, labelPadding=8)  # fmt: skip
    return alt.Y(field, title=None, scale=scale, axis=axis)


def _against(differences: pl.DataFrame, part: str) -> str:
    """`less that of x: 0.31 (0.29 to 0.33); …` from both directions in which a difference may be given."""
    words = []
    for row in differences.filter(known("difference")).to_dicts():
        one, other = NAMES.get(row["part"], row["part"]), NAMES.get(row["other"], row["other"])
        ends = (row["difference"], row["difference_low"], row["difference_high"])
        if one == part:
            words.append(f"{number(*ends)} above {other}")
        elif other == part:
            turned = tuple(None if v is None else -v for v in (ends[0], ends[2], ends[1]))
            words.append(f"{number(*turned)} above {one}")
    return "; ".join(words) or "none"


def training_table(curves: pl.DataFrame) -> pl.DataFrame:
    """The curves: `part` (named), `seed`, `tokens`, `fvu`, in the order of training.

    Args:
        curves: the table of that name, of one base.
    """
    rows = curves.filter(known("fvu") & (pl.col("fvu") > 0) & (pl.col("tokens") > 0))
    return with_names(rows).select("part", "seed", "tokens", "fvu", "l0", "dead_share").sort("part", "seed", "tokens")


def training_chart(curves: pl.DataFrame) -> alt.LayerChart:
    """Held-out FVU over training tokens, both axes logarithmic: a thin line a seed, parts named at the ends."""
    table = training_table(curves)
    low, high = log_ends(table["fvu"], 1.08)
    left, last = log_ends(table["tokens"], 1.1)
    x = log_x("tokens:Q", "training tokens (log scale)", left, last * (last / left) ** 0.2, last)
    x = x.axis(alt.Axis(**at_ticks(x.to_dict()["axis"]["values"]), format="~s", grid=False, labelFlush=False))
    y = log_y("fvu:Q", "FVU on held-out texts (share of the part's variance, log scale)", low, high)
    tooltip = [alt.Tooltip("part:N"), alt.Tooltip("seed:Q"), alt.Tooltip("tokens:Q", format=",d"),
               alt.Tooltip("fvu:Q", title="FVU", format=".4f"), alt.Tooltip("l0:Q", title="L0", format=".1f"),
               alt.Tooltip("dead_share:Q", title="dead latents", format=".1%")]  # fmt: skip
    ends = table.group_by("part", "seed").agg(pl.col("tokens").last(), pl.col("fvu").last())
    ends = ends.group_by("part").agg(pl.col("tokens").max(), pl.col("fvu").mean().log()).sort("fvu")
    gap = pl.Series([high / low]).log()[0] * 17 / HEIGHT
    ends = ends.with_columns(fvu=pl.Series(spread(ends["fvu"].to_list(), gap), dtype=pl.Float64).exp())
    line = alt.Chart(table).encode(x=x, y=y, color=colour())
    return alt.layer(
        line.mark_line(strokeWidth=1.4, clip=True).encode(detail=[alt.Detail("part:N"), alt.Detail("seed:N")]),
        line.mark_point(filled=True, size=22, opacity=1).encode(tooltip=tooltip),
        alt.Chart(ends).mark_text(align="left", dx=9, fontWeight="bold", fontSize=12).encode(
            x=alt.X("tokens:Q"), y=alt.Y("fvu:Q"), text=alt.Text("part:N"), color=colour()
        ),
    ).properties(height=HEIGHT, autosize=FIT_WIDTH)  # fmt: skip
