"""Downstream: what an SAE's error, and each part of it, costs the model's own predictions."""

from __future__ import annotations

import streamlit as st

from dmcore.ui.downstream_views import VIEWS, draw_view
from dmcore.ui.glossary import glossary
from dmcore.ui.page import page
from dmcore.ui.selection import option

OWN = ("cost", "against", "gained", "spliced", "read", "at")


def main() -> None:
    with page("What does the error cost the model?", OWN) as selection:
        if selection is None:
            return
        top = st.container()  # what was found is read with the view, which is chosen below
        glossary("loss increase", "loss recovered", "KL", "linear error", "nonlinear error", "interval")
        titles = [title for title, _ in VIEWS.values()]
        look = option("cost", "What to look at", list(VIEWS), titles, "cost",
                      kind=st.segmented_control, label_visibility="collapsed")  # fmt: skip
        draw_view(selection, look, top)


main()
