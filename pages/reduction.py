"""Error reduction: what makes an SAE's error smaller at the same sparsity, on equal terms."""

from __future__ import annotations

import streamlit as st

from dmcore.ui import reads
from dmcore.ui.glossary import glossary
from dmcore.ui.page import page
from dmcore.ui.reduction_views import VIEWS
from dmcore.ui.selection import option

OWN = ("reduce", "method", "left")


def main() -> None:
    with page("What makes the error smaller at the same sparsity?", OWN) as selection:
        if selection is None:
            return
        found = reads.reduction(selection.study_id, selection.record["summary_key"])
        top = st.container()  # what was found depends on the view, which is chosen below
        glossary("nonlinear FVU", "linear error", "FVU", "L0", "held out by context", "interval")
        titles = [title for title, _ in VIEWS.values()]
        look = option("reduce", "What to look at", list(VIEWS), titles, "methods",
                      kind=st.segmented_control, label_visibility="collapsed")  # fmt: skip
        VIEWS[look][1](selection, found, top)


main()
