"""Nonlinear error: what SAEs find in the parts of the error, what single features are, and how the error is built."""

from __future__ import annotations

import streamlit as st

from dmcore.ui import reads
from dmcore.ui.error_views import VIEWS
from dmcore.ui.glossary import glossary
from dmcore.ui.page import page
from dmcore.ui.selection import option

OWN = ("look", "whose", "sort", "latent", "clusters", "cluster", "scorer", "told")


def main() -> None:
    with page("What lives in the nonlinear error?", OWN) as selection:
        if selection is None:
            return
        parts = reads.parts(selection.study_id, selection.record["summary_key"])
        top = st.container()  # what was found depends on the view, which is chosen below
        glossary("linear error", "nonlinear error", "FVU", "L0", "interval")
        titles = [title for title, _ in VIEWS.values()]
        look = option("look", "What to look at", list(VIEWS), titles, "parts" if parts else "features",
                      kind=st.segmented_control, label_visibility="collapsed")  # fmt: skip
        VIEWS[look][1](selection, parts, top)


main()
