"""The views of the page Nonlinear error: each reads what it shows of the selected SAE, or says what makes it."""

from __future__ import annotations

from collections.abc import Callable
from shlex import quote

import polars as pl
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dmcore.results import Parts
from dmcore.ui import reads
from dmcore.ui.detection_panel import draw_told
from dmcore.ui.feature_browser import draw_features
from dmcore.ui.learned_panel import draw_learned
from dmcore.ui.look_job import draw_look_button
from dmcore.ui.missing import draw_missing
from dmcore.ui.parts_panel import draw_parts
from dmcore.ui.sections import finding
from dmcore.ui.selection import Selection, option, select
from dmcore.ui.structure_panel import draw_structure
from dmcore.words.features import features_finding
from dmcore.words.learned import learned_finding
from dmcore.words.names import plain
from dmcore.words.parts import NAMES, parts_finding
from dmcore.words.structure import structure_finding

View = Callable[[Selection, Parts | None, DeltaGenerator], None]
"""Draws a view of the selected SAE, given the SAEs on its parts, if there are any; its finding goes to the container."""


def parts_view(selection: Selection, parts: Parts | None, top: DeltaGenerator) -> None:
    """SAEs on the parts."""
    if parts is None:
        draw_no_parts(selection)
        return
    with top:
        finding(parts_finding(parts))
    draw_parts(selection, parts)


def learned_view(selection: Selection, parts: Parts | None, top: DeltaGenerator) -> None:
    """Which latents of SAEs on the parts a wider SAE has."""
    if parts is None:
        draw_no_parts(selection)
        return
    learned = reads.learned(selection.study_id, selection.record["summary_key"], parts.folder.name)
    if learned is None:
        draw_missing("The latents of the SAEs on the parts have", f"sweep {selection.published.file}")
        return
    with top:
        finding(learned_finding(learned))
    draw_learned(learned, (learned.key,))


def features_view(selection: Selection, parts: Parts | None, top: DeltaGenerator) -> None:
    """The features of the selected SAE, or of one on a part of its error."""
    names = {"own": "The selected SAE"}
    entries: dict[str, str | None] = {"own": None}
    if parts is not None:
        for row, entry in zip(parts["saes"].to_dicts(), parts.about["entries"], strict=True):
            which = f"{row['part']}.{row['seed']}"
            names[which], entries[which] = f"SAE on {NAMES[row['part']]}, seed {row['seed']}", entry
    whose = option("whose", "Features of", list(names), list(names.values()), "own", kind=st.selectbox)
    key = selection.record["summary_key"]
    features = reads.features(selection.study_id, key, entries[whose])
    if features is None:
        part, _, seed = whose.partition(".")
        named = quote(selection.record["sae"]) if whose == "own" else f"--part {part} --seed {seed}"
        draw_missing("The features of this SAE have", f"features {selection.published.file} {named}")
        if whose == "own" or seed == str(parts.about["seeds"][0] if parts else ""):
            sae = selection.record["sae"]
            draw_look_button(selection.study_id, sae, lambda found: found.features(key, entries[whose]) is not None)
        return
    with top:
        finding(features_finding(features))
    told = [one for one in reads.detections(selection.study_id, key) if one.about["part"] == entries[whose]]
    draw_features(features, (features.folder.name,), told, "x" if whose == "own" else whose.partition(".")[0])


def structure_view(selection: Selection, parts: Parts | None, top: DeltaGenerator) -> None:
    """The structure of the selected SAE's error."""
    del parts
    key = selection.record["summary_key"]
    structure = reads.structure(selection.study_id, key)
    if structure is None:
        command = f"structure {selection.published.file} {quote(selection.record['sae'])}"
        draw_missing("The directions and clusters of this SAE's error have", command)
        draw_look_button(selection.study_id, selection.record["sae"], lambda found: found.structure(key) is not None)
        return
    with top:
        finding(structure_finding(structure))
    draw_structure(structure, (structure.folder.name,), reads.features(selection.study_id, key, None))


def draw_no_parts(selection: Selection) -> None:
    """Say that this SAE has no SAEs on the parts of its error, and lead to those that have."""
    st.info(
        "No SAEs have been trained on the parts of this SAE's error: add a [parts] table with this SAE as its base to the "
        "study, run `python -m dmcore train-saes --parts` on it, and sweep it again.",
        icon=":material/inbox:",
    )
    for key in reads.bases(selection.study_id):
        record = selection.published.records.row(by_predicate=pl.col("summary_key") == key, named=True)
        st.button(
            f"Show those of {plain(record['sae'])}", key=f"base.{key}", icon=":material/arrow_forward:",
            on_click=select, args=(selection.study_id, record),
        )  # fmt: skip


VIEWS: dict[str, tuple[str, View]] = {
    "parts": ("SAEs on the parts", parts_view),
    "features": ("Features", features_view),
    "learned": ("Not yet learned?", learned_view),
    "structure": ("Structure of the error", structure_view),
    "detection": ("Detection scores", draw_told),
}
"""Title and view, by the name in the link."""
