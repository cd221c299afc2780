"""The paper's statements held against the study, and against groups of its SAEs."""

from __future__ import annotations

from typing import Any

import polars as pl

from dmcore.errors import DarkMatterError
from dmcore.figures.claims import claim_rows, claims_figure, groups_figure
from dmcore.report.blocks import Block, Missing, Numbers, Section, Shown, part, said, unreadable
from dmcore.report.sections.tables import shown_texts
from dmcore.report.subject import Subject
from dmcore.results.claims import LEAST_CONTEXTS, NOT_TESTED
from dmcore.words.claims import claims_finding
from dmcore.words.names import plain

OF_GROUPS = ("Statement", "Verdict", "Number (95 %)", "Holds in", "In the range by themselves")
"""Columns of the table of groups: what the tests are says that of the study."""
SOURCES = (
    "Source: how we know that the paper says so. P: read on a page of or about the paper; C: in its published code; 2: quoted by "
    "someone else. Where the paper gives no bound, the range is ours and says why."
)


def section(subject: Subject) -> Section:
    """Make the section."""
    return Section("claims", "Which of the paper's statements hold here?", tuple(_blocks(subject)))


def _blocks(subject: Subject) -> list[Block]:
    try:
        found = subject.published.claims()
    except DarkMatterError as error:
        return [unreadable(error)]
    study, groups = found.study, found.groups
    if int(study["n_contexts"][0]) < LEAST_CONTEXTS:
        return said(plain(str(study["reason"][0])))
    blocks: list[Block] = [
        *said(plain(claims_finding(study)), finding=True),
        *part("On all of the study", [
            Shown(claims_figure(subject.study_id, found)),
            *(Missing(_missing(row)) for row in study.filter(verdict=NOT_TESTED).to_dicts()),
            Numbers("claims", "What was tested, and how", shown_texts(claim_rows(study)), SOURCES, study),
        ]),
    ]  # fmt: skip
    if len(groups):
        words = pl.format("{} {}", pl.col("by"), pl.col("group")).alias("Group")
        rows = pl.concat([groups.select(words), claim_rows(groups).select(pl.col(OF_GROUPS))], how="horizontal")
        caption = f"95 % intervals over contexts; what each test is says the table of the study. {SOURCES}"
        blocks += part("On groups of its SAEs", [
            Shown(groups_figure(subject.study_id, found)),
            Numbers("claims_groups", "Every statement on every group", shown_texts(rows), caption, groups),
        ])  # fmt: skip
    return blocks


def _missing(row: dict[str, Any]) -> str:
    command = (row["command"] or "").replace("`", "'")
    mend = f" `python -m dmcore {command}`" if command else ""
    return f"{plain(row['statement'])} Not tested: {plain(row['reason'])}{mend}"
