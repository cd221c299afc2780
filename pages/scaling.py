"""Scaling: what wider, sparser and deeper dictionaries still miss."""

from __future__ import annotations

import streamlit as st

from dmcore.results import Scaling, over_widths
from dmcore.ui.glossary import glossary
from dmcore.ui.norms_panel import draw_norms
from dmcore.ui.page import page
from dmcore.ui.scaling_depth import draw_depth
from dmcore.ui.scaling_grid import draw_plane, draw_sparsity
from dmcore.ui.scaling_width import draw_width
from dmcore.ui.sections import finding
from dmcore.ui.selection import Selection, option
from dmcore.ui.token_panel import draw_tokens
from dmcore.words.scaling import floor_finding, tokens_finding, width_finding

OWN = ("view", "metric", "space", "surface", "over", "value", "of", "by", "context", "token")
VIEWS = {
    "width": ("Width", ":material/open_in_full:"),
    "plane": ("Width × L0", ":material/grid_on:"),
    "depth": ("Depth", ":material/layers:"),
    "sparsity": ("Sparsity", ":material/grain:"),
    "tokens": ("Tokens", ":material/abc:"),
    "norms": ("Norms", ":material/straighten:"),
}


COMMON = ("FVU", "nonlinear FVU", "L0", "interval")
WORDS = {
    "width": ("linear error", "nonlinear error", "power law", "floor", "absent features", "scatter", "AIC"),
    "plane": ("power law", "floor", "AIC"),
    "depth": ("R²", "power law"),
    "sparsity": ("R²", "linear error"),
    "tokens": ("R²", "Spearman", "linear error", "nonlinear error", "held out by context"),
    "norms": ("R²", "probe", "linear error", "nonlinear error", "held out by context"),
}
"""Terms that each view explains, besides those of all views."""


def draw_view(selection: Selection, scaling: Scaling, chosen: int) -> None:
    """One of the page's views: drawing all of them would make every slider wait for charts far below."""
    words = st.container()
    texts = [f"{icon} {name}" for name, icon in VIEWS.values()]
    view = option("view", "What to look at", list(VIEWS), texts, "width", kind=st.segmented_control,
                  label_visibility="collapsed")  # fmt: skip
    with words:
        glossary(*COMMON, *WORDS[view])
    if view == "width":
        draw_width(selection, scaling, chosen)
    elif view == "plane":
        draw_plane(selection, scaling)
    elif view == "depth":
        draw_depth(selection)
    elif view == "sparsity":
        draw_sparsity(selection)
    elif view == "tokens":
        draw_tokens(selection, scaling, chosen)
    else:
        draw_norms(selection, scaling)


def draw_methods(selection: Selection) -> None:
    record = selection.record
    with st.expander("Methods and caveats", icon=":material/science:"):
        st.markdown(
            f"""
- **Laws** are fitted by least squares of log FVU (or of FVU, as chosen) from many starts, with c ≥ 0, a ≥ 0 and m > 0; the same
  numbers come out each time. They are descriptions of few points: at least 4, of which the law with a floor uses up 3. How
  far the points' scatter leaves c, a and m open is given beside what the choice of texts does, and is the larger doubt.
- **Absent features** are so called by the law: what it says that width would remove. Where its floor c is below the nonlinear
  error nothing is left between them, and no linear error is drawn.
- **A width is one trained SAE.** How another seed of its training would move it is not known here.
- **L0** is measured; at each width the SAE with the nearest L0 is taken, and how far it is stands in the caption.
- **Per token**: |e| of one SAE is predicted from that of another by a straight line, fitted on the other folds of contexts.
- **Intervals** are 95 %, Poisson bootstrap over contexts, with the fitted lines and the means held fixed, seed {record["seed"]}.
- **Contexts to look at** are at most 64 at each site: those with the worst tokens first, the others at equal steps.
"""
        )


def main() -> None:
    with page("What do wider dictionaries still miss?", OWN) as selection:
        if selection is None:
            return
        scaling = selection.scaling
        chosen = scaling.set_of(selection.record["summary_key"])
        record = selection.record
        label = over_widths(selection.published.records, record)["label"][0]
        finding(
            width_finding(scaling, chosen, record, label),
            floor_finding(scaling, chosen, record["l0"]),
            tokens_finding(scaling, chosen, record["l0"]),
        )
        draw_view(selection, scaling, chosen)
        draw_methods(selection)


main()
