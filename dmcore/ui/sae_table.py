"""The table of a study's SAEs; a click on a row chooses that SAE."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dmcore.results.columns import mapped
from dmcore.ui.selection import Selection, select
from dmcore.ui.table import show_table
from dmcore.words.names import architecture_name
from dmcore.words.streams import stream_name

_KEY = "saes"


def sae_rows(records: pl.DataFrame) -> pl.DataFrame:
    """The study's SAEs as the table shows them, in the study's order."""
    return records.select(
        mapped(records["stream"], stream_name),
        "layer",
        mapped(records["label"], architecture_name).alias("architecture"),
        pl.col("d_sae").alias("width"),
        "l0",
        "fvu",
        "fvu_nonlinear",
        "r2_error",
        "r2_error_mean_dims",
        "r2_error_norm_sq",
        pl.col("dead_share") * 100,
        "sae",
    )


def _selected_rows() -> list[int]:
    state = st.session_state.get(_KEY)
    return list(state["selection"]["rows"]) if state else []


def draw_sae_table(selection: Selection) -> None:
    """Draw the table of the selection's study."""
    records = selection.published.records
    row = records["summary_key"].to_list().index(selection.record["summary_key"])

    def pick() -> None:
        rows = st.session_state[_KEY].selection.rows
        if rows:
            select(selection.study_id, records.row(rows[0], named=True))

    # The table itself never changes as one slides, so that it is not drawn again; only its selected row does.
    if _selected_rows() != [row]:
        st.session_state[_KEY] = {"selection": {"rows": [row], "columns": [], "cells": []}}

    number = st.column_config.NumberColumn
    show_table(
        sae_rows(records),
        key=_KEY,
        on_select=pick,
        selection_mode="single-row-required",
        hide_index=True,
        height=min(38 + 35 * len(records), 420),
        column_config={
            "stream": "Stream",
            "layer": number("Layer", format="%d"),
            "architecture": "Architecture",
            "width": number("Width", format="localized"),
            "l0": number("L0", format="%.1f"),
            "fvu": number("FVU", format="%.3f"),
            "fvu_nonlinear": number("Nonlinear FVU", format="%.3f"),
            "r2_error": number("R² vector, pooled", format="%.3f"),
            "r2_error_mean_dims": number("R² vector, mean dims", format="%.3f"),
            "r2_error_norm_sq": number("R² squared norm", format="%.3f"),
            "dead_share": number("Dead latents", format="%.1f %%"),
            "sae": st.column_config.TextColumn("SAE", width="medium"),
        },
    )
