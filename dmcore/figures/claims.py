"""The charts of the view *Claims*."""

from __future__ import annotations

import polars as pl

from dmcore.charts.claims import SYMBOLS, claims_chart, claims_table, matrix_chart, matrix_table
from dmcore.figures.figure import Figure
from dmcore.results.claim_groups import GROUPINGS
from dmcore.results.claims import Claims
from dmcore.words.claims import group_names
from dmcore.words.names import listed


def claims_key(study_id: str, found: Claims) -> tuple[str, ...]:
    """What names the verdicts, which are of no entry of their own."""
    groups = found.groups
    return study_id, str(found.study.hash_rows().sum()), str(groups.hash_rows().sum() if len(groups) else 0)


def claims_figure(study_id: str, found: Claims) -> Figure:
    """Every statement with its verdict."""
    study = found.study
    return Figure(
        name="claims",
        key=claims_key(study_id, found),
        question="Which of the paper's statements hold here?",
        caption="A row a statement, on a scale of its own. Grey: the range in which it holds, with its bounds. Bar: the 95 % "
        f"interval over {int(study['n_contexts'][0]):,} contexts, held out by context, of the mean over the study's SAEs, or "
        "over pairs or sets of them where a statement is about several (the table says which, and n). All of it in the range: "
        "holds; all of it outside: fails; else undecided. The interval is over texts, not over SAEs: what is about several is "
        "undecided where there is but one. A mean says nothing of single SAEs: the groups and the table do.",
        chart=lambda: claims_chart(study),
        data=lambda: claims_table(study),
    )


def groups_figure(study_id: str, found: Claims) -> Figure:
    """The verdicts over groups of SAEs; there must be some."""
    groups = found.groups
    kinds = groups["by"].unique(maintain_order=True).to_list()
    symbols = ", ".join(f"{symbol} {verdict}" for verdict, symbol in SYMBOLS.items())
    said = "; ".join(f"{by}: {GROUPINGS[by]}" for by in kinds)
    return Figure(
        name="claims_groups",
        key=claims_key(study_id, found),
        question=f"Do they hold for every {listed(kinds)}?",
        caption=f"{symbols}. Each cell is the same test on some SAEs: the mean over them, 95 % interval over contexts. In "
        f"brackets: how many SAEs; a group of one speaks of that SAE alone. {said}. The data have the numbers. Many cells are "
        "tested at once: some verdicts are chance.",
        chart=lambda: matrix_chart(groups, group_names(matrix_table(groups))),
        data=lambda: claims_table(groups),
    )


def claim_rows(table: pl.DataFrame) -> pl.DataFrame:
    """Statements as pages and the report have them in a table; `table`: rows of `dmcore.results.claims.CLAIMS`."""
    table = claims_table(table)
    inside = [
        "" if row["n"] is None else f"{row['n_inside']:,} of {row['n']:,} {row['unit']}" for row in table.to_dicts()
    ]
    return table.select(
        pl.col("statement").alias("Statement"), pl.col("verdict").alias("Verdict"), pl.col("text").alias("Number (95 %)"),
        pl.col("range").alias("Holds in"), pl.col("range_from").alias("Whose range"),
        pl.Series("In the range by themselves", inside, dtype=pl.String), pl.col("paper").alias("What the paper reports"),
        pl.col("source").alias("Source"), pl.col("test").alias("What is tested"), pl.col("reason").fill_null("").alias("Note"),
    )  # fmt: skip
