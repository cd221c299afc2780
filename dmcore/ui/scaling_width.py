"""The view *Width* of the Scaling page: the error budget continued past the widest SAE, and the laws behind it."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dmcore.charts.laws import LAW_NAMES
from dmcore.figures.width import extrapolated_figure, law_figure
from dmcore.results import Scaling, over_widths
from dmcore.ui.figure import draw
from dmcore.ui.selection import Selection, option
from dmcore.words.laws import (
    FORMULAS,
    METRIC_OPTIONS,
    SPACES,
    aic_text,
    few_points,
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
    draw(extrapolated_figure(selection, points, curves, laws, what, l0s))


def draw_laws(selection: Selection, points: pl.DataFrame, curves: pl.DataFrame, laws: pl.DataFrame) -> None:
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
        law_figure(selection, points, curves, laws, metric, space),
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
