"""The table of a study's SAEs; a click on a row chooses that SAE."""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from dmcore.ui.selection import Selection, select
from dmcore.ui.words import architecture_name, stream_name


def sae_rows(records: pl.DataFrame, selected: dict[str, Any]) -> pl.DataFrame:
    """The study's SAEs as the table shows them, the chosen one marked, in the study's order."""
    return records.select(
        pl.when(pl.col("summary_key") == selected["summary_key"])
        .then(pl.lit("●"))
        .otherwise(pl.lit(""))
        .alias("shown"),
        pl.col("stream").map_elements(stream_name, return_dtype=pl.String),
        "layer",
        pl.col("label").map_elements(architecture_name, return_dtype=pl.String).alias("architecture"),
        pl.col("d_sae").alias("width"),
        "l0",
        "fvu",
        "fvu_nonlinear",
        "r2_error",
        "r2_error_mean_dims",
        "r2_error_norm_sq",
        "dead_share",
        "sae",
    )


def draw_sae_table(selection: Selection) -> None:
    """Draw the table of the selection's study."""
    records, record = selection.published.records, selection.record
    key = f"saes.{record['summary_key']}"

    def pick() -> None:
        rows = st.session_state[key].selection.rows
        if rows:
            select(selection.study_id, records.row(rows[0], named=True))

    number = st.column_config.NumberColumn
    st.dataframe(
        sae_rows(records, record),
        key=key,
        on_select=pick,
        selection_mode="single-row",
        hide_index=True,
        height=min(38 + 35 * len(records), 420),
        column_config={
            "shown": st.column_config.TextColumn("", width=28, help="The SAE that the page shows"),
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
            "dead_share": number("Dead latents", format="percent"),
            "sae": st.column_config.TextColumn("SAE", width="medium"),
        },
    )
