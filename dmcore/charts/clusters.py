"""Do the tokens with the largest error fall in clusters, beyond what their covariance gives? And how large are those?"""

from __future__ import annotations

import json

import altair as alt
import polars as pl

from dmcore.charts.axes import FIT_WIDTH, at_ticks, clipped, finite, known, linear_ends
from dmcore.charts.panels import Panel, Panels
from dmcore.charts.part_names import NAMES, colour, in_order, with_names
from dmcore.charts.theme import NEUTRAL, as_part, part_colour
from dmcore.charts.token_text import visible

HEIGHT = 280
ROW = 34
"""Height of a cluster, in pixels."""
WORDS = 4
"""Tokens that name a cluster."""


def silhouettes_table(silhouettes: pl.DataFrame) -> pl.DataFrame:
    """A row a part and k: `part` (named), `k`, `silhouette`, `null_mean`, `null_low`, `null_high`, `null_most`, `chosen`.

    The band of the null is its mean, two standard deviations of a draw either side.
    """
    rows = with_names(silhouettes.filter(known("silhouette")))
    rows = rows.with_columns(null_low=pl.col("null_mean") - 2 * pl.col("null_sd"),
                             null_high=pl.col("null_mean") + 2 * pl.col("null_sd"))  # fmt: skip
    columns = ["part", "k", "silhouette", "null_mean", "null_low", "null_high", "null_most", "chosen"]
    return rows.select(columns).sort("part", "k")


def silhouettes_chart(silhouettes: pl.DataFrame) -> alt.LayerChart:
    """A panel a part: mean silhouette over the number of clusters, the band of vectors without clusters, the chosen k."""
    table, order = silhouettes_table(silhouettes), in_order(silhouettes)
    low, high = linear_ends([*table["silhouette"], *table["null_low"], *table["null_high"], 0.0])
    first, last = int(table["k"].min() or 2), int(table["k"].max() or 3)  # type: ignore[arg-type]
    ks = tuple(float(k) for k in sorted(set(table["k"])))
    panels = Panels([Panel(p, first - 0.4, last + 0.4, ticks=ks) for p in order], gap=0.12, room=1e-4)
    drawn = panels.place(clipped(table, low, high, "null_low", "null_high"), "part", x="k")
    x = alt.X("x:Q", **panels.axis("number of clusters k", grid=False))
    y = alt.Y("silhouette:Q", title="mean silhouette (cosine)", axis=alt.Axis(tickCount=5),
              scale=alt.Scale(domain=[low, high], nice=False, zero=False))  # fmt: skip
    tooltip = [alt.Tooltip("part:N"), alt.Tooltip("k:Q"), alt.Tooltip("silhouette:Q", format=".3f"),
               alt.Tooltip("null_mean:Q", title="without clusters", format=".3f"),
               alt.Tooltip("null_low:Q", title="its 2 SD band from", format=".3f"),
               alt.Tooltip("null_high:Q", title="to", format=".3f"),
               alt.Tooltip("null_most:Q", title="its largest draw", format=".3f")]  # fmt: skip
    base, band = alt.Chart(drawn), alt.Chart(drawn.filter(known("null_low") & known("null_high")))
    band, each = band.encode(x=alt.X("x:Q")), [alt.Detail("part:N")]
    dots = base.encode(x=x, y=y, color=colour())
    return alt.layer(
        band.mark_area(color=NEUTRAL, opacity=0.25).encode(
            y=alt.Y("null_low:Q"), y2=alt.Y2("null_high:Q"), detail=each
        ),
        band.mark_line(color=NEUTRAL, strokeDash=[5, 4]).encode(y=alt.Y("null_mean:Q"), detail=each),
        dots.mark_line(strokeWidth=2).encode(detail=each),
        dots.mark_point(filled=True, size=50, opacity=1).encode(tooltip=tooltip),
        *_chosen(drawn),
        *_heads(panels, drawn),
    ).properties(height=HEIGHT, autosize=FIT_WIDTH)


def _chosen(drawn: pl.DataFrame) -> list[alt.Chart]:
    """A ring around the chosen k, named."""
    rows = drawn.filter(pl.col("chosen").fill_null(False)).with_columns(text=pl.format("k = {}", "k"))
    if rows.is_empty():
        return []
    base = alt.Chart(rows).encode(x=alt.X("x:Q"), y=alt.Y("silhouette:Q"), color=colour())
    return [
        base.mark_point(filled=False, size=190, strokeWidth=2, opacity=1, aria=False),
        base.mark_text(dy=-18, fontWeight="bold", fontSize=12).encode(text=alt.Text("text:N")),
    ]


def _heads(panels: Panels, drawn: pl.DataFrame) -> list[alt.Chart]:
    """The parts by name above their panels, and whether they have clusters; what the band is."""
    chosen = set(drawn.filter(pl.col("chosen").fill_null(False))["part"])
    spans = panels.spans().select(part="name", x="start")
    spans = spans.with_columns(
        text=pl.Series([p if p in chosen else f"{p}: no number stands out" for p in spans["part"]], dtype=pl.String)
    )
    note = spans.head(1).with_columns(text=pl.lit("grey: the same covariance, without clusters (± 2 SD of a draw)"))
    words = alt.Chart(spans).mark_text(align="left", fontWeight="bold", fontSize=13)
    return [
        words.encode(x=alt.X("x:Q"), y=alt.value(-12), text=alt.Text("text:N"), color=colour()),
        alt.Chart(note).mark_text(align="left", color=NEUTRAL, fontSize=12).encode(
            x=alt.X("x:Q"), y=alt.value(-34), text=alt.Text("text:N")
        ),
    ]  # fmt: skip


def clusters_table(
    clusters: pl.DataFrame, cluster_tokens: pl.DataFrame, vocabulary: pl.DataFrame, part: str
) -> pl.DataFrame:
    """A row a cluster of a part, the largest first: the columns of `clusters`, `share` of tokens, `words` (made visible).

    Args:
        clusters, cluster_tokens, vocabulary: the tables of these names of a structure.
        part: as in the tables.
    """
    rows = clusters.filter(pl.col("part") == part).sort("n_tokens", "cluster", descending=[True, False])
    texts = dict(vocabulary.select("token", "text").rows())
    own = cluster_tokens.filter(pl.col("part") == part).sort("cluster", "rank")
    words: dict[int, list[str]] = {}
    for cluster, token in own.select("cluster", "token").rows():
        if len(words.setdefault(cluster, [])) < WORDS:
            words[cluster].append(visible(texts.get(token) or "", 14) or f"#{token}")
    named = pl.Series([" ".join(words.get(c, [])) for c in rows["cluster"]], dtype=pl.String)
    return rows.with_columns(share=pl.col("n_tokens") / pl.col("n_tokens").sum(), words=named)


def clusters_chart(
    clusters: pl.DataFrame, cluster_tokens: pl.DataFrame, vocabulary: pl.DataFrame, part: str
) -> alt.LayerChart:
    """A bar a cluster, the largest on top, its commonest tokens at the left; a click picks (`pick`, by `cluster`)."""
    table = clusters_table(clusters, cluster_tokens, vocabulary, part)
    drawn = as_part(table, NAMES.get(part, part)).with_columns(
        row=pl.int_range(pl.len()), zero=pl.lit(0.0),
        text=pl.Series([f"{n:,} ({_share(s)})" for n, s in table.select("n_tokens", "share").rows()], dtype=pl.String),
    ).with_columns(top=pl.col("row") - 0.4, bottom=pl.col("row") + 0.4)  # fmt: skip
    labels = [f"{c}: {words}" for c, words in table.select("cluster", "words").rows()]
    axis = alt.Axis(**at_ticks(list(range(len(labels)))), labelExpr=f"{json.dumps(labels)}[datum.value]", grid=False,
                    ticks=False, domain=False, labelLimit=330, labelFontSize=12, labelPadding=8, title=None)  # fmt: skip
    y = alt.Y("top:Q", axis=axis, scale=alt.Scale(domain=[len(labels) - 0.5, -0.5], nice=False, zero=False))
    most = max(finite(table["n_tokens"]), default=1.0)
    x = alt.X("zero:Q", title="tokens of the cluster", scale=alt.Scale(domain=[0, most * 1.22], nice=False),
              axis=alt.Axis(format=",d", tickCount=5, tickMinStep=1))  # fmt: skip
    tooltip = [alt.Tooltip("cluster:Q"), alt.Tooltip("text:N", title="tokens"), alt.Tooltip("words:N", title="commonest"),
               alt.Tooltip("n_contexts:Q", title="from contexts", format=",d"),
               alt.Tooltip("mean_position:Q", title="mean position", format=".0f"),
               alt.Tooltip("decoder_latent:Q", title="nearest latent", format="d"),
               alt.Tooltip("decoder_cosine:Q", title="its cosine with the centre", format=".2f")]  # fmt: skip
    pick = alt.selection_point(name="pick", fields=["cluster"], on="click", toggle=False)
    base = alt.Chart(drawn).encode(color=part_colour())
    head = alt.Chart(pl.DataFrame({"x": [0.0], "text": ["cluster and its commonest tokens"]}))
    return alt.layer(
        base.mark_rect(opacity=0.85, cursor="pointer").encode(
            x=x, x2=alt.X2("n_tokens:Q"), y=y, y2=alt.Y2("bottom:Q"), tooltip=tooltip
        ).add_params(pick),
        base.mark_text(align="left", dx=7, fontWeight="bold", fontSize=12).encode(
            x=alt.X("n_tokens:Q"), y=alt.Y("row:Q"), text=alt.Text("text:N")
        ),
        head.mark_text(align="right", dx=-8, color=NEUTRAL, fontSize=12).encode(
            x=alt.X("x:Q"), y=alt.value(-10), text=alt.Text("text:N")
        ),
    ).properties(height=ROW * len(labels), autosize=FIT_WIDTH)  # fmt: skip


def _share(share: float) -> str:
    return "< 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
