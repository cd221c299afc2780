"""Whether the linear part of the error is only undone shrinkage, and whether its map holds elsewhere."""

from __future__ import annotations

from dmcore.errors import StoreError
from dmcore.figures import shrinkage as figures
from dmcore.figures.transfer import transfer_figure
from dmcore.report.blocks import Block, Numbers, Section, Shown, choices, not_made, part, said, unreadable
from dmcore.report.sections.tables import estimates, shown_texts
from dmcore.report.subject import Subject
from dmcore.results.shrinkage import Shrinkage
from dmcore.results.transfer import BY, KEPT
from dmcore.words import shrinkage as words
from dmcore.words.names import plain
from dmcore.words.transfer import (
    all_texts_sentence,
    member_labels,
    transfer_remarks,
    transfer_sample,
    transfer_sentence,
)

PARTS = {"domain": "Transfer between texts", "layer": "Transfer between layers", "sae": "Transfer between SAEs of this site",
         "width": "Transfer between widths"}  # fmt: skip


def section(subject: Subject) -> Section:
    """Make the section."""
    blocks = [*_shrinkage(subject)]
    for by in BY:
        blocks += part(PARTS[by], _transfer(subject, by))
    return Section("shrinkage", "Is the linear part only undone shrinkage?", tuple(blocks))


def _shrinkage(subject: Subject) -> list[Block]:
    found = subject.published.shrinkage(subject.key)
    if found is None:
        return [not_made("The shrinkage of this SAE has", f"shrinkage {subject.published.file} {subject.sae}")]
    return [
        *part("Ladder", _ladder(found)),
        *part("Directions of the map", _directions(found)),
        *part("Directions of x", _groups(found)),
        *said(*words.shrinkage_remarks(found)),
    ]


def _ladder(found: Shrinkage) -> list[Block]:
    if found["ladder"].is_empty():
        return []
    sample = words.shrinkage_sample(found)
    return [
        *said(f"{words.ladder_sentence(found)} {words.rank_sentence(found)}", finding=True),
        Shown(figures.ladder_figure(found)),
        Shown(figures.rank_figure(found)),
        Numbers("ladder", "All rungs", shown_texts(figures.ladder_rows(found)), f"{figures.LADDER_WORDS} {sample}",
                found["ladder"]),
    ]  # fmt: skip


def _directions(found: Shrinkage) -> list[Block]:
    if found["shape"].is_empty():
        return []
    weightings = list(figures.WEIGHTED)
    rows = choices(figures.rows_figure(found, one) for one in weightings) if len(found["rows"]) else []
    return [
        *said(words.direction_sentence(found), finding=True),
        Shown(figures.shape_figure(found)),
        Shown(figures.singular_figure(found)),
        *choices(figures.alignment_figure(found, one) for one in weightings),
        *rows,
    ]


def _groups(found: Shrinkage) -> list[Block]:
    blocks: list[Block] = []
    if len(found["ablations"]):
        blocks += [*said(words.group_sentence(found), finding=True), Shown(figures.ablation_figure(found))]
    blocks += said(words.outlier_sentence(found))
    if len(found["without"]) > 1:
        caption = f"{figures.OUTLIER_WORDS} {words.shrinkage_sample(found)}"
        table = shown_texts(figures.outlier_rows(found))
        blocks.append(Numbers("outliers", figures.OUTLIERS, table, caption, found["without"]))
    return blocks


def _transfer(subject: Subject, by: str) -> list[Block]:
    try:
        found = subject.published.transfer(subject.key, by)
    except StoreError as error:
        return [unreadable(error)]
    if found is None:
        command = f"transfer {subject.published.file} {subject.sae} --by {by}"
        return [not_made(f"The transfer of the map {BY[by]} has", command)]
    pairs = [(kept, shown) for shown in ("relative", "r2") for kept in KEPT]
    labels = [plain(label) for label in member_labels(found)]
    cells = found["cells"].with_columns(
        fitted_on=found["cells"]["fitted"].replace_strict(dict(enumerate(labels)), default=""),
        tested_on=found["cells"]["tested"].replace_strict(dict(enumerate(labels)), default=""),
        keeps=found["cells"]["kept"].replace_strict(KEPT, default=""),
    )
    heads = {"fitted_on": "Fitted on", "tested_on": "Tested on", "keeps": "Kept"}
    table = estimates(cells, heads, {"r2": "R²", "relative": "Share of its own R²"})
    caption = f"95 % intervals over contexts, shares paired. {transfer_sample(found)}"
    return [
        *said(f"{transfer_sentence(found)} {all_texts_sentence(found)}".strip(), finding=True),
        *choices(transfer_figure(found, *pair) for pair in pairs),
        *said(*transfer_remarks(found)),
        Numbers(f"transfer_{by}", "Every pair", table, caption, cells),
    ]
