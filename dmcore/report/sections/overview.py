"""What an SAE misses, and every SAE of the study in numbers."""

from __future__ import annotations

from dmcore.figures.overview import budget_figure, schematic_figure
from dmcore.report.blocks import Block, Numbers, Section, Shown, said
from dmcore.report.sections.tables import record_rows, texts
from dmcore.report.subject import Subject
from dmcore.results import over_widths
from dmcore.words.names import plain, sae_phrase
from dmcore.words.overview import linear_sentence, width_sentence
from dmcore.words.paper import SUBJECTS, marks_sentence, paper_rows
from dmcore.words.sample import sample_words


def section(subject: Subject) -> Section:
    """Make the section."""
    rows, records = over_widths(subject.published.records, subject.record), subject.published.records
    here = records.filter(summary_key=subject.key)
    heads = ("Number", "The paper says", "This SAE says")
    paper = Numbers(
        "paper", "What does the paper say, and what does this study say?",
        texts(dict(zip(heads, row, strict=True)) for row in paper_rows(subject, rows)),
        f"{marks_sentence()} Its subjects are {SUBJECTS}; ours: {plain(subject.published.title)}. 95 % intervals over contexts.",
    )  # fmt: skip
    blocks: list[Block] = [
        *said(f"{linear_sentence(subject.record)} {width_sentence(subject, rows)}", finding=True),
        Shown(schematic_figure(subject)),
        Shown(budget_figure(subject, rows)),
        paper,
        Numbers("chosen_sae", "The SAE of this report", record_rows(here), f"{sae_phrase(subject.record)}. "
                f"{sample_words(subject.record)} 95 % intervals over contexts."),
        Numbers("records", "Every SAE of the study", record_rows(records), "FVU = Σ|x − Sae(x)|² / Σ|x − mean x|²; nonlinear "
                "FVU = Σ|e − ê|² / Σ|x − mean x|²; R² of what a linear map of x predicts of the error e, on contexts that it "
                f"was not fitted on. {sample_words(subject.record)} In brackets: 95 % intervals over contexts.", records),
    ]  # fmt: skip
    return Section("overview", "What does a sparse autoencoder miss?", tuple(blocks))
