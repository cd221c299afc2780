"""Whether the numbers are what they should be where the answer is known, and what the paper's statements come to here."""

from __future__ import annotations

import polars as pl

from dmcore.charts.claims import claims_chart, claims_table
from dmcore.charts.controls import controls_table
from dmcore.errors import DarkMatterError
from dmcore.figures.controls import controls_figure
from dmcore.figures.figure import Figure
from dmcore.report.blocks import Block, Numbers, Section, Shown, not_made, said, unreadable
from dmcore.report.sections.tables import texts
from dmcore.report.subject import Subject
from dmcore.results.claims import LEAST_CONTEXTS
from dmcore.words.claims import claims_finding
from dmcore.words.controls import controls_finding, sample_sentence, shuffled_sentence
from dmcore.words.names import plain


def section(subject: Subject) -> Section:
    """Make the section."""
    return Section("controls", "Do the numbers mean what they say?", (*_controls(subject), *_claims(subject)))


def _controls(subject: Subject) -> list[Block]:
    found = subject.published.controls(subject.key)
    if found is None:
        return [not_made("The controls of this SAE have", f"controls {subject.published.file} {subject.sae}")]
    rows = found["controls"]
    return [
        *said(controls_finding(found), finding=True),
        Shown(controls_figure(found)),
        *said(shuffled_sentence(found)),
        Numbers("controls", "Every control", as_text(controls_table(rows)), sample_sentence(found), rows),
    ]


def _claims(subject: Subject) -> list[Block]:
    try:
        found = subject.published.claims()
    except DarkMatterError as error:
        return [unreadable(error)]
    study = found.study
    n_contexts = int(study["n_contexts"][0])
    if n_contexts < LEAST_CONTEXTS:
        return said(plain(str(study["reason"][0])))
    figure = Figure(
        name="claims",
        key=(subject.study_id,),
        question="Which of the paper's statements hold here?",
        caption="A row a statement, on a scale of its own. Grey: the range in which it holds. Bar: the 95 % interval over "
        f"{n_contexts:,} contexts of the mean over the study's SAEs, held out by context. All of it in the range: holds; all "
        "of it outside: fails; else undecided.",
        chart=lambda: claims_chart(study),
        data=lambda: claims_table(study),
    )
    return [
        *said(plain(claims_finding(study)), finding=True),
        Shown(figure),
        Numbers("claims", "Every statement", as_text(claims_table(study)), "", study),
    ]


def as_text(table: pl.DataFrame) -> pl.DataFrame:
    """A chart's own table as texts, numbers to four figures."""
    return texts(
        {
            name: f"{value:.4g}" if isinstance(value, float) else "" if value is None else value
            for name, value in row.items()
        }
        for row in table.to_dicts()
    )
