"""The views of the page Controls, each of the selected SAE."""

from __future__ import annotations

from collections.abc import Callable

from streamlit.delta_generator import DeltaGenerator

from dmcore.ui.claims_views import claims_view
from dmcore.ui.controls_panel import controls_view
from dmcore.ui.selection import Selection
from dmcore.ui.shrinkage_views import shrinkage_view
from dmcore.ui.transfer_views import transfer_view

View = Callable[[Selection, DeltaGenerator], None]
"""Draws a view of the selected SAE; its finding goes to the container."""


VIEWS: dict[str, tuple[str, View]] = {
    "controls": ("Controls", controls_view),
    "shrinkage": ("Shrinkage", shrinkage_view),
    "transfer": ("Transfer", transfer_view),
    "claims": ("Claims", claims_view),
}
"""Title and view, by the name in the link."""
