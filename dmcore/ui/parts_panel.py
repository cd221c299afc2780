"""The view *SAEs on the parts* of the page Nonlinear error: what SAEs find in the error and in its parts, at equal budget."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dmcore.charts.parts import training_table
from dmcore.charts.seeds import seeds_table
from dmcore.figures.parts import parts_figure, seeds_figure, training_figure
from dmcore.results import Parts
from dmcore.ui.figure import draw
from dmcore.ui.selection import Selection
from dmcore.words.parts import harder_sentence


def draw_parts(selection: Selection, parts: Parts) -> None:
    """Draw the view."""
    key = (selection.record["summary_key"], parts.folder.name)
    draw(parts_figure(parts, key))
    st.markdown(harder_sentence(parts))
    if len(training_table(parts["curves"])):
        draw(training_figure(parts, key))
    if len(seeds_table(parts["stability"]).filter(pl.col("value").is_not_null())):
        draw(seeds_figure(parts, key))
    st.caption(parts.about["note"])
