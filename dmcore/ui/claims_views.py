"""The view *Claims* of the page Controls: the paper's statements held against the study, and against groups of its SAEs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dmcore.charts.claims import SYMBOLS, claims_chart, claims_table, matrix_chart, matrix_table
from dmcore.results.claim_groups import GROUPINGS
from dmcore.results.claims import LEAST_CONTEXTS, NOT_TESTED
from dmcore.ui import reads
from dmcore.ui.figure import Figure, draw
from dmcore.ui.sections import finding
from dmcore.ui.table import show_table
from dmcore.words.claims import claims_finding, group_names
from dmcore.words.names import listed, plain

if TYPE_CHECKING:
    from dmcore.ui.selection import Selection


def claims_view(selection: Selection, top: DeltaGenerator) -> None:
    """Every statement with its verdict, then the matrix of groups, then what each test is."""
    found = reads.claims(selection.study_id)
    study, groups = found.study, found.groups
    with top:
        finding(plain(claims_finding(study)))
    n_contexts = int(study["n_contexts"][0])
    if n_contexts < LEAST_CONTEXTS:
        st.info(plain(str(study["reason"][0])), icon=":material/inbox:")
        return
    key = (selection.study_id, str(study.hash_rows().sum()), str(groups.hash_rows().sum() if len(groups) else 0))
    draw(
        Figure(
            name="claims",
            key=key,
            question="Which of the paper's statements hold here?",
            caption="A row a statement, on a scale of its own. Grey: the range in which it holds, with its bounds. Bar: the 95 % "
            f"interval over {n_contexts:,} contexts of the mean over the study's SAEs, held out by context. All of it in the "
            "range: holds; all of it outside: fails; else undecided. A mean says nothing of single SAEs: the matrix and the "
            "table below do.",
            chart=lambda: claims_chart(study),
            data=lambda: claims_table(study),
        )
    )
    _draw_missing(study)
    if len(groups):
        _draw_groups(groups, key)
    st.markdown("### What was tested, and how")
    show_table(_shown(study), hide_index=True)
    st.caption(
        "Source: how we know that the paper says so. P: read on a page of or about the paper; C: in its published code; 2: "
        "quoted by someone else. Where the paper gives no bound, the range is ours and says why. The same as text or JSON: "
        f"`python -m dmcore claims {selection.published.file}`."
    )


def _draw_groups(groups: pl.DataFrame, key: tuple[str, ...]) -> None:
    """The matrix of verdicts, and what the groups are."""
    kinds = groups["by"].unique(maintain_order=True).to_list()
    symbols = ", ".join(f"{symbol} {verdict}" for verdict, symbol in SYMBOLS.items())
    said = "; ".join(f"{by}: {GROUPINGS[by]}" for by in kinds)
    draw(
        Figure(
            name="claims_groups",
            key=key,
            question=f"Do they hold for every {listed(kinds)}?",
            caption=f"{symbols}. Each cell is the same test on some SAEs: the mean over them, 95 % interval over contexts. "
            f"{said}. The number is under the pointer. Many cells are tested at once: some verdicts are chance.",
            chart=lambda: matrix_chart(groups, group_names(matrix_table(groups))),
            data=lambda: claims_table(groups),
        )
    )


def _draw_missing(study: pl.DataFrame) -> None:
    """What was not tested, why, and what would mend it."""
    for row in study.filter(pl.col("verdict") == NOT_TESTED).to_dicts():
        command = (row["command"] or "").replace("`", "'")
        st.caption(
            f":material/inbox: {plain(row['statement'])} Not tested: {plain(row['reason'])}"
            + (f" `python -m dmcore {command}`" if command else "")
        )


def _shown(study: pl.DataFrame) -> pl.DataFrame:
    """The table as a page has it."""
    table = claims_table(study)
    inside = [
        "" if row["n"] is None else f"{row['n_inside']:,} of {row['n']:,} {row['unit']}" for row in table.to_dicts()
    ]
    return table.select(
        pl.col("statement").alias("Statement"), pl.col("verdict").alias("Verdict"), pl.col("text").alias("Number (95 %)"),
        pl.col("range").alias("Holds in"), pl.Series("In the range by themselves", inside, dtype=pl.String),
        pl.col("range_from").alias("Whose range"), pl.col("test").alias("Test"), pl.col("source").alias("Source"),
    )  # fmt: skip
