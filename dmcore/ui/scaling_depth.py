"""The view *Depth* of the Scaling page: a metric over the layers, and what width does at each."""

from __future__ import annotations

import streamlit as st

from dmcore.figures.depth import (
    DEPTH,
    depth_figure,
    exponents_figure,
    ratio_figure,
    site_rows,
    tokens_figure,
)
from dmcore.ui.figure import draw
from dmcore.ui.scaling_metrics import choose_metric
from dmcore.ui.sections import sample_words
from dmcore.ui.selection import Selection


def draw_depth(selection: Selection) -> None:
    """The metrics over layers, and what width does at each."""
    record, records = selection.record, selection.published.records
    st.subheader(DEPTH, anchor=False)
    if records["site"].n_unique() == 1:
        st.info("This study has one site: add SAEs at other layers to compare.", icon=":material/layers:")
        return
    metric = choose_metric("over")
    draw(
        depth_figure(selection, metric),
        level=0,
    )
    words = sample_words(record)
    sites, missing = site_rows(selection)
    if missing:
        st.caption(f":material/hourglass: {missing} of the study's sites have not been compared yet: sweep the study.")
    if not len(sites):
        return
    key = (record["summary_key"], *sites["key"])
    left, right = st.columns(2, gap="large")
    with left:
        draw(ratio_figure(sites, key, words), level=4)
    with right:
        draw(tokens_figure(sites, key, words), level=4)
    if sites["m"].count() > 1:
        draw(exponents_figure(sites, key, words), level=4)
    else:
        st.caption(
            ":material/info: Exponents over layers need at least 4 widths at two or more sites; this study has them at "
            f"{'one' if sites['m'].count() else 'none'}."
        )
