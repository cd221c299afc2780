"""The metrics that the views of the Scaling page can show, and the control that chooses one."""

from __future__ import annotations

import streamlit as st

from dmcore.ui.selection import option
from dmcore.words.metrics import SURFACE_OPTIONS


def choose_metric(field: str) -> str:
    """The metric that a view shows."""
    return option(field, "Show", list(SURFACE_OPTIONS), list(SURFACE_OPTIONS.values()), "fvu_nonlinear",
                  kind=st.segmented_control)  # fmt: skip
