"""The league table of methods: rows of one SAE or of many, with what they recover of the model's loss, as shown."""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from dmcore.figures.league import HELPS, INTERVALS, LOOKS, shown
from dmcore.ui.table import show_table


def draw_league(table: pl.DataFrame, key: str, *, many: bool) -> None:
    """Draw the table; a click on a head sorts."""
    rows = shown(table, many=many)
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    config: dict[str, Any] = {}
    for name, (label, form, width) in LOOKS.items():
        more: Any = {"width": width, "help": HELPS.get(name), "pinned": name == "method" or None}
        config[name] = number(label, format=form, **more) if form else text(label, **more)
        if name in INTERVALS:
            what = f"{label}: half the width of its 95 % interval."
            config[f"{name}_half"] = number("±", format=form.removesuffix(" %%"), width=60, help=what)
    show_table(rows, key=key, hide_index=True, height=min(38 + 35 * len(rows), 460), column_config=config)
