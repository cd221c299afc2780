"""Clusters of the tokens with the largest error: how many there are, beyond what chance gives, and what is in each."""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from dmcore.charts.example_windows import EXAMPLE_TOKENS, windows_chart, windows_table
from dmcore.charts.part_names import NAMES
from dmcore.charts.token_text import visible
from dmcore.figures.structure import clusters_figure, silhouettes_figure
from dmcore.results import Structure
from dmcore.results.structure import CLUSTERED_PARTS
from dmcore.ui.figure import Figure, Pick, draw
from dmcore.ui.selection import option, own_value, set_option
from dmcore.ui.table import show_table
from dmcore.words.structure import clusters_sentence


def draw_clusters(structure: Structure, key: tuple[str, ...]) -> None:
    """Draw how many clusters each part has, and those of one part."""
    if len(structure["silhouettes"]):
        draw(
            silhouettes_figure(structure, key),
            level=0,
        )
    for part in CLUSTERED_PARTS:
        if sentence := clusters_sentence(structure, part):
            st.markdown(sentence)
    there = [part for part in CLUSTERED_PARTS if structure.chosen_k(part) is not None]
    if there:
        names = [NAMES[part] for part in there]
        part = option("clusters", "Clusters of", there, names, there[-1], kind=st.segmented_control)
        draw_contents(structure, part, key)


def draw_contents(structure: Structure, part: str, key: tuple[str, ...]) -> None:
    """The clusters of a part, and the chosen one: its tokens, their kinds, examples."""
    clusters = structure["clusters"].filter(pl.col("part") == part).sort("n_tokens", descending=True)
    numbers = [str(k) for k in clusters["cluster"]]
    cluster = int(own_value("cluster", numbers, numbers[0]))

    def pick(value: Any) -> None:
        if str(value) in numbers:
            set_option("cluster", str(value))

    draw(clusters_figure(structure, key, part), level=4, pick=Pick("pick", "cluster", pick))
    st.markdown(f"#### Cluster {cluster}")
    st.markdown(cluster_sentence(structure, part, cluster))
    left, right = st.columns(2, gap="large")
    shown = {"share": st.column_config.NumberColumn("Of the cluster", format="%.1f %%"),
             "lift": st.column_config.NumberColumn("Lift", format="%.1f"),
             "count": st.column_config.NumberColumn("Tokens", format="%d")}  # fmt: skip
    with left:
        show_table(token_rows(structure, part, cluster), hide_index=True, column_config=shown, height="content")
    with right:
        show_table(kind_rows(structure, part, cluster), hide_index=True, column_config=shown, height="content")
    st.caption("Lift: share of the cluster over share of all tokens that were clustered.")
    examples = cluster_examples(structure, part, cluster)
    draw(
        Figure(
            name="structure_examples",
            key=(*key, part, str(cluster)),
            question="Where are they?",
            caption="The tokens nearest to the centre of the cluster, at most 2 of one context, framed, with the text before "
            f"and after. At the right: cosine of the {NAMES[part]} at that token with the centre.",
            chart=lambda: windows_chart(examples, title="cosine with the centre", largest=1.0, first="nearest"),
            data=lambda: windows_table(examples, first="nearest"),
        ),
        level=4,
    )


def cluster_sentence(structure: Structure, part: str, cluster: int) -> str:
    """The size of a cluster and the latent that is nearest to its centre."""
    row = structure["clusters"].filter((pl.col("part") == part) & (pl.col("cluster") == cluster)).row(0, named=True)
    where = f"{row['n_tokens']:,} tokens in {row['n_contexts']:,} contexts, at position {row['mean_position']:.0f} on average."
    if row["decoder_cosine"] is None:
        return where
    return (
        f"{where} The decoder row nearest to its centre is that of latent {row['decoder_latent']:,} (cosine "
        f"{row['decoder_cosine']:.2f})."
    )


def token_rows(structure: Structure, part: str, cluster: int) -> pl.DataFrame:
    """The commonest tokens of a cluster, as the page shows them."""
    rows = _of(structure["cluster_tokens"], part, cluster).sort("rank")
    texts = [visible(structure.texts.get(i) or f"#{i}") for i in rows["token"]]
    return rows.select(pl.Series("Token", texts, dtype=pl.String), "count", pl.col("share") * 100, "lift")


def kind_rows(structure: Structure, part: str, cluster: int) -> pl.DataFrame:
    """The kinds of a cluster's tokens, the commonest first."""
    rows = _of(structure["cluster_kinds"], part, cluster).sort("count", descending=True)
    return rows.select(pl.col("kind").alias("Kind"), "count", pl.col("share") * 100, "lift")


def cluster_examples(structure: Structure, part: str, cluster: int) -> pl.DataFrame:
    """The tokens of the examples of a cluster, as `EXAMPLE_TOKENS`; only the token of each example has a value, its cosine."""
    rows = []
    for number, one in enumerate(_of(structure["examples"], part, cluster).sort("rank").to_dicts()):
        before, after = list(one["before"] or []), list(one["after"] or [])
        for place, token in enumerate([*before, one["token"], *after]):
            own = place == len(before)
            position = one["position"] + place - len(before)
            text = structure.texts.get(token) or f"#{token}"
            rows.append((number, None, one["context"], position, text, one["cosine"] if own else None, own))
    return pl.DataFrame(rows, schema=EXAMPLE_TOKENS, orient="row")


def _of(table: pl.DataFrame, part: str, cluster: int) -> pl.DataFrame:
    return table.filter((pl.col("part") == part) & (pl.col("cluster") == cluster))
