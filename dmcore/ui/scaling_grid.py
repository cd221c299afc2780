"""The views *Width × L0* and *Sparsity* of the Scaling page: one site's SAEs over both axes, and over L0 alone."""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from dmcore.figures.grid import PLANE, sparsity_figure, sparsity_question, surface_figure
from dmcore.results import Scaling
from dmcore.ui.figure import Pick, draw
from dmcore.ui.scaling_metrics import choose_metric
from dmcore.ui.selection import Selection, select
from dmcore.words.grid import equal_l0_lines, joint_sentence, shrinkage_note
from dmcore.words.metrics import SURFACE_OPTIONS
from dmcore.words.names import architecture_name, plain
from dmcore.words.paired import equal_l0_ratios
from dmcore.words.scaling import row_of


def draw_plane(selection: Selection, scaling: Scaling) -> None:
    """A metric over width and L0."""
    record = selection.record
    st.subheader(PLANE, anchor=False)
    site = selection.published.records.filter(site=record["site"])
    labels = set(scaling["surfaces"]["label"])
    label = record["label"] if record["label"] in labels or not labels else sorted(labels)[0]
    points = site.filter(label=label)
    cells = scaling["surfaces"].filter(label=label)
    if not len(cells):
        texts = scaling["remarks"].filter(topic="surface", label=label)["text"].to_list()
        texts.append(
            "Add SAEs at other widths and L0s of this site to the study, on Catalogue or in its file, and start it on Runs."
        )
        st.info(plain(" ".join(texts)), icon=":material/info:")
        return
    metric = choose_metric("surface")

    def pick(name: Any) -> None:
        rows = points.filter(pl.col("sae") == str(name))
        if len(rows):
            select(selection.study_id, rows.row(0, named=True))

    draw(
        surface_figure(selection, scaling, label, metric),
        level=0,
        pick=Pick("pick", "sae", pick),
    )
    joint = row_of(scaling["joint"], label=label, metric=metric)
    if joint is not None and joint["c"] is not None:
        st.markdown(joint_sentence(joint, SURFACE_OPTIONS[metric]))


def draw_sparsity(selection: Selection) -> None:
    """A metric over L0 at one width, a line an architecture, and the architectures at equal L0."""
    record = selection.record
    here = selection.published.records.filter(site=record["site"], d_sae=record["d_sae"])
    several = here["label"].n_unique() > 1
    st.subheader(sparsity_question(here), anchor=False)
    metric = choose_metric("over")
    draw(
        sparsity_figure(selection, here, metric),
        level=0,
    )
    if not several:
        n = "one SAE" if len(here) == 1 else f"SAEs of one architecture, {plain(architecture_name(here['label'][0]))},"
        st.caption(
            f":material/info: At this width and site the study has {n} so there is none to compare it with: add "
            "others on Catalogue."
        )
        return
    rows = equal_l0_ratios(selection, here, metric)
    st.markdown("\n".join(equal_l0_lines(rows, SURFACE_OPTIONS[metric])))
    st.caption(
        "Each SAE over the reference architecture at the same L0, interpolated between its two neighbouring SAEs on log axes; "
        "95 % paired intervals over contexts. Below 1: less than the reference. One trained SAE each: another seed may differ."
        f"{shrinkage_note(selection, here)}"
    )
