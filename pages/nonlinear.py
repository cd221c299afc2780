"""Nonlinear error: what SAEs find in the parts of the error, and the features of any SAE."""

from __future__ import annotations

import streamlit as st

from dmcore.results import Parts
from dmcore.ui import reads
from dmcore.ui.feature_browser import draw_features
from dmcore.ui.glossary import glossary
from dmcore.ui.page import page
from dmcore.ui.parts_panel import NAMES, draw_parts, parts_finding
from dmcore.ui.sections import finding
from dmcore.ui.selection import Selection, option

OWN = ("look", "whose", "sort", "latent")
LOOKS = {"parts": "SAEs on the parts", "features": "Features"}


def draw_browser(selection: Selection, parts: Parts | None) -> None:
    """The features of the selected SAE, or of one on a part of its error."""
    names = {"own": "The selected SAE"}
    entries: dict[str, str | None] = {"own": None}
    if parts is not None:
        for row, entry in zip(parts["saes"].to_dicts(), parts.about["entries"], strict=True):
            which = f"{row['part']}.{row['seed']}"
            names[which], entries[which] = f"SAE on {NAMES[row['part']]}, seed {row['seed']}", entry
    whose = option("whose", "Features of", list(names), list(names.values()), "own", kind=st.selectbox)
    features = reads.features(selection.study_id, selection.record["summary_key"], entries[whose])
    if features is None:
        st.info("The features of this SAE have not been made yet.", icon=":material/inbox:")
    else:
        draw_features(features, (features.folder.name,))


def main() -> None:
    with page("What lives in the nonlinear error?", OWN) as selection:
        if selection is None:
            return
        parts = reads.parts(selection.study_id, selection.record["summary_key"])
        if parts is not None:
            finding(parts_finding(parts))
        glossary("linear error", "nonlinear error", "FVU", "L0", "interval")
        look = option("look", "What to look at", list(LOOKS), list(LOOKS.values()), "parts" if parts else "features",
                      kind=st.segmented_control, label_visibility="collapsed")  # fmt: skip
        if look == "features":
            draw_browser(selection, parts)
        elif parts is not None:
            draw_parts(selection, parts)
        else:
            st.info(
                "No SAEs have been trained on the parts of this SAE's error: add a [parts] table with this SAE as its base "
                "to the study, run `python -m dmcore train-saes --parts` on it, and sweep it again.",
                icon=":material/inbox:",
            )


main()
