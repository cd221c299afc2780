"""All latents of an SAE: how often each is active, and how strongly. Beyond a few thousand they are counted in cells."""

from __future__ import annotations

import math

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, finite, known, log_ends, log_x, log_y
from dmcore.charts.labels import decade_ticks
from dmcore.charts.part_names import X, colour
from dmcore.charts.theme import NONLINEAR, TOTAL, as_part, part_colour

HEIGHT = 340
MOST = 4000
"""Latents that are drawn as dots."""
CELLS = (64, 40)
"""Along each axis, where there are more."""

_KEPT = ["latent", "latents", "frequency", "mean_active", "left", "right", "low", "high"]


def scatter_table(latents: pl.DataFrame, most: int = MOST) -> pl.DataFrame:
    """What is drawn: latents that are ever active, or the cells in which they are.

    Columns: `latent`, `frequency`, `mean_active`, `latents` (1, or how many a cell has), and of cells their ends `left`,
    `right`, `low`, `high` (null for latents). The latent of a cell is the one nearest to the middle.

    Args:
        latents: the table of an SAE's features.
        most: latents that are not counted in cells.
    """
    rows = latents.filter(known("frequency") & known("mean_active")).filter(
        (pl.col("frequency") > 0) & (pl.col("mean_active") > 0)
    )
    rows = rows.select("latent", pl.col("frequency", "mean_active").cast(pl.Float64))
    if len(rows) <= most:
        none = [pl.lit(None, dtype=pl.Float64).alias(c) for c in _KEPT[4:]]
        return rows.with_columns(*none, latents=pl.lit(1, dtype=pl.UInt32)).select(_KEPT)
    for column, cell, n in (("frequency", "i", CELLS[0]), ("mean_active", "j", CELLS[1])):
        start, step = _steps(rows[column], n)
        at = (pl.col(column).log() - start) / step
        rows = rows.with_columns(at.floor().clip(0, n - 1).alias(cell)).with_columns(
            (start + step * pl.col(cell)).exp().alias(f"{cell}_low"),
            (start + step * (pl.col(cell) + 1)).exp().alias(f"{cell}_high"),
            (at - pl.col(cell) - 0.5).alias(f"{cell}_off"),
        )
    rows = rows.with_columns(off=pl.col("i_off") ** 2 + pl.col("j_off") ** 2).sort("off", "latent")
    cells = rows.group_by("i", "j", maintain_order=True).agg(
        pl.col("latent", "frequency", "mean_active").first(), latents=pl.len(),
        left=pl.col("i_low").first(), right=pl.col("i_high").first(),
        low=pl.col("j_low").first(), high=pl.col("j_high").first(),
    )  # fmt: skip
    return cells.sort("i", "j").select(_KEPT)


def _steps(values: pl.Series, n: int) -> tuple[float, float]:
    """Start and step of `n` equal cells of the logarithm."""
    low, high = math.log(float(values.min())), math.log(float(values.max()))  # type: ignore[arg-type]
    return low, (high - low) / n or 1.0


def scatter_chart(latents: pl.DataFrame, chosen: int | None = None, most: int = MOST, part: str = X) -> alt.LayerChart:
    """A dot a latent, or cells coloured by how many latents are in them; a click picks (`pick`, by `latent`).

    Args:
        chosen: latent that is ringed and named.
        part: in whose colour the dots are; an SAE of a study is one on x.
    """
    table = scatter_table(latents, most)
    binned = table["left"].is_not_null().any()
    ends = [log_ends([*finite(table[c]), *finite(table[a]), *finite(table[b])], 1.12)
            for c, a, b in (("frequency", "left", "right"), ("mean_active", "low", "high"))]  # fmt: skip
    x_title = "share of tokens on which the latent is active (log scale)"
    y_title = "mean activation where active (log scale)"
    x, y = log_x("frequency:Q", x_title, *ends[0]), log_y("mean_active:Q", y_title, *ends[1], grid=False)
    pick = alt.selection_point(name="pick", fields=["latent"], on="click", toggle=False)
    tooltip = [alt.Tooltip("latent:Q", format="d"), alt.Tooltip("frequency:Q", title="active on", format=".3%"),
               alt.Tooltip("mean_active:Q", title="mean activation", format=".3~g")]  # fmt: skip
    if binned:
        cells = alt.Chart(table).mark_rect(cursor="pointer", aria=False)
        count = alt.Tooltip("latents:Q", title="latents in the cell, of which one is named", format=",d")
        place = {"x": log_x("left:Q", x_title, *ends[0]), "x2": alt.X2("right:Q"),
                 "y": log_y("low:Q", y_title, *ends[1], grid=False), "y2": alt.Y2("high:Q")}  # fmt: skip
        drawn = cells.encode(**place, color=_count_colour(table), tooltip=[*tooltip, count])
    else:
        size, opacity = (20, 0.6) if len(table) > 400 else (45, 0.8)
        dots = alt.Chart(as_part(table.select(_KEPT[:4]), part))
        dots = dots.mark_circle(size=size, opacity=opacity, cursor="pointer", aria=False)
        drawn = dots.encode(x=x, y=y, color=colour(), tooltip=tooltip)
    layers = [drawn.add_params(pick), *_ring(latents, chosen, NONLINEAR if binned else TOTAL, ends[0][0])]
    return alt.layer(*layers).resolve_scale(color="independent").properties(height=HEIGHT, autosize=FIT_WIDTH)


def _count_colour(table: pl.DataFrame) -> alt.Color:
    """Colour of a cell: its latents, on a log scale that starts where a lone one can be seen."""
    most = max(int(table["latents"].max() or 1), 2)  # type: ignore[arg-type]
    legend = alt.Legend(title="latents (log scale)", orient="top", direction="horizontal", gradientLength=160,
                        gradientThickness=8, values=decade_ticks(1, most)[:6], format="d", titleLimit=300)  # fmt: skip
    scale = alt.Scale(type="log", domain=[most**-0.35, most], nice=False)
    return alt.Color("latents:Q", scale=scale, legend=legend)


def _ring(latents: pl.DataFrame, chosen: int | None, part: str, left: float) -> list[alt.Chart]:
    """A ring around the chosen latent, and above the plot its numbers; nothing where it is never active."""
    own = scatter_table(latents.filter(pl.col("latent") == (-1 if chosen is None else chosen)))
    if own.is_empty():
        return []
    row = own.row(0, named=True)
    text = f"ringed: latent {row['latent']}: active on {100 * row['frequency']:.2g} % of tokens, mean {row['mean_active']:.3g}"
    own = as_part(own.select(_KEPT[:4]).with_columns(text=pl.lit(text), left=pl.lit(left)), part)
    base = alt.Chart(own).encode(x=alt.X("frequency:Q"), y=alt.Y("mean_active:Q"), color=part_colour())
    return [
        base.mark_point(filled=False, size=170, strokeWidth=2.5, opacity=1, aria=False),
        base.mark_text(align="left", fontWeight="bold", fontSize=12).encode(
            x=alt.X("left:Q"), y=alt.value(-10), text=alt.Text("text:N")
        ),
    ]
