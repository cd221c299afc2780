"""A table on a page: Streamlit's, with every text in it visible, whoever wrote it."""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from dmcore.legible import visible_table


def show_table(table: pl.DataFrame, **options: Any) -> Any:
    """Draw a table; `options` and what is returned are those of `st.dataframe`."""
    return st.dataframe(visible_table(table), **options)
