"""The views *Width × L0* and *Sparsity* of the Scaling page: one site's SAEs over both axes, and over L0 alone."""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from dmcore.charts.numbers import compact
from dmcore.charts.sparsity import sparsity_chart, sparsity_table
from dmcore.charts.surface import surface_chart, surface_table
from dmcore.results import Scaling
from dmcore.ui.figure import Figure, Pick, draw
from dmcore.ui.scaling_metrics import FORMULAS, SURFACE_OPTIONS, choose_metric
from dmcore.ui.sections import sample_words
from dmcore.ui.selection import Selection, select
from dmcore.words.grid import equal_l0_lines, joint_sentence, shrinkage_note
from dmcore.words.names import architecture_name, plain
from dmcore.words.paired import equal_l0_ratios
from dmcore.words.scaling import row_of
from dmcore.words.streams import site_phrase


def draw_plane(selection: Selection, scaling: Scaling) -> None:
    """A metric over width and L0."""
    record = selection.record
    question = "What do width and sparsity do together?"
    st.subheader(question, anchor=False)
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
    lines = scaling["isolines"].filter(label=label)
    other = "" if label == record["label"] else f" The selected SAE is {plain(architecture_name(record['label']))}."

    def pick(name: Any) -> None:
        rows = points.filter(pl.col("sae") == str(name))
        if len(rows):
            select(selection.study_id, rows.row(0, named=True))

    draw(
        Figure(
            name=f"surface_{metric}",
            key=(record["summary_key"], str(scaling.folder.name), metric, label),
            question=question,
            caption=f"{plain(architecture_name(label))} SAEs on {site_phrase(record)}.{other} {FORMULAS[metric]} Circles: "
            f"measured SAEs; between them values are interpolated linearly over triangles in log width and log L0; nothing "
            "is drawn outside their hull. Lines: equal values. Click on a circle, or near it, to choose that SAE "
            f"on every page. {sample_words(record)}",
            chart=lambda: surface_chart(
                cells.filter(metric=metric), lines.filter(metric=metric), points, record["sae"], metric
            ),
            data=lambda: surface_table(points, metric),
        ),
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
    question = (
        "Which architecture leaves less error at equal L0?" if several else "What does sparsity do at this width?"
    )
    st.subheader(question, anchor=False)
    named = here.with_columns(pl.col("label").map_elements(architecture_name, return_dtype=pl.String))
    metric = choose_metric("over")
    draw(
        Figure(
            name=f"sparsity_{metric}",
            key=(record["summary_key"], *here["summary_key"], metric),
            question=question,
            caption=f"SAEs with {compact(record['d_sae'])} latents on {site_phrase(record)}. {FORMULAS[metric]} L0 is "
            f"measured on the same tokens. Bars: 95 % intervals over contexts. {sample_words(record)}",
            chart=lambda: sparsity_chart(named, metric, record["sae"]),
            data=lambda: sparsity_table(named, metric),
        ),
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
