"""Whether the numbers are what they should be where the answer is known."""

from __future__ import annotations

import polars as pl

from dmcore.charts.controls import controls_table
from dmcore.figures import controls as figures
from dmcore.report.blocks import Block, Numbers, Section, Shown, not_made, part, said
from dmcore.report.sections.tables import shown_texts
from dmcore.report.subject import Subject
from dmcore.results import Controls
from dmcore.results.controls import PASSED, RULE_WORDS
from dmcore.words.controls import controls_finding, sample_sentence, shuffled_sentence
from dmcore.words.names import plain

COLUMNS = {
    "title": "Control",
    "verdict_text": "Verdict",
    "is_text": "Is",
    "should_text": "Should be",
    "quantity": "Number",
    "n_tokens": "Tokens",
    "what": "What is done",
    "why": "Why it should be that",
    "rule": "Passed",
}
"""Of the table of controls, and their heads."""


def section(subject: Subject) -> Section:
    """Make the section."""
    return Section(
        "controls", "Are the numbers what they should be where the answer is known?", tuple(_blocks(subject))
    )


def _blocks(subject: Subject) -> list[Block]:
    found = subject.published.controls(subject.key)
    if found is None:
        return [not_made("The controls of this SAE have", f"controls {subject.published.file} {subject.sae}")]
    sample = sample_sentence(found)
    return [
        *said(controls_finding(found), finding=True),
        *part("Every control", [
            Shown(figures.controls_figure(found)),
            *said(shuffled_sentence(found), *_notes(found)),
            Numbers("controls", "What is done, and how each is judged", control_rows(found), sample, found["controls"]),
        ]),
        *part("Are there enough tokens?", [
            Shown(figures.curve_figure(found, metric)) for metric in ("r2_error", "fvu_nonlinear")
        ]),
        *part(figures.DICTIONARIES, _dictionaries(found)),
    ]  # fmt: skip


def _notes(found: Controls) -> list[str]:
    rows = found["controls"].filter(pl.col("verdict") != PASSED).to_dicts()
    notes = [f"**{plain(row['title'])}.** {plain(row['note'])}" for row in rows if row["note"]]
    return [*notes, *map(plain, found["remarks"]["text"])]


def control_rows(found: Controls) -> pl.DataFrame:
    """Every control with what is done, why, and how it is judged."""
    table = controls_table(found["controls"]).with_columns(pl.col("rule").replace(_rules()))
    return shown_texts(table.select(pl.col(name).alias(head) for name, head in COLUMNS.items()))


def _rules() -> dict[str, str]:
    return {rule: words.removeprefix("passed ") for rule, words in RULE_WORDS.items()}


def _dictionaries(found: Controls) -> list[Block]:
    blocks: list[Block] = []
    if len(found["dictionaries"]):
        blocks.append(
            Numbers("control_dictionaries", "This SAE and dictionaries that know nothing",
                    shown_texts(figures.dictionary_rows(found)),
                    f"{figures.DICTIONARY_WORDS} 95 % intervals over contexts. {sample_sentence(found)}", found["dictionaries"])
        )  # fmt: skip
    return [*blocks, *([Shown(figures.spectra_figure(found))] if len(found["spectra"]) else [])]
