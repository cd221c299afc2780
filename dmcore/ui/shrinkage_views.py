"""The view Shrinkage of the page Controls: is the linear part of an SAE's error only undone shrinkage, and what is its map."""

from __future__ import annotations

from shlex import quote

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dmcore.figures.shrinkage import (
    LADDER_WORDS,
    OUTLIER_WORDS,
    OUTLIERS,
    ablation_figure,
    alignment_figure,
    ladder_figure,
    ladder_rows,
    outlier_rows,
    rank_figure,
    rows_figure,
    shape_figure,
    singular_figure,
)
from dmcore.results.shrinkage import Shrinkage
from dmcore.ui import reads
from dmcore.ui.figure import draw
from dmcore.ui.look_job import draw_look_button
from dmcore.ui.missing import draw_missing
from dmcore.ui.sections import finding
from dmcore.ui.selection import Selection, option
from dmcore.ui.table import show_table
from dmcore.words.shrinkage import (
    direction_sentence,
    group_sentence,
    ladder_sentence,
    outlier_sentence,
    rank_sentence,
    shrinkage_remarks,
)

PARTS = {"ladder": "Ladder", "directions": "Directions of the map", "groups": "Directions of x"}
"""What the view shows, and its title."""


def shrinkage_view(selection: Selection, top: DeltaGenerator) -> None:
    """The ladder, the map, and what it reads."""
    record = selection.record
    found = reads.shrinkage(selection.study_id, record["summary_key"])
    if found is None:
        draw_missing("The shrinkage of this SAE has", f"shrinkage {selection.published.file} {quote(record['sae'])}")
        draw_look_button(
            selection.study_id,
            record["sae"],
            lambda published: published.shrinkage(record["summary_key"]) is not None,
            "shrinkage",
        )
        return
    part = option("shrunk", "Show", list(PARTS), list(PARTS.values()), "ladder",
                  kind=st.segmented_control, label_visibility="collapsed")  # fmt: skip
    {"ladder": _ladder, "directions": _directions, "groups": _groups}[part](found, top)
    for text in shrinkage_remarks(found):
        st.caption(f":material/info: {text}")


def _ladder(found: Shrinkage, top: DeltaGenerator) -> None:
    with top:
        finding(ladder_sentence(found), rank_sentence(found))
    if found["ladder"].is_empty():
        return
    draw(ladder_figure(found))
    draw(rank_figure(found))
    with st.expander("All rungs, in numbers"):
        show_table(ladder_rows(found), hide_index=True)
        st.caption(LADDER_WORDS)


def _directions(found: Shrinkage, top: DeltaGenerator) -> None:
    with top:
        finding(direction_sentence(found))
    if found["shape"].is_empty():
        return
    draw(shape_figure(found))
    draw(singular_figure(found))
    weighting = option("weighting", "Order of directions", ["data", "plain"],
                       ["By what the map predicts", "By singular value"], "data", kind=st.segmented_control)  # fmt: skip
    draw(alignment_figure(found, weighting))
    if len(found["rows"]):
        draw(rows_figure(found, weighting))


def _groups(found: Shrinkage, top: DeltaGenerator) -> None:
    with top:
        finding(group_sentence(found))
    if len(found["ablations"]):
        draw(ablation_figure(found))
    st.markdown(f"### {OUTLIERS}")
    st.markdown(outlier_sentence(found))
    if len(found["without"]) > 1:
        show_table(outlier_rows(found), hide_index=True)
        st.caption(OUTLIER_WORDS)
