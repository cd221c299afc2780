"""The views of the page Error reduction: methods on one SAE, on all, ranks of the skip, earlier components, the next token."""

from __future__ import annotations

from collections.abc import Callable
from shlex import quote

import polars as pl
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dmcore.charts.earlier import earlier_chart, earlier_table
from dmcore.charts.kept_tasks import LEAST, tasks_chart, tasks_table
from dmcore.charts.league import OWN, featured, league_chart, league_table
from dmcore.charts.ranks import half_rank, ranks_chart, ranks_table
from dmcore.charts.sparsity import sparsity_chart, sparsity_table
from dmcore.results import REDUCTION, Reduction
from dmcore.results.reduction import EVERY_KIND
from dmcore.ui import reads
from dmcore.ui.figure import Figure, draw
from dmcore.ui.league_rows import draw_league, league_of, leagues
from dmcore.ui.look_job import draw_look_button
from dmcore.ui.missing import draw_missing
from dmcore.ui.reduction_words import (
    earlier_sentence,
    reduction_finding,
    remarks_of,
    sample_of,
    skip_sentence,
    task_sentence,
)
from dmcore.ui.sections import finding
from dmcore.ui.selection import Selection, option, select
from dmcore.ui.words import l0_text, plain

CARRIED = (
    "Other codes ran on a sample of contexts: what they leave of the SAE's error there is taken of its error on all. "
)
View = Callable[[Selection, Reduction | None, DeltaGenerator], None]
"""Draws a view of the selected SAE, given what makes its error smaller, if that is known; its finding goes to the container."""
LEFT = {"fvu_nonlinear": "Nonlinear FVU", "fvu": "FVU"}
ON_LINES = {
    "encoder": "The SAE as it is",
    "orthogonal_matching_pursuit": "Orthogonal matching",
    "nnls_on_support": "Least squares on support",
}
"""Methods whose titles are too long for the end of a line."""
ONE_FORMULA = (
    "FVU = Σ|error that is left|² / Σ|x − mean x|²; nonlinear FVU: the same of what no affine map of x predicts of that error, "
    "fitted anew for each method. Removed: 1 − after / before, paired over contexts. "
)


def methods_view(selection: Selection, found: Reduction | None, top: DeltaGenerator) -> None:
    """Every method on the selected SAE."""
    if found is None:
        draw_no_reduction(selection)
        return
    with top:
        finding(reduction_finding(found))
    more = reads.wider(selection.study_id, selection.record["summary_key"])
    table = league_of(selection, selection.record, found, more)
    rows = featured(table)
    draw(
        Figure(
            name="reduction_methods",
            key=(selection.record["summary_key"], found.folder.name, *(row["source"] for row in more)),
            question="Which method leaves the smallest error at the same sparsity?",
            caption=f"Dashed: the SAE as it is; left of its line is better. {ONE_FORMULA}Bars: 95 % intervals over "
            "contexts. Earlier "
            "components come with active latents of their own SAEs, so they are not at this L0; wider dictionaries are "
            "the study's "
            f"own at the nearest L0. {CARRIED}An arrow: further right. All ranks and sets of inputs are in the table below. "
            f"{sample_of(found, coding=True)}",
            chart=lambda: league_chart(rows),
            data=lambda: league_table(rows),
        )
    )
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
    ranks, own = found["ranks"], found.method(OWN)
    half = half_rank(ranks)
    draw(
        Figure(
            name="reduction_ranks",
            key=(selection.record["summary_key"], found.folder.name),
            question="How large must a skip be to absorb the linear error?",
            caption="FVU of Sae(x) + A x + b, with A of each rank by reduced-rank regression of the error on x. Band: 95 "
            "% interval "
            "over contexts. A rank r adds min(2 d r, d²) numbers, with d = "
            f"{found.about['d_model']:,}; rank 0, a bias alone, is in the data. {sample_of(found)}",
            chart=lambda: ranks_chart(ranks, own),
            data=lambda: ranks_table(ranks),
        )
    )
    if half is not None:
        st.caption(f"The ring is the least rank that removes at least half of what full rank does: {half['rank']}.")


def earlier_view(selection: Selection, found: Reduction | None, top: DeltaGenerator) -> None:
    """What earlier components explain."""
    if found is None:
        draw_no_reduction(selection)
        return
    with top:
        finding(earlier_sentence(found))
    regressions = found["regressions"]
    if len(regressions):
        draw(
            Figure(
                name="reduction_earlier",
                key=(selection.record["summary_key"], found.folder.name),
                question="What do SAEs of earlier components know of the error?",
                caption="Held-out R², pooled over tokens and dimensions, of the error and its parts by least squares from the "
                "reconstructions that SAEs make of earlier components (not from the components), alone and together. Where x is "
                "among them the linear error is explained whole, by definition. Each part has a map of its own here; on "
                "*Methods* one map of the whole error is added, which takes less of the nonlinear part. Bars: 95 % intervals "
                "over contexts. "
                f"{sample_of(found)}",
                chart=lambda: earlier_chart(regressions),
                data=lambda: earlier_table(regressions),
            )
        )
    components = found["components"]
    if len(components):
        st.markdown("### Which SAEs were they?")
        names = {"previous": "the stream before", "mlp": "the layer's MLP", "attention": "its attention"}
        st.dataframe(
            components.select(
                pl.col("role").replace(names).alias("Component"), pl.col("sae").alias("SAE"), pl.col("site").alias("Site"),
                pl.col("d_sae").alias("Width"), pl.col("l0").round(1).alias("L0"),
            ),
            hide_index=True,
        )  # fmt: skip
        st.caption("At each site the SAE of the nearest width, then of the nearest L0.")
    _draw_remarks(found)


def tasks_view(selection: Selection, found: Reduction | None, top: DeltaGenerator) -> None:
    """What each method keeps of the model's own task."""
    if found is None:
        draw_no_reduction(selection)
        return
    with top:
        finding(task_sentence(found) or reduction_finding(found))
    tasks, methods = found["tasks"], found["methods"]
    if tasks.is_empty():
        st.info("The model's predictions were not read with these methods.", icon=":material/inbox:")
    else:
        n = tasks.filter(pl.col("kind") == EVERY_KIND)["n_tokens"][0]
        draw(
            Figure(
                name="reduction_tasks",
                key=(selection.record["summary_key"], found.folder.name),
                question="Which method keeps the model's task?",
                caption="Cloze accuracy on held-out text, in percentage points below the clean model: how often the most "
                "probable token is the one that comes, with each method's reconstruction in the place of x, by the kind of "
                f"token to be predicted. Kinds of fewer than {LEAST} tokens are left out. n = {n:,} predictions in "
                f"{found.about['loss_contexts']:,} contexts; 95 % intervals over contexts are in the tooltips and the data.",
                chart=lambda: tasks_chart(tasks, methods),
                data=lambda: tasks_table(tasks, methods),
            )
        )
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
    skip = (pl.col("kind") == "skip") & (pl.col("rank") == pl.col("rank").max().over("summary_key"))
    kinds = pl.col("kind").is_in(["encoder", "coding"]) | (skip if left == "fvu" else pl.lit(False))
    here = (
        (pl.col("site") == record["site"]) & (pl.col("d_sae") == record["d_sae"]) & (pl.col("label") == record["label"])
    )
    rows = table.filter(kinds & here).with_columns(
        label=pl.col("method").replace_strict(ON_LINES, default=pl.col("title"))
    )
    if rows.is_empty():
        st.info(
            "No SAE of this site and width has results: choose another, or see the table below.",
            icon=":material/inbox:",
        )
        return
    n = rows["sae"].n_unique()
    draw(
        Figure(
            name=f"reduction_l0_{left}",
            key=(record["summary_key"], left, *key),
            question="Which method is best at every L0?" if n > 1 else "Which method leaves least?",
            caption=f"{n} SAE{'s' if n > 1 else ''} of {record['d_sae']:,} latents at this site, a line for each method that "
            f"needs no other latents: further down is better. {ONE_FORMULA}{CARRIED}Bars, where they are larger than the marks: "
            f"95 % intervals over contexts. Ringed: the selected SAE, L0 {l0_text(record['l0'])}.",
            chart=lambda: sparsity_chart(rows, left, record["sae"], label="method"),
            data=lambda: sparsity_table(rows, left),
        )
    )


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
