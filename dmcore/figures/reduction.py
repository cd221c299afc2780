"""The charts of the page Error reduction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from dmcore.charts.earlier import earlier_chart, earlier_table
from dmcore.charts.kept_tasks import LEAST, tasks_chart, tasks_table
from dmcore.charts.league import OWN, featured, league_chart, league_table
from dmcore.charts.ranks import ranks_chart, ranks_table
from dmcore.charts.sparsity import sparsity_chart, sparsity_table
from dmcore.figures.figure import Figure
from dmcore.results import Reduction
from dmcore.results.reduction import EVERY_KIND
from dmcore.words.chosen import Chosen
from dmcore.words.names import l0_text
from dmcore.words.reduction import sample_of

CARRIED = (
    "Other codes ran on a sample of contexts: what they leave of the SAE's error there is taken of its error on all. "
)


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


def methods_figure(chosen: Chosen, found: Reduction, table: pl.DataFrame, more: Sequence[Mapping[str, Any]]) -> Figure:
    """Every method on an SAE; `table`: its `LEAGUE`, `more`: the wider SAEs that are in it."""
    rows = featured(table)
    return Figure(
        name="reduction_methods",
        key=(chosen.record["summary_key"], found.folder.name, *(row["source"] for row in more)),
        question="Which method leaves the smallest error at the same sparsity?",
        caption=f"Dashed: the SAE as it is; left of its line is better. {ONE_FORMULA}Bars: 95 % intervals over "
        "contexts. Earlier "
        "components come with active latents of their own SAEs, so they are not at this L0; wider dictionaries are "
        "the study's "
        f"own at the nearest L0. {CARRIED}An arrow: further right. All ranks and sets of inputs are in the table of all methods. "
        f"{sample_of(found, coding=True)}",
        chart=lambda: league_chart(rows),
        data=lambda: league_table(rows),
    )


def ranks_figure(chosen: Chosen, found: Reduction) -> Figure:
    """The affine skip at every rank."""
    ranks, own = found["ranks"], found.method(OWN)
    return Figure(
        name="reduction_ranks",
        key=(chosen.record["summary_key"], found.folder.name),
        question="How large must a skip be to absorb the linear error?",
        caption="FVU of Sae(x) + A x + b, with A of each rank by reduced-rank regression of the error on x. Band: 95 "
        "% interval "
        "over contexts. A rank r adds min(2 d r, d²) numbers, with d = "
        f"{found.about['d_model']:,}; rank 0, a bias alone, is in the data. {sample_of(found)}",
        chart=lambda: ranks_chart(ranks, own),
        data=lambda: ranks_table(ranks),
    )


def earlier_figure(chosen: Chosen, found: Reduction) -> Figure:
    """What SAEs of earlier components explain."""
    regressions = found["regressions"]
    return Figure(
        name="reduction_earlier",
        key=(chosen.record["summary_key"], found.folder.name),
        question="What do SAEs of earlier components know of the error?",
        caption="Held-out R², pooled over tokens and dimensions, of the error and its parts by least squares from the "
        "reconstructions that SAEs make of earlier components (not from the components), alone and together. Where x is "
        "among them the linear error is explained whole, by definition. Each part has a map of its own here; among "
        "the methods one map of the whole error is added, which takes less of the nonlinear part. Bars: 95 % intervals "
        "over contexts. "
        f"{sample_of(found)}",
        chart=lambda: earlier_chart(regressions),
        data=lambda: earlier_table(regressions),
    )


def tasks_figure(chosen: Chosen, found: Reduction) -> Figure:
    """What each method keeps of the model's own task."""
    tasks, methods = found["tasks"], found["methods"]
    n = tasks.filter(pl.col("kind") == EVERY_KIND)["n_tokens"][0]
    return Figure(
        name="reduction_tasks",
        key=(chosen.record["summary_key"], found.folder.name),
        question="Which method keeps the model's task?",
        caption="Cloze accuracy on held-out text, in percentage points below the clean model: how often the most "
        "probable token is the one that comes, with each method's reconstruction in the place of x, by the kind of "
        f"token to be predicted. Kinds of fewer than {LEAST} tokens are left out. n = {n:,} predictions in "
        f"{found.about['loss_contexts']:,} contexts; 95 % intervals over contexts are in the data.",
        chart=lambda: tasks_chart(tasks, methods),
        data=lambda: tasks_table(tasks, methods),
    )


def l0_figure(record: Mapping[str, Any], rows: pl.DataFrame, left: str, key: tuple[str, ...]) -> Figure:
    """Error against L0 for the methods that need no other latents; `rows`: `l0_rows`."""
    n = rows["sae"].n_unique()
    return Figure(
        name=f"reduction_l0_{left}",
        key=(record["summary_key"], left, *key),
        question="Which method is best at every L0?" if n > 1 else "Which method leaves least?",
        caption=f"{n} SAE{'s' if n > 1 else ''} of {record['d_sae']:,} latents at this site, a line for each method that "
        f"needs no other latents: further down is better. {ONE_FORMULA}{CARRIED}Bars, where they are larger than the marks: "
        f"95 % intervals over contexts. Ringed: the selected SAE, L0 {l0_text(record['l0'])}.",
        chart=lambda: sparsity_chart(rows, left, record["sae"], label="method"),
        data=lambda: sparsity_table(rows, left),
    )


def l0_rows(record: Mapping[str, Any], table: pl.DataFrame, left: str) -> pl.DataFrame:
    """Rows of a league of the chosen SAE's site and width, by the methods that need no other latents."""
    skip = (pl.col("kind") == "skip") & (pl.col("rank") == pl.col("rank").max().over("summary_key"))
    kinds = pl.col("kind").is_in(["encoder", "coding"]) | (skip if left == "fvu" else pl.lit(False))
    here = (
        (pl.col("site") == record["site"]) & (pl.col("d_sae") == record["d_sae"]) & (pl.col("label") == record["label"])
    )
    return table.filter(kinds & here).with_columns(
        label=pl.col("method").replace_strict(ON_LINES, default=pl.col("title"))
    )


COMPONENTS = {"previous": "the stream before", "mlp": "the layer's MLP", "attention": "its attention"}
COMPONENT_WORDS = "At each site the SAE of the nearest width, then of the nearest L0."


def component_rows(found: Reduction) -> pl.DataFrame:
    """The SAEs of earlier components that were taken."""
    return found["components"].select(
        pl.col("role").replace(COMPONENTS).alias("Component"), pl.col("sae").alias("SAE"), pl.col("site").alias("Site"),
        pl.col("d_sae").alias("Width"), pl.col("l0").round(1).alias("L0"),
    )  # fmt: skip
