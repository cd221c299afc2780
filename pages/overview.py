"""Overview: how much of an activation an SAE misses, how much of that is linear, and what a wider one leaves."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dmcore.charts.numbers import number
from dmcore.figures.overview import budget_figure, schematic_figure
from dmcore.results import over_widths
from dmcore.ui.controls_panel import draw_controls_line
from dmcore.ui.figure import draw
from dmcore.ui.glossary import glossary
from dmcore.ui.page import page
from dmcore.ui.report_button import draw_report_buttons
from dmcore.ui.sae_table import draw_sae_table
from dmcore.ui.sections import cards, finding, sample_words
from dmcore.ui.selection import Selection
from dmcore.words.names import plain
from dmcore.words.overview import linear_sentence, width_sentence
from dmcore.words.paper import SUBJECTS, marks_sentence, paper_rows


def draw_findings(selection: Selection, rows: pl.DataFrame) -> None:
    finding(linear_sentence(selection.record), width_sentence(selection, rows))


def draw_explanation(selection: Selection) -> None:
    words, picture = st.columns([2, 3], gap="large", vertical_alignment="center")
    words.markdown(
        "A sparse autoencoder (SAE) rewrites a language model's activation *x* as a sparse sum of features, *Sae(x)*. "
        "What it misses, *x − Sae(x)*, is its **dark matter**. Part of that error is predictable by a linear map of *x*, "
        "and part is not: the nonlinear part is what wider dictionaries have trouble removing."
    )
    with picture:
        draw(schematic_figure(selection))


def draw_budget(selection: Selection, rows: pl.DataFrame) -> None:
    draw(budget_figure(selection, rows))
    if rows.height == 1:
        st.caption(
            ":material/info: This study has no other width here. Add SAEs of other widths to the study, and sweep it again."
        )


def draw_paper(selection: Selection, rows: pl.DataFrame) -> None:
    st.subheader("What does the paper say, and what does this study say?", anchor=False)
    lines = ["| | The paper says | This SAE says |", "|---|---|---|"]
    lines += [f"| {quantity} | {says} | **{ours}** |" for quantity, says, ours in paper_rows(selection, rows)]
    st.markdown("\n".join(lines))
    st.caption(f"{marks_sentence()} Its subjects are {SUBJECTS}; ours: {plain(selection.published.title)}.")


def draw_methods(selection: Selection) -> None:
    record = selection.record
    with st.expander("Methods and caveats", icon=":material/science:"):
        st.markdown(
            f"""
- **Split.** The linear error is a least-squares prediction of x − Sae(x) from x (ridge {record["ridge"]:g},
  {"with" if record["fit_bias"] else "without"} bias). {sample_words(record)} The nonlinear error is
  the rest, so the two parts add up to the error of every token.
- **Intervals** are 95 %, from a bootstrap over contexts; ratios of two SAEs use the same draws for both. They say how the
  numbers vary with the text, not with the training of the SAE.
- **Linear error is not one thing.** It holds features that the dictionary lacks, and undone shrinkage: predicting the error by
  one number times x has R² {number(record["shrinkage"])} here. The nonlinear error still holds whatever better encoding would
  recover.
- **L0** is measured on the same tokens, and SAEs are compared at the nearest L0 that exists, which is not always the same.
- **Results** computed {record["computed"][:16].replace("T", " ")} UTC, seed {record["seed"]}. This page
  reads them; it runs no model.
"""
        )


def main() -> None:
    with page("What does a sparse autoencoder miss?") as selection:
        if selection is None:
            return
        rows = over_widths(selection.published.records, selection.record)
        draw_findings(selection, rows)
        draw_explanation(selection)
        glossary(
            "SAE", "dark matter", "FVU", "nonlinear FVU", "linear error", "L0", "R²", "held out by context", "interval"
        )
        draw_budget(selection, rows)
        cards(
            selection.record,
            [
                ("FVU", "fvu", "FVU"),
                ("Nonlinear FVU", "fvu_nonlinear", "nonlinear FVU"),
                ("R² of vector, pooled", "r2_error", "pooled, mean over dimensions"),
                ("R² of squared norm", "r2_error_norm_sq", "R²"),
            ],
        )
        draw_controls_line(selection)
        draw_paper(selection, rows)
        st.subheader("Which SAEs does this study have?", anchor=False)
        draw_sae_table(selection)
        st.caption("Click on a row's circle to show that SAE, on a column's name to sort.")
        draw_report_buttons(selection)
        draw_methods(selection)


main()
