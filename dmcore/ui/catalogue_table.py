"""The table of the Catalogue page, and what can be done with the rows that are chosen in it."""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from dmcore.places import HOME
from dmcore.sources.catalogue import why_unusable
from dmcore.ui.builder_saes import hand_over
from dmcore.ui.catalogue_filters import Filters
from dmcore.ui.table import show_table
from dmcore.words.names import architecture_name, listed, plain
from dmcore.words.streams import stream_name

HANDED_OVER = ("release", "id", "hook", "model", "processing", "d_sae", "l0")
RUNS = HOME / "pages" / "runs.py"
ROOM = 885
"""Pixels for columns in a window of 1,400: what is beyond is reached by scrolling."""
WIDTHS = {"stream": 82, "layer": 54, "width": 78, "l0": 70, "architecture": 98}
MOST = 2000
"""SAEs that are handed over at most."""


def table_rows(found: pl.DataFrame) -> pl.DataFrame:
    """The rows as the table shows them."""
    return found.select(
        "id",
        "release",
        pl.coalesce(pl.col("stream").replace_strict(_names(found["stream"], stream_name), default=None), "kind").alias(
            "stream"
        ),
        "layer",
        pl.col("d_sae").alias("width"),
        "l0",
        pl.col("architecture").replace_strict(_names(found["architecture"], architecture_name), default=None),
        # Last: the release tells the model to most readers.
        pl.col("model").str.split("/").list.last(),
        "on_disk",
    )


def _names(values: pl.Series, name: Any) -> dict[str, str]:
    return {value: name(value) for value in values.drop_nulls().unique()}


def table_key(key: tuple[str, ...]) -> str:
    """Session key of the table under some filters."""
    return "catalogue.table." + "|".join(key)


def columns_of(rows: pl.DataFrame, filters: Filters) -> dict[str, int]:
    """The columns that tell something, in their order, with their widths in pixels.

    What the filters say already is left out, so that names have room: they differ at their ends. A release gets what the
    longest needs, as far as an SAE's name keeps room for `layer_12/width_16k/average_l0_184`.
    """
    alike = {name for name in ("release", "model") if rows.height > 1 and rows[name].n_unique() == 1}
    alike |= {name for name in WIDTHS if name != "l0" and getattr(filters, name) is not None}
    if not rows["on_disk"].any():
        alike.add("on_disk")
    widths = {**WIDTHS, "model": 150, "on_disk": 50}
    shown = [name for name in rows.columns if name not in alike]
    room = ROOM - sum(WIDTHS.get(name, 0) for name in shown)
    needs = {name: _pixels(rows[name]) for name in ("id", "release")}
    release = min(needs["release"], room - min(needs["id"], 236)) if "release" in shown else 0
    widths |= {"release": release, "id": max(min(needs["id"], room - release), 120)}
    return {name: widths[name] for name in shown}


def _pixels(names: pl.Series) -> int:
    return 18 + round(6.7 * int(names.str.len_chars().max() or 0))  # type: ignore[arg-type]


def draw_table(found: pl.DataFrame, filters: Filters) -> pl.DataFrame:
    """Draw the table; returns the rows that are chosen in it.

    Args:
        found: rows of the catalogue.
        filters: other rows make another table, so that no choice slips to other SAEs.
    """
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    rows = table_rows(found)
    widths = columns_of(rows, filters)
    looks: dict[str, Any] = {
        "id": text("SAE"),
        "release": text("Release"),
        "stream": text("Stream"),
        "layer": number("Layer", format="%d"),
        "width": number("Width", format="localized", help="Latents."),
        "l0": number("L0", format="%.4g", help="Active latents per token, as published."),
        "architecture": text("Architecture"),
        "model": text("Model"),
        "on_disk": st.column_config.CheckboxColumn("Here", help="Already on this machine."),
    }
    state = show_table(
        rows.select(list(widths)),
        key=table_key(filters.key),
        on_select="rerun",
        selection_mode="multi-row",
        hide_index=True,
        height=min(38 + 35 * found.height, 388),
        placeholder="unknown",
        column_config={name: {**looks[name], "width": width} for name, width in widths.items()},
    )
    return found[[row for row in state.selection.rows if row < found.height]]


def draw_use(chosen: pl.DataFrame) -> None:
    """What is chosen, and the button that makes a study of it."""
    usable = chosen.filter(pl.Series([not why_unusable(row) for row in chosen.to_dicts()], dtype=pl.Boolean))
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
    hand_over(usable.select(HANDED_OVER).to_dicts())
    if RUNS.is_file():
        st.switch_page(RUNS, query_params={"show": "New study"})
    st.toast("They are kept for the next new study.", icon=":material/check:")
