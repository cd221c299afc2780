"""The table of the Catalogue page, and what can be done with the rows that are chosen in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import streamlit as st

from dmcore.sources.catalogue import why_unusable
from dmcore.ui.streams import stream_name
from dmcore.ui.words import architecture_name, listed, plain

CHOSEN = "builder.saes"
"""Session key under which the Runs page finds the rows."""
HANDED_OVER = ("release", "id", "hook", "model", "processing", "d_sae", "l0")
RUNS = Path(__file__).parents[2] / "pages" / "runs.py"
MOST = 2000
"""SAEs that are handed over at most."""


def table_rows(found: pl.DataFrame) -> pl.DataFrame:
    """The rows as the table shows them."""
    return found.select(
        "id",
        "release",
        pl.col("model").str.split("/").list.last(),
        pl.coalesce(pl.col("stream").replace_strict(_names(found["stream"], stream_name), default=None), "kind").alias(
            "stream"
        ),
        "layer",
        pl.col("d_sae").alias("width"),
        "l0",
        pl.col("architecture").replace_strict(_names(found["architecture"], architecture_name), default=None),
        "on_disk",
    )


def _names(values: pl.Series, name: Any) -> dict[str, str]:
    return {value: name(value) for value in values.drop_nulls().unique()}


def table_key(key: tuple[str, ...]) -> str:
    """Session key of the table under some filters."""
    return "catalogue.table." + "|".join(key)


def draw_table(found: pl.DataFrame, key: tuple[str, ...]) -> pl.DataFrame:
    """Draw the table; returns the rows that are chosen in it.

    Args:
        found: rows of the catalogue.
        key: of the filters: other rows make another table, so that no choice slips to other SAEs.
    """
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    rows = table_rows(found)
    # What is the same in every row is in the filters already; without it the rest has room.
    same = [name for name in ("release", "model") if rows.height > 1 and rows[name].n_unique() == 1]
    state = st.dataframe(
        rows.drop(same),
        key=table_key(key),
        on_select="rerun",
        selection_mode="multi-row",
        hide_index=True,
        height=min(38 + 35 * found.height, 388),
        placeholder="unknown",
        column_config={
            "id": text("SAE", width=320 if same else 185),
            "release": text("Release", width=185),
            "model": text("Model", width=120),
            "stream": text("Stream", width=85),
            "layer": number("Layer", format="%d", width=55),
            "width": number("Width", format="localized", width=80, help="Latents."),
            "l0": number("L0", format="%.4g", width=70, help="Active latents per token, as published."),
            "architecture": text("Architecture", width=95),
            "on_disk": st.column_config.CheckboxColumn("Here", width=50, help="Already on this machine."),
        },
    )
    return found[[row for row in state.selection.rows if row < found.height]]


def draw_use(chosen: pl.DataFrame) -> None:
    """What is chosen, and the button that makes a study of it."""
    usable = chosen.filter(pl.col("hook").is_not_null())
    problem = _problem(chosen, usable)
    label = f"Use {usable.height:,} in a new study" if usable.height else "Use in a new study"
    with st.container(horizontal=True, vertical_alignment="center"):
        asked = st.button(
            label,
            icon=":material/playlist_add:",
            type="primary",
            disabled=bool(problem) or not usable.height,
            key="catalogue.use",
        )
        if not chosen.height:
            st.caption("Choose rows by the boxes at their left; the box at the top chooses all that the filters leave.")
        elif problem:
            st.caption(f":material/info: {problem}")
        elif usable.height < chosen.height:
            left = chosen.filter(pl.col("hook").is_null()).row(0, named=True)
            st.caption(
                f":material/info: {chosen.height - usable.height:,} of the chosen are left out. "
                f"{plain(left['id'])}: {why_unusable(left)}"
            )
        else:
            saes, sites = (
                _counted(n, what) for n, what in ((usable.height, "SAE"), (usable["hook"].n_unique(), "site"))
            )
            st.caption(f"{saes} at {sites} of {plain(usable['model'][0])}.")
    if asked:
        _hand_over(usable)


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _problem(chosen: pl.DataFrame, usable: pl.DataFrame) -> str:
    """Why the rows cannot be one study; empty if they can."""
    if chosen.height and not usable.height:
        return why_unusable(chosen.row(0, named=True))
    models = usable["model"].unique().sort().to_list()
    if len(models) > 1:
        return f"A study has one model; these are of {listed(map(plain, models[:3]))}: filter by model first."
    if usable["processing"].n_unique() > 1:
        return "Some of these want the model's weights processed and some do not: make two studies of them."
    if usable.height > MOST:
        return f"{usable.height:,} SAEs are more than a study is given here ({MOST:,}): filter further."
    return ""


def _hand_over(usable: pl.DataFrame) -> None:
    st.session_state[CHOSEN] = usable.select(HANDED_OVER).to_dicts()
    if RUNS.is_file():
        st.switch_page(RUNS, query_params={"show": "New study"})
    st.toast("They are kept for the next new study.", icon=":material/check:")
