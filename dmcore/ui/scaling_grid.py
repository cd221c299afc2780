"""The views *Width × L0* and *Sparsity* of the Scaling page: one site's SAEs over both axes, and over L0 alone."""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from dmcore.charts.numbers import compact, number
from dmcore.charts.sparsity import sparsity_chart, sparsity_table
from dmcore.charts.surface import surface_chart, surface_table
from dmcore.results import Scaling
from dmcore.ui.figure import Figure, Pick, draw
from dmcore.ui.paired import EqualL0, equal_l0_ratios
from dmcore.ui.scaling_metrics import FORMULAS, SURFACE_OPTIONS, choose_metric
from dmcore.ui.scaling_words import parameter, row_of
from dmcore.ui.sections import sample_words
from dmcore.ui.selection import Selection, select
from dmcore.ui.streams import site_phrase
from dmcore.ui.words import architecture_name, l0_text, plain


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


def joint_sentence(joint: dict[str, Any], name: str) -> str:
    """The law of width and L0, and whether it holds."""
    c, a, m, n = (parameter(joint, name) for name in ("c", "a", "m", "n"))
    text = f"One law for all {joint['n_saes']} SAEs, {name} = c + a·W⁻ᵐ·L0⁻ⁿ: c {c}, a {a}, m {m}, n {n} (95 % over contexts)."
    if joint["aic_separate"] is not None:
        difference = joint["aic"] - joint["aic_separate"]
        better = (
            "a law for each L0 describes them better"
            if difference > 0
            else "it describes them better than a law for each L0"
        )
        text += f" By Akaike's criterion {better} (by {abs(difference):,.0f})."
    if joint["left_out_error"] is not None:
        text += f" Fitted without the widest SAEs it misses them by {100 * joint['left_out_error']:.0f} %."
    return text


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


def shrinkage_note(selection: Selection, here: pl.DataFrame) -> str:
    """Why an L1 SAE may have much error and little nonlinear error, where that is so."""
    if "standard" not in set(here["label"]):
        return ""
    ratios = {}
    for metric in ("fvu", "fvu_nonlinear"):
        rows = [
            r.ratio for r in equal_l0_ratios(selection, here, metric) if r.label == "standard" and r.ratio is not None
        ]
        ratios[metric] = [float(ratio) for ratio in rows]
    if not ratios["fvu"] or min(ratios["fvu"]) < 1 or max(ratios["fvu_nonlinear"], default=2.0) > 1:
        return ""
    return (
        " The L1 SAE has more error but less nonlinear error: an L1 penalty shrinks values, and error by "
        "shrinking is linear in x "
        "for the most part."
    )


def equal_l0_lines(rows: list[EqualL0], name: str) -> list[str]:
    """A table in Markdown."""
    lines = [
        f"| Architecture | L0 | {name} | over {plain(architecture_name(rows[0].reference))} at that L0 |",
        "|---|---|---|---|",
    ]
    for row in rows:
        ratio = (
            "outside the reference's L0s"
            if row.ratio is None
            else f"**{number(row.ratio, row.ratio.low, row.ratio.high)}**"
        )
        lines.append(f"| {plain(architecture_name(row.label))} | {l0_text(row.l0)} | {number(*row.value)} | {ratio} |")
    return lines
