"""What makes the error smaller at the same sparsity."""

from __future__ import annotations

import polars as pl

from dmcore.charts.ranks import half_rank
from dmcore.figures import reduction as figures
from dmcore.figures.league import LOOKS, league_of, leagues, shown
from dmcore.report.blocks import Block, Numbers, Part, Section, Shown, not_made, part, said
from dmcore.report.sections.tables import estimates, shown_texts, with_halves
from dmcore.report.subject import Subject
from dmcore.results import REDUCTION, Reduction
from dmcore.words.reduction import (
    earlier_sentence,
    reduction_finding,
    remarks_of,
    sample_of,
    skip_sentence,
    task_sentence,
)

TASK_VALUES = {"accuracy": "Right", "accuracy_delta": "Less the clean model"}
HEADS = {name: (head, form) for name, (head, form, _) in LOOKS.items()}
TARGETS = {"error": "error", "linear": "linear error", "nonlinear": "nonlinear error"}


def section(subject: Subject) -> Section:
    """Make the section."""
    return Section(
        "reduction",
        "What makes the error smaller at the same sparsity?",
        (*_one(subject), *part("All SAEs", _all(subject))),
    )


def _one(subject: Subject) -> list[Block]:
    found = subject.reduction(subject.key)
    if found is None:
        command = f"reduce {subject.published.file} {subject.sae}"
        return [not_made("The comparison of methods on this SAE has", command)]
    more, half = subject.published.wider(subject.key), half_rank(found["ranks"])
    table = league_of(subject, subject.record, found, more)
    sample = sample_of(found)
    blocks: list[Block] = [
        *said(reduction_finding(found), finding=True),
        Part("Methods"),
        Shown(figures.methods_figure(subject, found, table, more)),
        Numbers("league", "All methods on this SAE", with_halves(shown(table, many=False).to_dicts(), HEADS),
                f"± is half the width of a 95 % interval over contexts. {sample}", table),
        Part("Ranks"),
        *said(skip_sentence(found), finding=True),
        Shown(figures.ranks_figure(subject, found)),
        *said("" if half is None else f"The ring is the least rank that removes at least half of what full rank does: "
              f"{half['rank']}."),
        Part("Earlier components"),
        *said(earlier_sentence(found), finding=True),
    ]  # fmt: skip
    if len(found["regressions"]):
        rows = found["regressions"].with_columns(pl.col("target").replace(TARGETS))
        heads = {"inputs": "Inputs", "target": "Of the"}
        blocks.append(Shown(figures.earlier_figure(subject, found)))
        blocks.append(
            Numbers("earlier", "What SAEs of earlier components explain", estimates(rows, heads, {"r2": "Held-out R²"}),
                    f"95 % intervals over contexts. {sample}", rows)
        )  # fmt: skip
    if len(found["components"]):
        blocks.append(Numbers("components", "Which SAEs were they?", shown_texts(figures.component_rows(found)),
                              figures.COMPONENT_WORDS, found["components"]))  # fmt: skip
    blocks += part("Next token", _tasks(subject, found))
    return [*blocks, *said(*remarks_of(found))]


def _tasks(subject: Subject, found: Reduction) -> list[Block]:
    tasks = found["tasks"]
    if tasks.is_empty():
        command = f"reduce {subject.published.file} {subject.sae}"
        return [not_made("The model's predictions with these methods have", command)]
    heads = {"title": "Method", "kind": "Kind of token", "n_tokens": "Predictions"}
    rows = estimates(tasks.join(found["methods"].select("method", "title"), on="method", how="left").with_columns(
        pl.coalesce("title", "method").alias("title")), heads, TASK_VALUES)  # fmt: skip
    n = f"95 % intervals over {found.about['loss_contexts']:,} contexts."
    return [
        *said(task_sentence(found), finding=True),
        Shown(figures.tasks_figure(subject, found)),
        Numbers("tasks", "The next token with each method", rows, n, tasks),
    ]


def _all(subject: Subject) -> list[Block]:
    records = {row["summary_key"]: row for row in subject.published.records.to_dicts()}
    known = [(records[k], one) for k in subject.looked(REDUCTION) if (one := subject.reduction(k)) is not None]
    if not known:
        return []
    table, blocks = leagues(subject, known), list[Block]()
    for left in ("fvu_nonlinear", "fvu"):
        rows = figures.l0_rows(subject.record, table, left)
        if len(rows):
            key = tuple(one.folder.name for _, one in known)
            blocks.append(Shown(figures.l0_figure(subject.record, rows, left, key)))
    ordered = shown(table.sort("fvu_nonlinear", nulls_last=True), many=True)
    caption = (
        f"{len(known):,} of the study's {len(records):,} SAEs have results; `python -m dmcore reduce {subject.published.file}` "
        "makes them. Sorted by nonlinear FVU. ± is half the width of a 95 % interval over contexts."
    )
    blocks.append(
        Numbers("league_all", "The league of all SAEs", with_halves(ordered.to_dicts(), HEADS), caption, table)
    )
    return blocks
