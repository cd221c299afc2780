"""Nonlinear error: what SAEs find in the parts of the error, and the features of any SAE."""

from __future__ import annotations

from shlex import quote

import streamlit as st

from dmcore.results import Parts, Structure
from dmcore.ui import reads
from dmcore.ui.detection_panel import draw_told
from dmcore.ui.feature_browser import draw_features
from dmcore.ui.glossary import glossary
from dmcore.ui.learned_panel import draw_learned, learned_finding
from dmcore.ui.look_job import draw_look_button
from dmcore.ui.missing import draw_missing
from dmcore.ui.page import page
from dmcore.ui.parts_panel import NAMES, draw_parts, parts_finding
from dmcore.ui.sections import finding
from dmcore.ui.selection import Selection, option
from dmcore.ui.structure_panel import draw_structure, structure_finding

OWN = ("look", "whose", "sort", "latent", "clusters", "cluster", "scorer", "told")
LOOKS = {
    "parts": "SAEs on the parts",
    "features": "Features",
    "learned": "Not yet learned?",
    "structure": "Structure of the error",
    "detection": "Telling latents",
}


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
        part, _, seed = whose.partition(".")
        named = quote(selection.record["sae"]) if whose == "own" else f"--part {part} --seed {seed}"
        draw_missing("The features of this SAE have", f"features {selection.published.file} {named}")
        draw_look_button(selection.study_id, selection.record["sae"])
    else:
        scores = reads.detections(selection.study_id, selection.record["summary_key"])
        told = [one for one in scores if one.about["part"] == entries[whose]]
        draw_features(features, (features.folder.name,), told)


def draw_error(selection: Selection, structure: Structure | None) -> None:
    """The structure of the selected SAE's error."""
    if structure is None:
        command = f"structure {selection.published.file} {quote(selection.record['sae'])}"
        draw_missing("The directions and clusters of this SAE's error have", command)
        draw_look_button(selection.study_id, selection.record["sae"])
        return
    features = reads.features(selection.study_id, selection.record["summary_key"], None)
    draw_structure(structure, (structure.folder.name,), features)


def main() -> None:
    with page("What lives in the nonlinear error?", OWN) as selection:
        if selection is None:
            return
        parts = reads.parts(selection.study_id, selection.record["summary_key"])
        top = st.container()  # what was found depends on the view, which is chosen below
        glossary("linear error", "nonlinear error", "FVU", "L0", "interval")
        look = option("look", "What to look at", list(LOOKS), list(LOOKS.values()), "parts" if parts else "features",
                      kind=st.segmented_control, label_visibility="collapsed")  # fmt: skip
        structure = (
            reads.structure(selection.study_id, selection.record["summary_key"]) if look == "structure" else None
        )
        summary_key = selection.record["summary_key"]
        learned = (
            reads.learned(selection.study_id, summary_key, parts.folder.name) if parts and look == "learned" else None
        )
        with top:
            if learned is not None:
                finding(learned_finding(learned))
            elif structure is not None:
                finding(structure_finding(structure))
            elif parts is not None and look not in {"structure", "detection"}:
                finding(parts_finding(parts))
        if look == "features":
            draw_browser(selection, parts)
        elif look == "structure":
            draw_error(selection, structure)
        elif look == "detection":
            draw_told(selection, parts, top)
        elif learned is not None:
            draw_learned(learned, (learned.key,))
        elif parts is not None and look == "learned":
            draw_missing("Which latents are known already has", f"sweep {selection.published.file}")
        elif parts is not None:
            draw_parts(selection, parts)
        else:
            st.info(
                "No SAEs have been trained on the parts of this SAE's error: add a [parts] table with this SAE as its base "
                "to the study, run `python -m dmcore train-saes --parts` on it, and sweep it again.",
                icon=":material/inbox:",
            )


main()
