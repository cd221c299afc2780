"""The views of the page Controls, each of the selected SAE."""

from __future__ import annotations

from collections.abc import Callable
from shlex import quote

from streamlit.delta_generator import DeltaGenerator

from dmcore.ui.claims_views import claims_view
from dmcore.ui.missing import draw_missing
from dmcore.ui.selection import Selection

View = Callable[[Selection, DeltaGenerator], None]
"""Draws a view of the selected SAE; its finding goes to the container."""


def controls_view(selection: Selection, top: DeltaGenerator) -> None:
    """Every control: what it should be, what it is, and whether it passed."""
    del top
    command = f"controls {selection.published.file} {quote(selection.record['sae'])}"
    draw_missing("The controls of this SAE have", command)


VIEWS: dict[str, tuple[str, View]] = {
    "controls": ("Controls", controls_view),
    "claims": ("Claims", claims_view),
}
"""Title and view, by the name in the link."""
