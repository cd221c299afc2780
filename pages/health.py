"""Health: whether worker, queue, device, memory and disk of this host are well, and what to do where they are not."""

from __future__ import annotations

import streamlit as st

from dmcore.ui.health_panel import draw_health
from dmcore.ui.page import enter_through_app

enter_through_app()
st.title("Is this host well?", anchor=False)
draw_health()
