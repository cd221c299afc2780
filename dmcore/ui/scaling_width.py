"""The view *Width* of the Scaling page: the error budget continued past the widest SAE, and the laws behind it."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dmcore.charts.extrapolation import budget_chart, budget_table
from dmcore.charts.laws import LAW_NAMES, law_chart, law_table
from dmcore.results import Scaling, over_widths
from dmcore.ui.figure import Figure, draw
from dmcore.ui.scaling_words import constancy_sentence, l0_note, parameter, remarks_of, row_of, too_far
from dmcore.ui.sections import sample_words
from dmcore.ui.selection import Selection, option
from dmcore.ui.streams import site_phrase
from dmcore.ui.words import architecture_name, l0_text, plain

METRIC_OPTIONS = {"fvu": "FVU", "fvu_nonlinear": "Nonlinear FVU"}
SPACES = {"log": "of log FVU", "linear": "of FVU"}
FORMULAS = {
    "power": "c + a·W⁻ᵐ",
    "power_zero": "a·W⁻ᵐ",
    "exponential": "c + a·exp(−W/w₀)",
    "constant": "c",
}


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
    st.markdown(constancy_sentence(scaling, chosen))
    for text in remarks_of(scaling, chosen, ("law", "l0")):
        st.info(plain(text), icon=":material/info:")
    if len(laws):
        draw_laws(selection, points, curves, laws)


def draw_budget(
    selection: Selection, points: pl.DataFrame, curves: pl.DataFrame, laws: pl.DataFrame, what: str, l0s: str
) -> None:
    record = selection.record
    extrapolated = (
        "Right of the line the areas follow the fitted laws c + a·W⁻ᵐ; dashed: 95 % interval over contexts of those laws. "
        "Absent features: what the law of FVU says that width would still remove, down to its floor c or to the nonlinear "
        "error, whichever comes first."
        if len(laws)
        else ""
    )
    draw(
        Figure(
            name="error_budget_extrapolated",
            key=(record["summary_key"], *points["summary_key"]),
            question="What would a still wider dictionary leave?",
            caption=f"{what}. {l0s} {extrapolated} {sample_words(record)}",
            chart=lambda: budget_chart(points, curves, laws, record["sae"]),
            data=lambda: budget_table(points, curves, laws),
        )
    )


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
    draw(
        Figure(
            name=f"law_{metric}_{space}",
            key=(record["summary_key"], *points["summary_key"], metric, space),
            question="",
            caption=f"Points: measured {METRIC_OPTIONS[metric]}, bars 95 % over contexts. Solid: c + a·W⁻ᵐ, W in latents; dark "
            "band: how the law moves with the texts, light band: how far the SAEs' own scatter leaves it open (95 %). Hollow: "
            f"what each law says of the widest SAE when fitted without it. {sample_words(record)}",
            chart=lambda: law_chart(points, curves, laws, record["sae"], metric, space),
            data=lambda: law_table(points, curves, laws, metric, space),
        )
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
        cells = [name, parameter(row, "c"), parameter(row, "a"), m]
        cells += ["" if row["aic"] is None or best is None else f"{row['aic'] - best:+.1f}", left_out_text(row)]
        lines.append("| " + " | ".join(cells) + " |")
    st.markdown("\n".join(lines))
    power = row_of(fitted, law="power")
    scatter = ""
    if power is not None and power["m_scatter_low"] is not None:
        spans = (f"{name} {_span(power, name)}" for name in ("c", "a", "m"))
        scatter = (
            " By the scatter of the SAEs about the law with a floor, which is often the larger doubt, 95 % intervals are: "
            f"{', '.join(spans)}."
        )
    st.caption(
        "Intervals in the table: 95 % over contexts. ΔAIC: difference of Akaike's criterion to the best law; above 2 a law is "
        f"doubtful, above 10 refuted, though with {fitted['n_widths'][0]} widths little can be told apart. Last column: the "
        f"law fitted without the widest SAE, its prediction over what was measured.{scatter}"
    )


def _span(row: dict[str, object], name: str) -> str:
    low, high = row[f"{name}_scatter_low"], row[f"{name}_scatter_high"]
    return "unknown" if low is None or high is None else f"{low:.3g} to {high:.3g}"


def left_out_text(row: dict[str, float | None]) -> str:
    """`+3.1 %`: how far a law's prediction of the widest SAE is from what was measured."""
    predicted, actual = row["left_out"], row["left_out_actual"]
    if predicted is None or not actual:
        return ""
    return f"{100 * (predicted / actual - 1):+.1f} %"
