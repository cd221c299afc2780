"""The view *Features* of the page Nonlinear error: a table of latents that can be searched, and a card for the chosen one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import streamlit as st

from dmcore.charts.example_windows import example_tokens, windows_chart, windows_table
from dmcore.charts.histogram import histogram_chart, histogram_table
from dmcore.charts.numbers import number
from dmcore.charts.part_names import NAMES
from dmcore.charts.token_text import visible
from dmcore.figures.features import scatter_figure
from dmcore.results import Detection, Features
from dmcore.results.scaling import PARTS
from dmcore.ui.detection_panel import draw_explanations
from dmcore.ui.figure import Figure, Pick, draw
from dmcore.ui.selection import option, own_value, set_option
from dmcore.ui.table import show_table
from dmcore.words.features import shown_rows

SORTS = {
    "frequency": "Frequency",
    "max_active": "Largest activation",
    "nonlinear_share": "Mass on high nonlinear error",
    "nonlinear_r": "Correlation with nonlinear norm",
    "error_r": "Correlation with error norm",
    "widest_cosine": "Nearest in the widest SAE",
    "latent": "Number",
}
ROWS = 500
"""Most rows of the table on the page; the search narrows them down."""
_TABLE, _FIND = "features.table", "features.find"


def draw_features(features: Features, key: tuple[str, ...], told: Sequence[Detection] = (), part: str = "x") -> None:
    """Draw the view; `key` names the entry, `told` are the SAE's detection scores, `part` is what it was trained on."""
    left, right = st.columns([2, 1], vertical_alignment="bottom")
    with left:
        text = st.text_input(
            "Search",
            key=_FIND,
            placeholder="a token that a latent fires on or promotes",
            max_chars=64,
            icon=":material/search:",
        )
    with right:
        sort = option("sort", "Order", list(SORTS), list(SORTS.values()), "frequency", kind=st.selectbox)
    table = rows_of(features, text, sort)
    if not len(table):
        said = "No latent fires mostly on, or promotes, a token with that text."
        if not features.about["n_alive"]:
            said = "No latent of this SAE fires on the study's tokens, so there is none to show."
        st.info(said, icon=":material/search_off:")
        return
    latent = chosen_latent(features, table)
    draw_table(features, table, latent)
    draw_all(features, latent, key, part)
    draw_card(features, latent, key, told, part)


def rows_of(features: Features, text: str, sort: str) -> pl.DataFrame:
    """The latents that a search and an order give, at most `ROWS`; those that never fire are left out."""
    rows = features.search(text) if text.strip() else features.latents
    rows = rows.filter(pl.col("n_active") > 0).sort(sort, descending=sort != "latent", nulls_last=True)
    return rows.head(ROWS).collect()


def chosen_latent(features: Features, table: pl.DataFrame) -> int:
    """The latent of the link if it exists, else the first of the table."""
    numbers = [str(k) for k in range(int(features.about["d_sae"]))]
    return int(own_value("latent", numbers, str(table["latent"][0])))


def draw_table(features: Features, table: pl.DataFrame, latent: int) -> None:
    """The table; a click chooses a latent."""
    numbers = table["latent"].to_list()
    shown = [numbers.index(latent)] if latent in numbers else []
    state = st.session_state.get(_TABLE)
    if (list(state["selection"]["rows"]) if state else None) != shown:
        st.session_state[_TABLE] = {"selection": {"rows": shown, "columns": [], "cells": []}}

    def pick() -> None:
        picked = st.session_state[_TABLE].selection.rows
        if picked and picked[0] < len(numbers):
            set_option("latent", str(numbers[picked[0]]))

    column = st.column_config.NumberColumn
    show_table(
        shown_rows(features, table),
        key=_TABLE,
        on_select=pick,
        selection_mode="single-row",
        hide_index=True,
        height=320,
        column_config={
            "latent": column("Latent", format="%d", width="small"),
            "frequency": column("Tokens", format="%.3f %%", help="Share of tokens on which it is active."),
            "mean_active": column("Mean", format="%.2f", help="Activation where it is active."),
            "max_active": column("Largest", format="%.2f"),
            "nonlinear_share": column(
                "On high error", format="%.0f %%", help="Share of its activation on the tenth of tokens with the largest "
                "nonlinear error; 10 % by chance."
            ),
            "nonlinear_r": column("Correlation", format="%.2f", help="With the norm of the nonlinear error, over all tokens."),
            "token": st.column_config.TextColumn("Fires on", width="small"),
            "promotes": st.column_config.TextColumn("Promotes", width="medium"),
            "base_cosine": column("In base", format="%.2f", help="Largest cosine with a decoder row of the base SAE."),
            "widest_cosine": column("In widest", format="%.2f", help="Largest cosine with one of the site's widest SAE."),
        },
    )  # fmt: skip
    more = f"the first {ROWS:,} " if len(table) == ROWS else ""
    st.caption(
        f"Showing {more}of {features.about['n_alive']:,} latents that fire on the study's tokens "
        f"({features.about['d_sae']:,} in all). Click on a row to see its card."
    )


def draw_all(features: Features, latent: int, key: tuple[str, ...], part: str = "x") -> None:
    """Every latent at once, where somebody asks to see it."""
    place = st.expander("All latents at once", key="features.all", type="compact", on_change="rerun")
    if not place.open:
        return
    with place:
        draw(
            scatter_figure(features, key, part, latent),
            level=4,
            pick=Pick("pick", "latent", lambda value: set_option("latent", str(int(value)))),
        )


def draw_card(
    features: Features, latent: int, key: tuple[str, ...], told: Sequence[Detection] = (), part: str = "x"
) -> None:
    """What is known of one latent."""
    row = features.latent(latent)
    st.subheader(f"Latent {latent:,}", anchor=False)
    if not row["n_active"]:
        st.info("This latent never fires on the study's tokens.", icon=":material/bedtime:")
        return
    st.markdown(card_sentence(features, row))
    if (page := features.public_page(latent)) is not None:
        st.link_button("Its page on Neuronpedia", page, icon=":material/open_in_new:")
    draw_explanations(told, latent)
    examples, histogram = features.examples(latent), features.histogram(latent)
    tokens = example_tokens(examples, features.texts)
    draw(
        Figure(
            name="feature_examples",
            key=(*key, str(latent)),
            question="What does it fire on?",
            caption="Its largest activations (at most 2 of one context), then examples of each lower tenth of its "
            "activations, the highest first. Framed: the token of the example, its activation at the right.",
            chart=lambda: windows_chart(tokens, largest=row["max_active"]),
            data=lambda: windows_table(tokens),
        ),
        level=4,
    )
    left, right = st.columns(2, gap="large")
    with left:
        draw(
            Figure(
                name="feature_histogram",
                key=(*key, str(latent)),
                question="How strongly?",
                caption=f"Activations of the {row['n_active']:,} tokens on which it is active, in 20 equal bins. "
                "Ticks at the top: a tenth of them lies between two.",
                chart=lambda: histogram_chart(histogram.edges.tolist(), histogram.counts.tolist(), NAMES[part]),
                data=lambda: histogram_table(histogram.edges.tolist(), histogram.counts.tolist()),
            ),
            level=4,
        )
    with right:
        draw_logits(features, row)
    draw_with_parts(row)


def card_sentence(features: Features, row: dict[str, Any]) -> str:
    """The latent in words."""
    token = visible(features.texts.get(row["token"], f"#{row['token']}")) if row["token"] is not None else ""
    fires = f"It fires on {100 * row['frequency']:.3g} % of the tokens"
    share = row["nonlinear_share"]
    error = (
        ""
        if share is None
        else f" {100 * share:.0f} % of its activation is on the tenth of tokens with the largest nonlinear error."
    )
    known = [
        f"{number(row[f'{name}_cosine'])} in {words} (latent {row[name]:,})"
        for name, words in (("base", "the base SAE"), ("widest", "the site's widest SAE"))
        if row[f"{name}_cosine"] is not None
    ]
    near = f" Nearest decoder row by cosine: {', '.join(known)}." if known else ""
    # The token is code, in which Markdown is inert; a backtick would end it.
    code = token.replace(chr(96), chr(39))
    most = f", most often on `{code}` ({100 * row['token_share']:.0f} % of them)." if token else "."
    return fires + most + error + near


def parts_of_latent(row: dict[str, Any]) -> pl.DataFrame:
    """Its share on high tokens and its correlation with the norm, for each part of the error that has them."""
    rows = [(NAMES[part], row[f"{part}_share"], row[f"{part}_r"]) for part in PARTS if row[f"{part}_share"] is not None]
    schema = {"part": pl.String, "share": pl.Float64, "r": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col("share") * 100)


def draw_with_parts(row: dict[str, Any]) -> None:
    """Whether it is active where the error, or a part of it, is large."""
    table = parts_of_latent(row)
    if not len(table):
        return
    st.markdown("#### Does it fire where the error is large?")
    column = st.column_config.NumberColumn
    show_table(
        table,
        hide_index=True,
        column_config={
            "part": "Part",
            "share": column("On high error", format="%.1f %%"),
            "r": column("Correlation", format="%.3f"),
        },
    )
    st.caption(
        "On high error: share of its activation on the tenth of tokens where the norm of that part is largest; 10 % by "
        "chance. Correlation: of its activation, 0 where it is silent, with that norm over all tokens that count."
    )


def draw_logits(features: Features, row: dict[str, Any]) -> None:
    """The tokens whose logits it raises and lowers."""
    st.markdown("#### Which tokens does it promote?")
    if not row["promoted"]:
        st.info(
            "This site does not write to the residual stream, or the model predicts no next token from it.",
            icon=":material/inbox:",
        )
        return
    texts = features.texts
    table = pl.DataFrame(
        {
            "raises": [visible(texts.get(i, f"#{i}")) for i in row["promoted"]],
            "by": row["promoted_logit"],
            "lowers": [visible(texts.get(i, f"#{i}")) for i in row["suppressed"]],
            "by ": row["suppressed_logit"],
        }
    )
    show_table(table, hide_index=True, height=300)
    st.caption(
        "Direct effect of one unit of its activation on the logits, about their mean, through the unembedding; the final norm's "
        "division is left out."
    )
