"""The views of the page Error reduction: methods on one SAE, on all, ranks of the skip, earlier components, the next token."""

from __future__ import annotations

from collections.abc import Callable
from shlex import quote

import polars as pl
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dmcore.charts.ranks import half_rank
from dmcore.figures.league import league_of, leagues
from dmcore.figures.reduction import (
    COMPONENT_WORDS,
    component_rows,
    earlier_figure,
    l0_figure,
    l0_rows,
    methods_figure,
    ranks_figure,
    tasks_figure,
)
from dmcore.results import REDUCTION, Reduction
from dmcore.ui import reads
from dmcore.ui.figure import draw
from dmcore.ui.league_rows import draw_league
from dmcore.ui.look_job import draw_look_button
from dmcore.ui.missing import draw_missing
from dmcore.ui.sections import finding
from dmcore.ui.selection import Selection, option, select
from dmcore.ui.table import show_table
from dmcore.words.names import plain
from dmcore.words.reduction import earlier_sentence, reduction_finding, remarks_of, skip_sentence, task_sentence

View = Callable[[Selection, Reduction | None, DeltaGenerator], None]
"""Draws a view of the selected SAE, given what makes its error smaller, if that is known; its finding goes to the container."""
LEFT = {"fvu_nonlinear": "Nonlinear FVU", "fvu": "FVU"}


def methods_view(selection: Selection, found: Reduction | None, top: DeltaGenerator) -> None:
    """Every method on the selected SAE."""
    if found is None:
        draw_no_reduction(selection)
        return
    with top:
        finding(reduction_finding(found))
    more = reads.wider(selection.study_id, selection.record["summary_key"])
    table = league_of(selection, selection.record, found, more)
    draw(methods_figure(selection, found, table, more))
    st.markdown("### All methods, in numbers")
    draw_league(table, "league.one", many=False)
    st.caption(
        "Click on a column's head to sort. ± is half the width of a 95 % interval over contexts. An affine map of x leaves the "
        "nonlinear error as it is, by definition: what a skip removes is linear."
    )
    _draw_remarks(found)


def ranks_view(selection: Selection, found: Reduction | None, top: DeltaGenerator) -> None:
    """The affine skip at every rank."""
    if found is None:
        draw_no_reduction(selection)
        return
    with top:
        finding(skip_sentence(found))
    half = half_rank(found["ranks"])
    draw(ranks_figure(selection, found))
    if half is not None:
        st.caption(f"The ring is the least rank that removes at least half of what full rank does: {half['rank']}.")


def earlier_view(selection: Selection, found: Reduction | None, top: DeltaGenerator) -> None:
    """What earlier components explain."""
    if found is None:
        draw_no_reduction(selection)
        return
    with top:
        finding(earlier_sentence(found))
    if len(found["regressions"]):
        draw(earlier_figure(selection, found))
    if len(found["components"]):
        st.markdown("### Which SAEs were they?")
        show_table(component_rows(found), hide_index=True)
        st.caption(COMPONENT_WORDS)
    _draw_remarks(found)


def tasks_view(selection: Selection, found: Reduction | None, top: DeltaGenerator) -> None:
    """What each method keeps of the model's own task."""
    if found is None:
        draw_no_reduction(selection)
        return
    with top:
        finding(task_sentence(found) or reduction_finding(found))
    if found["tasks"].is_empty():
        st.info("The model's predictions were not read with these methods.", icon=":material/inbox:")
    else:
        draw(tasks_figure(selection, found))
    _draw_remarks(found)


def everyone_view(selection: Selection, found: Reduction | None, top: DeltaGenerator) -> None:
    """The league of every SAE of the study with results."""
    keys = reads.looked(selection.study_id, REDUCTION)
    records = {row["summary_key"]: row for row in selection.published.records.to_dicts()}
    known = [(records[key], one) for key in keys if (one := reads.reduction(selection.study_id, key)) is not None]
    if not known:
        draw_no_reduction(selection)
        return
    with top:
        if found is not None:
            finding(reduction_finding(found))
    table = leagues(selection, known)
    _draw_against_l0(selection, table, tuple(one.folder.name for _, one in known))
    st.markdown("### The league of all SAEs")
    titles = dict(
        table.filter(pl.col("kind") != "wider").select("method", "title").unique("method", maintain_order=True).rows()
    )
    chosen = option("method", "Method", ["all", *titles], ["All methods", *titles.values()], "all", kind=st.selectbox)
    rows = table if chosen == "all" else table.filter(pl.col("method") == chosen)
    draw_league(rows.sort("fvu_nonlinear", nulls_last=True), "league.all", many=True)
    n = len(known)
    st.caption(
        f"{n:,} of the study's {len(records):,} SAEs {'has' if n == 1 else 'have'} results: "
        f"`python -m dmcore reduce {selection.published.file} SAE ...` makes them. Sorted by nonlinear FVU; click on a column's "
        "head to sort by it. ± is half the width of a 95 % interval over contexts."
    )


def _draw_against_l0(selection: Selection, table: pl.DataFrame, key: tuple[str, ...]) -> None:
    """Error against L0 for the methods that need no other latents, at the selected site and width."""
    record = selection.record
    left = option("left", "Error", list(LEFT), list(LEFT.values()), "fvu_nonlinear", kind=st.segmented_control)
    rows = l0_rows(record, table, left)
    if rows.is_empty():
        st.info(
            "No SAE of this site and width has results: choose another, or see the table below.",
            icon=":material/inbox:",
        )
        return
    draw(l0_figure(record, rows, left, key))


def draw_no_reduction(selection: Selection) -> None:
    """Say what makes the results of this SAE, and lead to those that have some."""
    command = f"reduce {selection.published.file} {quote(selection.record['sae'])}"
    draw_missing("The comparison of methods on this SAE has", command)
    study_id, key = selection.study_id, selection.record["summary_key"]
    draw_look_button(
        study_id, selection.record["sae"], lambda published: published.reduction(key) is not None, "reduce"
    )
    lead_to_others(selection, REDUCTION)


def lead_to_others(selection: Selection, stage: str, most: int = 4) -> None:
    """Buttons to SAEs that have results of a stage."""
    for key in reads.looked(selection.study_id, stage)[:most]:
        record = selection.published.records.row(by_predicate=pl.col("summary_key") == key, named=True)
        st.button(
            f"Show that of {plain(record['sae'])}", key=f"other.{key}", icon=":material/arrow_forward:",
            on_click=select, args=(selection.study_id, record),
        )  # fmt: skip


def _draw_remarks(found: Reduction) -> None:
    for text in remarks_of(found):
        st.caption(f":material/info: {text}")


VIEWS: dict[str, tuple[str, View]] = {
    "methods": ("Methods", methods_view),
    "all": ("All SAEs", everyone_view),
    "ranks": ("Ranks", ranks_view),
    "earlier": ("Earlier components", earlier_view),
    "tasks": ("Next token", tasks_view),
}
"""Title and view, by the name in the link."""
