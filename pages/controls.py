"""Controls: whether an SAE's numbers are what they should be where the answer is known."""

from __future__ import annotations

import streamlit as st

from dmcore.ui.controls_views import VIEWS
from dmcore.ui.glossary import glossary
from dmcore.ui.page import page
from dmcore.ui.selection import option

OWN = ("trust", "shrunk", "weighting", "between", "kept", "cells")


def main() -> None:
    with page("Would the numbers survive a sceptic?", OWN) as selection:
        if selection is None:
            return
        top = st.container()  # what was found depends on the view, which is chosen below
        glossary("linear error", "nonlinear FVU", "R²", "held out by context", "interval")
        titles = [title for title, _ in VIEWS.values()]
        look = option("trust", "What to look at", list(VIEWS), titles, "controls",
                      kind=st.segmented_control, label_visibility="collapsed")  # fmt: skip
        VIEWS[look][1](selection, top)


main()
