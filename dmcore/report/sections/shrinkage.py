"""Whether the linear part of the error is only undone shrinkage, and whether its map holds elsewhere."""

from __future__ import annotations

from dmcore.errors import StoreError
from dmcore.figures import shrinkage as figures
from dmcore.figures.transfer import transfer_figure
from dmcore.report.blocks import Block, Numbers, Section, Shown, not_made, said, unreadable
from dmcore.report.sections.tables import estimates
from dmcore.report.subject import Subject
from dmcore.results.transfer import BY
from dmcore.words import shrinkage as words
from dmcore.words.transfer import transfer_remarks, transfer_sentence

RUNGS = {"r2": "R²", "share": "Of the linear part", "gain": "Gain", "left": "Left"}


def section(subject: Subject) -> Section:
    """Make the section."""
    return Section(
        "shrinkage", "Is the linear part only undone shrinkage?", (*_shrinkage(subject), *_transfer(subject))
    )


def _shrinkage(subject: Subject) -> list[Block]:
    found = subject.published.shrinkage(subject.key)
    if found is None:
        return [not_made("The shrinkage of this SAE has", f"shrinkage {subject.published.file} {subject.sae}")]
    blocks: list[Block] = []
    if len(found["ladder"]):
        blocks += said(f"{words.ladder_sentence(found)} {words.rank_sentence(found)}", finding=True)
        rows = estimates(found["ladder"], {"title": "Map", "n_weights": "Numbers fitted"}, RUNGS)
        caption = (
            "Left: R² from x, held out, of what is left of the error once the rung is taken away. Gain: over the smaller map "
            f"that the rung holds, paired. 95 % intervals over contexts. {words.shrinkage_sample(found)}"
        )
        blocks += [Shown(figures.ladder_figure(found)), Shown(figures.rank_figure(found))]
        blocks.append(Numbers("ladder", "All rungs", rows, caption, found["ladder"]))
    if len(found["shape"]):
        blocks += said(words.direction_sentence(found))
        blocks += [Shown(figures.shape_figure(found)), Shown(figures.singular_figure(found))]
        blocks.append(Shown(figures.alignment_figure(found, "data")))
        blocks += [Shown(figures.rows_figure(found, "data"))] if len(found["rows"]) else []
    if len(found["ablations"]):
        blocks += [*said(words.group_sentence(found)), Shown(figures.ablation_figure(found))]
    return [*blocks, *said(words.outlier_sentence(found), *words.shrinkage_remarks(found))]


def _transfer(subject: Subject) -> list[Block]:
    blocks: list[Block] = []
    for by in BY:
        try:
            found = subject.published.transfer(subject.key, by)
        except StoreError as error:
            blocks.append(unreadable(error))
            continue
        if found is None:
            command = f"transfer {subject.published.file} {subject.sae} --by {by}"
            blocks.append(not_made(f"The transfer of the map {BY[by]} has", command))
            continue
        blocks += [
            *said(transfer_sentence(found)),
            Shown(transfer_figure(found, "map", "r2")),
            *said(*transfer_remarks(found)),
        ]
    return blocks
