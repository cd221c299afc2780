"""Synthetic: whether the estimates find errors that were put in, where the truth is known."""

from __future__ import annotations

import streamlit as st

from dmcore.results.synthetic import INGREDIENTS
from dmcore.ui.glossary import glossary
from dmcore.ui.page import page
from dmcore.ui.selection import option
from dmcore.ui.synthetic_views import VIEWS

OWN = ("synthetic", "noise", "ablated", "price", *INGREDIENTS)


def main() -> None:
    with page("Do the estimates find what was put in?", OWN) as selection:
        if selection is None:
            return
        top = st.container()  # what was found depends on the view, which is chosen below
        glossary("linear error", "nonlinear error", "absent features", "held out by context", "interval")
        titles = [title for title, _ in VIEWS.values()]
        look = option("synthetic", "What to look at", list(VIEWS), titles, "planted",
                      kind=st.segmented_control, label_visibility="collapsed")  # fmt: skip
        VIEWS[look][1](selection, top)


main()
