"""The view *Tokens* of the page Downstream: where in a text the loss goes, and what adding each part back gives."""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from dmcore.charts.token_strip import token_strip_chart, token_strip_table
from dmcore.charts.token_text import visible
from dmcore.results import Downstream
from dmcore.ui.figure import Figure, Pick, draw
from dmcore.ui.selection import Selection, option, own_value, set_option
from dmcore.ui.table import show_table

WORST = 40
"""Tokens of the list."""
REACH = 14
"""Tokens on either side of one of the list."""
SPLICED = {"sae": "Sae(x)", "sae_linear": "Sae(x) + linear error", "sae_nonlinear": "Sae(x) + nonlinear error",
           "sae_random": "Sae(x) + random vector"}  # fmt: skip
"""What the site may hold, of which single tokens are kept."""
_TABLE = "downstream.worst"


def draw_tokens(selection: Selection, found: Downstream) -> None:
    """Draw the view."""
    tokens = found["tokens"]
    if tokens.is_empty():
        st.info("No single tokens were kept: make this result again on more contexts.", icon=":material/inbox:")
        return
    worst = worst_tokens(tokens)
    context, position = place(tokens, worst)
    _draw_worst(found, worst, (context, position))
    _draw_context(selection, found, (context, position))


def worst_tokens(tokens: pl.DataFrame) -> pl.DataFrame:
    """The tokens whose loss Sae(x) raises most, of the contexts that are kept."""
    rows = tokens.filter(pl.col("delta_sae").is_finite())
    return rows.sort("delta_sae", "context", "position", descending=[True, False, False]).head(WORST)


def place(tokens: pl.DataFrame, worst: pl.DataFrame) -> tuple[int, int]:
    """The context and position that are looked at: those of the link if they are there, else the worst token's."""
    contexts = [str(c) for c in tokens["context"].unique().sort()]
    first = worst.row(0, named=True) if len(worst) else tokens.row(0, named=True)
    context = int(own_value("read", contexts, str(first["context"])))
    own = tokens.filter(pl.col("context") == context).sort("position")
    start = own.sort("delta_sae", descending=True, nulls_last=True)["position"][0]
    # The token is named with its context, so that another context starts at its own worst token.
    spots = [f"{context}.{p}" for p in own["position"]]
    return context, own["position"][spots.index(own_value("at", spots, f"{context}.{start}"))]


def go_to(context: int, position: int) -> None:
    """Look at a token; for use in a callback."""
    set_option("read", str(context))
    set_option("at", f"{context}.{position}")


def worst_rows(found: Downstream, worst: pl.DataFrame) -> pl.DataFrame:
    """The worst tokens as the table shows them; a table shows text as text."""
    texts, rows = found.texts, worst.to_dicts()
    by_context = {c: found.of_context(c).sort("position") for c in worst["context"].unique()}

    def joined(ids: list[int]) -> str:
        return "".join(visible(texts.get(i, f"#{i}")) for i in ids)

    def before(row: dict[str, Any]) -> str:
        own = by_context[row["context"]].filter(pl.col("position") <= row["position"])
        return "…" + joined(own["token"].tail(REACH).to_list())[-44:]

    def after(row: dict[str, Any]) -> str:
        own = by_context[row["context"]].filter(pl.col("position") > row["position"])
        return joined(own["target"].head(REACH).to_list())[:36]

    return pl.DataFrame(
        {
            "before": [before(row) for row in rows],
            "token": [joined([row["target"]]) for row in rows],
            "after": [after(row) for row in rows],
            "sae": worst["delta_sae"].cast(pl.Float64),
            "sae_linear": worst["delta_sae_linear"].cast(pl.Float64),
            "sae_nonlinear": worst["delta_sae_nonlinear"].cast(pl.Float64),
            "clean": worst["ce"].cast(pl.Float64),
            "place": [f"{row['context']}:{row['position']}" for row in rows],
        }
    )


def _draw_worst(found: Downstream, worst: pl.DataFrame, at: tuple[int, int]) -> None:
    """The tokens that lose most; a click looks at one."""
    st.markdown("### Which tokens lose most?")
    spots = worst.select("context", "position").rows()
    shown = [spots.index(at)] if at in spots else []

    def pick() -> None:
        state = st.session_state[_TABLE].selection
        picked = list(state.rows) or [cell[0] for cell in state.cells]
        if picked and picked[0] < len(spots):
            go_to(*spots[picked[0]])

    state = st.session_state.get(_TABLE)
    if state is None or list(state["selection"]["rows"]) != shown or state["selection"]["cells"]:
        st.session_state[_TABLE] = {"selection": {"rows": shown, "columns": [], "cells": []}}
    text, number = st.column_config.TextColumn, st.column_config.NumberColumn
    show_table(
        worst_rows(found, worst),
        key=_TABLE,
        on_select=pick,
        selection_mode=["single-row", "single-cell"],
        hide_index=True,
        height=250,
        column_config={
            "before": text("Before", width="medium", alignment="right"),
            "token": text("Token", width="small", alignment="center", help="The token that is to be predicted."),
            "after": text("After", width="medium"),
            "sae": number("Sae(x)", format="%+.2f", width=80, help="Loss increase in nats."),
            "sae_linear": number("+ linear", format="%+.2f", width=80, help="Loss increase with Sae(x) + linear error."),
            "sae_nonlinear": number("+ nonlinear", format="%+.2f", width=95, help="With Sae(x) + nonlinear error."),
            "clean": number("Clean loss", format="%.2f", width=85, help="Loss of the model as it is, in nats."),
            "place": text("Context:position", width=135),
        },
    )  # fmt: skip
    n = len(found["tokens"])
    st.caption(
        f"The {len(worst)} of {n:,} tokens in {found['tokens']['context'].n_unique()} contexts whose loss Sae(x) raises "
        "most, in nats "
        "above the clean model's. They were picked for that, so part of it is chance. Click on a row to read its context."
    )


def _draw_context(selection: Selection, found: Downstream, at: tuple[int, int]) -> None:
    """One context, its tokens coloured by how much their own prediction loses, and the chosen token in numbers."""
    st.markdown("### Where in a text does the loss go?")
    context, position = at
    contexts = [str(c) for c in found["tokens"]["context"].unique().sort()]
    with st.container(horizontal=True):
        context = int(option("read", "Context", contexts, contexts, str(context), kind=st.selectbox, width=160))
        spliced = option(
            "spliced", "The site holds", list(SPLICED), list(SPLICED.values()), "sae", kind=st.selectbox, width=260
        )
    rows = found.of_context(context).sort("position")
    strip = strip_rows(found, rows, spliced)
    _draw_token(found, rows.filter(pl.col("position") == position))
    # One scale for all that the site may hold, so that the colours fade where a part gives the loss back.
    values = rows["delta_sae"].cast(pl.Float64).drop_nulls()
    top = max(float(values.quantile(0.98) or 0.0), 0.1)
    draw(
        Figure(
            name="downstream_tokens",
            key=(selection.record["summary_key"], found.folder.name, str(context), str(position), spliced),
            question=f"Where in context {context} does the loss go?",
            caption=f"Each token by how much its own loss rises with {SPLICED[spliced]} in the place of x at the token "
            "before it, in nats "
            "above the clean model's; colours start at 0 and are the same for all that the site may hold. Framed: the chosen "
            "token. · is a space, ↵ a line break, ⇥ a tab. Skipped positions are left out. Click on a token to see its numbers.",
            chart=lambda: token_strip_chart(
                strip, selected=position, title="loss increase (nats)", ends=(0.0, top)
            ),
            data=lambda: token_strip_table(strip),
        ),
        level=0,
        pick=Pick("token", "position", lambda value: _to_position(rows, context, value)),
    )  # fmt: skip


def strip_rows(found: Downstream, rows: pl.DataFrame, spliced: str) -> pl.DataFrame:
    """`position` (where the prediction is made), `text` (of the token that is predicted), `value` (its loss increase)."""
    return pl.DataFrame(
        {
            "position": rows["position"].cast(pl.Int64),
            "text": [found.texts.get(i, f"#{i}") for i in rows["target"]],
            "value": rows[f"delta_{spliced}"].cast(pl.Float64),
        }
    )


def _draw_token(found: Downstream, row: pl.DataFrame) -> None:
    """The chosen token, and its loss with each thing at the site."""
    if row.is_empty():
        return
    one = row.row(0, named=True)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        with st.container(width=200):
            st.caption("Token to predict")
            # Code: in it no Markdown or HTML of a token means anything.
            st.code(visible(found.texts.get(one["target"], f"#{one['target']}")), language=None)
        st.metric("Clean loss", f"{one['ce']:.2f}", width="content")
        for name, words in SPLICED.items():
            value = one[f"delta_{name}"]
            st.metric(words, "not computed" if value is None else f"{value:+.2f}".replace("-", "−"), width="content")


def _to_position(rows: pl.DataFrame, context: int, value: Any) -> None:
    if isinstance(value, int | float) and value in rows["position"].to_list():
        go_to(context, int(value))
