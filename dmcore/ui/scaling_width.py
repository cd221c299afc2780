"""The view *Width* of the Scaling page: the error budget continued past the widest SAE, and the laws behind it."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dmcore.charts.extrapolation import budget_chart, budget_table
from dmcore.charts.laws import LAW_NAMES, law_chart, law_table
from dmcore.results import Scaling, over_widths
from dmcore.ui import reads
from dmcore.ui.figure import Figure, draw
from dmcore.ui.sections import sample_words
from dmcore.ui.selection import Selection, option
from dmcore.words.laws import (
    FORMULAS,
    METRIC_OPTIONS,
    SPACES,
    aic_text,
    few_points,
    hollow_words,
    left_out_text,
    scatter_span,
)
from dmcore.words.names import architecture_name, l0_text, plain
from dmcore.words.scaling import (
    constancy_sentence,
    floor_note,
    l0_note,
    parameter,
    remarks_of,
    row_of,
    too_far,
)
from dmcore.words.streams import site_phrase

PURSUIT = "gradient_pursuit"
ENCODER_WORDS = (
    "Encoder error: what gradient pursuit takes off the nonlinear FVU with the same dictionary at the same L0 (*Error "
    "reduction*), so what another encoder could avoid; beyond the widths that it was run on its share is held."
)


def draw_width(selection: Selection, scaling: Scaling, chosen: int) -> None:
    """Draw the view; `chosen` is the set of the selected SAE."""
    record = selection.record
    points = over_widths(selection.published.records, record)
    members = scaling.members(chosen)
    if too_far(members, record["l0"]):
        st.info(
            f"No other width has an SAE near L0 {l0_text(record['l0'])}: {l0_note(members, record['l0'])} Choose another L0 "
            "in the sidebar, or add SAEs to the study.",
            icon=":material/straighten:",
        )
        return
    here = pl.col("set") == chosen
    curves, laws = scaling["curves"].filter(here), scaling["laws"].filter(here)
    what = f"{plain(architecture_name(points['label'][0]))} SAEs on {site_phrase(record)}"
    draw_budget(selection, points, curves, laws, what, l0_note(members, record["l0"]))
    st.markdown(f"{floor_note(points, laws)}\n\n{constancy_sentence(scaling, chosen)}")
    remarks = remarks_of(scaling, chosen, ("law", "l0"))
    if remarks:
        st.info("\n\n".join(map(plain, remarks)), icon=":material/info:")
    if len(laws):
        draw_laws(selection, points, curves, laws)


def draw_budget(
    selection: Selection, points: pl.DataFrame, curves: pl.DataFrame, laws: pl.DataFrame, what: str, l0s: str
) -> None:
    record = selection.record
    extrapolated = (
        "Right of the line the areas follow the fitted laws c + a·W⁻ᵐ; dashed: their 95 % intervals, the wider of what the "
        "choice of texts and the SAEs' scatter about the law leave open (long dashes: FVU, short: nonlinear FVU). Absent "
        "features: what the law of FVU says that width would still remove, down to its floor c or to the nonlinear error, "
        "whichever comes first. Linear error: from there down to nonlinear FVU = Σ|e − ê|² / Σ|x − mean x|²."
        if len(laws)
        else "Linear error: between FVU = Σ|e|² / Σ|x − mean x|² and nonlinear FVU = Σ|e − ê|² / Σ|x − mean x|². "
        "Without a fitted "
        "law nothing is said of wider dictionaries or of absent features."
    )
    floor = encoder_floor(selection.study_id, points)
    draw(
        Figure(
            name="error_budget_extrapolated",
            key=(record["summary_key"], *points["summary_key"], *(() if floor is None else floor["fvu"])),
            question=_question(len(points), len(laws)),
            caption=f"{what}. {l0s} {extrapolated} {'' if floor is None else ENCODER_WORDS} {sample_words(record)}",
            chart=lambda: budget_chart(points, curves, laws, record["sae"], floor),
            data=lambda: budget_table(points, curves, laws, floor),
        )
    )


def encoder_floor(study_id: str, points: pl.DataFrame) -> pl.DataFrame | None:
    """`d_sae`, `fvu`: nonlinear FVU of pursuit codes by width, where it is known; None where it is of no SAE.

    The share that pursuit removes, which is paired on the contexts that it ran on, is taken off the nonlinear FVU of all.
    """
    rows = []
    for point in points.to_dicts():
        found = reads.reduction(study_id, point["summary_key"])
        pursuit = None if found is None else found["methods"].filter(pl.col("method") == PURSUIT)
        removed = None if pursuit is None or pursuit.is_empty() else pursuit["nonlinear_removed"][0]
        if removed is not None:
            rows.append({"d_sae": point["d_sae"], "fvu": point["fvu_nonlinear"] * (1 - removed)})
    return pl.DataFrame(rows) if rows else None


def _question(n_widths: int, n_laws: int) -> str:
    if n_laws:
        return "What would a still wider dictionary leave?"
    return "What does width leave?" if n_widths > 1 else "What is the error made of?"


def draw_laws(selection: Selection, points: pl.DataFrame, curves: pl.DataFrame, laws: pl.DataFrame) -> None:
    record = selection.record
    st.subheader("Which law does the error follow?", anchor=False)
    left, right = st.columns(2)
    with left:
        metric = option("metric", "Law of", list(METRIC_OPTIONS), list(METRIC_OPTIONS.values()), "fvu", horizontal=True)
    with right:
        space = option("space", "Least squares", list(SPACES), list(SPACES.values()), "log", horizontal=True)
    fitted = laws.filter((pl.col("metric") == metric) & (pl.col("space") == space))
    if not len(fitted):
        st.info("No law could be fitted to these values.", icon=":material/inbox:")
        return
    power = row_of(fitted, law="power")
    if power is not None:
        st.markdown(few_points(power))
    draw(
        Figure(
            name=f"law_{metric}_{space}",
            key=(record["summary_key"], *points["summary_key"], metric, space),
            question="Which law does the error follow?",
            caption=f"Points: measured {METRIC_OPTIONS[metric]}, bars 95 % over contexts. Solid: c + a·W⁻ᵐ, W in latents; dark "
            "band: how the law moves with the texts, light band: how far the SAEs' own scatter leaves it open (95 %). Dashed: "
            "the floor c, with the interval of that scatter. "
            f"{hollow_words(fitted)} {sample_words(record)}",
            chart=lambda: law_chart(points, curves, laws, record["sae"], metric, space),
            data=lambda: law_table(points, curves, laws, metric, space),
        ),
        level=0,
    )
    draw_law_rows(fitted)


def draw_law_rows(fitted: pl.DataFrame) -> None:
    """The laws as a table: parameters, how well each fits, and what it says of the widest SAE without it."""
    best = fitted["aic"].min()
    lines = [
        "| Law | c | a | m | ΔAIC | Widest SAE, left out |",
        "|---|---|---|---|---|---|",
    ]
    for row in fitted.sort("aic").to_dicts():
        name = f"{LAW_NAMES[row['law']]}: {FORMULAS[row['law']]}"
        m = parameter(row, "m")
        if row["law"] == "exponential" and m:
            m = f"w₀ {m}"
        cells = [name, parameter(row, "c"), parameter(row, "a"), m, aic_text(row["aic"], best), left_out_text(row)]
        lines.append("| " + " | ".join(cells) + " |")
        if row["m_scatter_low"] is not None and row["law"] == "power":
            lines.append(f"| *the same, by scatter* | {' | '.join(scatter_span(row, name) for name in 'cam')} | | |")
    st.markdown("\n".join(lines))
    n = fitted["n_widths"][0]
    st.caption(
        "In brackets: 95 % over contexts, which is how the choice of texts moves the fit. By scatter: 95 % by how far the SAEs "
        "lie from the law, the larger doubt as a rule. ΔAIC: Akaike's criterion (n·log of the mean squared "
        "residual, plus 2 for "
        f"each parameter) less that of the best law; with {n} points it ranks the laws and refutes none. Last column: the law "
        "fitted without the widest SAE, its prediction over what was measured, less 1."
    )
