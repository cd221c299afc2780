"""The view *Tokens* of the Scaling page: do wider SAEs fail on the same tokens, and on which?"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import streamlit as st

from dmcore.charts.token_lines import token_lines_chart, token_lines_table
from dmcore.charts.token_strip import token_strip_chart, token_strip_table
from dmcore.charts.token_text import visible
from dmcore.figures.tokens import pairs_figure, slices_figure
from dmcore.results import Scaling
from dmcore.ui.figure import Figure, Pick, draw
from dmcore.ui.selection import Selection, option, own_value, set_option
from dmcore.ui.table import show_table
from dmcore.words.tokens import pair_sentence

PART_NAMES = {"error": "Total error", "linear": "Linear error", "nonlinear": "Nonlinear error"}
SLICE_NAMES = {"class": "Kind of token", "position": "Position", "domain": "Domain"}
PAIR_NAMES = {"r2": "R²", "spearman": "Spearman", "closed": "Closed by nonlinear norm"}
REACH = 32
"""Positions shown on either side of the chosen token."""
UNIT = "Norms are in units of the root mean square of |x − mean x|, so that their mean square is the FVU."


def draw_tokens(selection: Selection, scaling: Scaling, chosen: int) -> None:
    """Draw the view; `chosen` is the set of the selected SAE."""
    members = scaling.members(chosen)
    draw_pairs(scaling, members)
    part = option("of", "Part of the error", list(PART_NAMES), list(PART_NAMES.values()), "nonlinear",
                  kind=st.segmented_control)  # fmt: skip
    context, position = place(scaling, selection, part)
    draw_worst(selection, scaling, part, (context, position))
    draw_context(selection, scaling, members, part, (context, position))
    draw_slices(selection, scaling)


def draw_pairs(scaling: Scaling, members: pl.DataFrame) -> None:
    """How well one width's error tells another's, token by token."""
    st.subheader("Do wider SAEs fail on the same tokens?", anchor=False)
    if len(members) < 2:
        st.info("This site has one width here: there is nothing to compare it with.", icon=":material/inbox:")
        return
    value = option("value", "Show", list(PAIR_NAMES), list(PAIR_NAMES.values()), "r2", kind=st.segmented_control)
    draw(
        pairs_figure(scaling, members, value),
        level=0,
    )
    st.markdown(pair_sentence(scaling, members))


def place(scaling: Scaling, selection: Selection, part: str) -> tuple[int, int]:
    """The context and position that are looked at: those of the link if they can be, else the worst token's."""
    browsed = [int(c) for c in scaling.about["browsed"]]
    worst = worst_of(scaling, selection, part).filter(pl.col("context").is_in(browsed))
    first = worst.row(0, named=True) if len(worst) else {"context": browsed[0], "position": 0}
    context = int(own_value("context", [str(c) for c in browsed], str(first["context"])))
    own = worst.filter(pl.col("context") == context)
    default = int(own["position"][0]) if len(own) else scaling.about["skip_positions"]
    # The token is named with its context, so that another context starts at its own worst token.
    places = [f"{context}.{p}" for p in range(scaling.about["length"])]
    return context, places.index(own_value("token", places, f"{context}.{default}"))


def go_to(context: int, position: int) -> None:
    """Look at a token; for use in a callback."""
    set_option("context", str(context))
    set_option("token", f"{context}.{position}")


def worst_of(scaling: Scaling, selection: Selection, part: str) -> pl.DataFrame:
    """The worst tokens of the selected SAE."""
    number_ = scaling.number[selection.record["summary_key"]]
    return scaling["worst"].filter((pl.col("sae") == number_) & (pl.col("part") == part)).sort("rank")


def draw_worst(selection: Selection, scaling: Scaling, part: str, at: tuple[int, int]) -> None:
    """The tokens with the largest norm; a click looks at one."""
    st.subheader(f"Which tokens have the largest {PART_NAMES[part].lower()}?", anchor=False)
    rows = worst_of(scaling, selection, part)
    if not len(rows):
        st.info("This SAE's error is the same everywhere.", icon=":material/inbox:")
        return
    browsed = set(scaling.about["browsed"])

    shown = (
        rows.with_row_index("row").filter((pl.col("context") == at[0]) & (pl.col("position") == at[1]))["row"].to_list()
    )

    def pick() -> None:
        chosen = st.session_state[f"worst.{part}"].selection
        # a click on a cell counts as one on its row: `rows` is then still what was shown
        ticked = list(chosen.rows)
        picked = ticked if ticked and ticked != shown else [row for row, _ in chosen.cells]
        if picked:
            row = rows.row(picked[0], named=True)
            if row["context"] in browsed:
                go_to(row["context"], row["position"])

    state = st.session_state.get(f"worst.{part}")
    if state is None or list(state["selection"]["rows"]) != shown or state["selection"]["cells"]:
        st.session_state[f"worst.{part}"] = {"selection": {"rows": shown, "columns": [], "cells": []}}
    number_column = st.column_config.NumberColumn
    show_table(
        worst_rows(rows, scaling.texts, browsed),
        key=f"worst.{part}",
        on_select=pick,
        selection_mode=["single-row", "single-cell"],
        hide_index=True,
        height=250,
        column_config={
            "before": st.column_config.TextColumn("Before", width="medium", alignment="right"),
            "token": st.column_config.TextColumn("Token", width="small", alignment="center"),
            "after": st.column_config.TextColumn("After", width="medium"),
            "norm": number_column("Norm", format="%.2f", width=70),
            "share": number_column("Share", format="%.2f %%", width=80),
            "place": st.column_config.TextColumn("Context:position", width=120),
        },
    )
    missing = sum(context not in browsed for context in rows["context"])
    st.caption(
        f"The {len(rows)} of {scaling.about['n_tokens']:,} tokens with the largest norm, of the selected SAE. "
        f"{UNIT} Share: of the "
        "sum of squared norms over all tokens. Click on a row to read its context."
        + (r" \* The results hold the text around this token, not its whole context." if missing else "")
    )


def worst_rows(rows: pl.DataFrame, texts: dict[int, str], browsed: set[int]) -> pl.DataFrame:
    """The worst tokens as the table shows them; a table shows text as text."""

    def joined(ids: list[int]) -> str:
        return "".join(visible(texts.get(i, f"#{i}")) for i in ids)

    def where(row: dict[str, Any]) -> str:
        return f"{row['context']}:{row['position']}{'' if row['context'] in browsed else ' *'}"

    dicts = rows.to_dicts()
    return pl.DataFrame(
        {
            "before": ["…" + joined(row["before"])[-44:] for row in dicts],
            "token": [visible(texts.get(row["token"], f"#{row['token']}")) for row in dicts],
            "after": [joined(row["after"])[:36] for row in dicts],
            "norm": rows["norm"],
            "share": rows["share"] * 100,
            "place": [where(row) for row in dicts],
        }
    )


def draw_slices(selection: Selection, scaling: Scaling) -> None:
    """The parts by kind of token, position and domain."""
    number_ = scaling.number[selection.record["summary_key"]]
    slices = scaling["slices"].filter(pl.col("sae") == number_)
    kinds = [by for by in SLICE_NAMES if by in set(slices["by"])]
    if not kinds:
        return
    st.subheader("Where is the error large?", anchor=False)
    by = option("by", "Tokens by", kinds, [SLICE_NAMES[k] for k in kinds], kinds[0], kind=st.segmented_control)
    draw(
        slices_figure(selection, scaling, slices, by),
        level=0,
    )


def draw_context(selection: Selection, scaling: Scaling, members: pl.DataFrame, part: str, at: tuple[int, int]) -> None:
    """One context: the norms around a token, a line a width; and its text, coloured."""
    context, position = at
    st.subheader("What does a context look like?", anchor=False)
    browsed = [str(c) for c in scaling.about["browsed"]]
    context = int(option("context", "Context", browsed, browsed, str(context), kind=st.selectbox, width=160))
    key = (selection.record["summary_key"], str(scaling.folder.name), part, str(context), str(position))
    norms, ids, skip = scaling.norms(context), scaling.token_ids(context), scaling.about["skip_positions"]
    texts = [scaling.texts.get(int(i), f"#{i}") for i in ids]
    lines = line_rows(norms, texts, members, position, skip)
    draw(
        Figure(
            name="token_lines",
            key=(*key, str(members["set"][0])),
            question=f"What does context {context} look like?",
            caption=f"Norms at the positions around the chosen token, a line for each width at this L0. {UNIT} "
            "Click on a point "
            "to choose its token.",
            chart=lambda: token_lines_chart(lines, selected=position),
            data=lambda: token_lines_table(lines),
        ),
        level=0,
        pick=Pick("token", "position", lambda value: _to_position(scaling, context, value)),
    )
    own = norms[:, scaling.number[selection.record["summary_key"]], ["error", "linear", "nonlinear"].index(part)]
    title, largest = f"norm of the {PART_NAMES[part].lower()}", float(own[skip:].max()) or 1.0
    strip = pl.DataFrame({"position": np.arange(len(ids)), "text": texts, "value": own.astype(np.float64)})
    draw(
        Figure(
            name="token_strip",
            key=key,
            question=f"Where in context {context} is the {PART_NAMES[part].lower()} large?",
            caption=f"The whole context, coloured by the norm of the {PART_NAMES[part].lower()} of the selected "
            "SAE (unit as above). "
            f"Framed: the chosen token. · is a space, ↵ a line break, ⇥ a tab. {skipped_words(scaling)} Click on "
            "a token to look at it.",
            chart=lambda: token_strip_chart(strip, selected=position, title=title, ends=(0.0, largest)),
            data=lambda: token_strip_table(strip),
        ),
        level=0,
        pick=Pick("token", "position", lambda value: _to_position(scaling, context, value)),
    )


def skipped_words(scaling: Scaling) -> str:
    """What is said of the first positions."""
    skip = scaling.about["skip_positions"]
    return f"The first {skip} positions are shown but are in no statistic." if skip else ""


def _to_position(scaling: Scaling, context: int, value: Any) -> None:
    if isinstance(value, int | float) and 0 <= value < scaling.about["length"]:
        go_to(context, int(value))


def line_rows(norms: np.ndarray, texts: list[str], members: pl.DataFrame, position: int, skip: int) -> pl.DataFrame:
    """A row for each position near the chosen one, width and part: `position`, `token`, `d_sae`, `part`, `norm`."""
    # The first positions, skipped in every statistic, may be a hundred times the rest: they are drawn when one is chosen.
    first = max(0 if position < skip else skip, position - REACH)
    last = min(len(texts), position + REACH + 1)
    rows = []
    for sae, d_sae in zip(members["sae"].to_list(), members["d_sae"].to_list(), strict=True):
        for number_, part in enumerate(("error", "linear", "nonlinear")):
            rows.append(
                pl.DataFrame(
                    {
                        "position": np.arange(first, last),
                        "token": texts[first:last],
                        "d_sae": np.full(last - first, d_sae),
                        "part": [part] * (last - first),
                        "norm": norms[first:last, sae, number_].astype(np.float64),
                    }
                )
            )
    return pl.concat(rows)
