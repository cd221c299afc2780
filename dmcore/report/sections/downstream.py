"""What the error costs the model."""

from __future__ import annotations

import polars as pl

from dmcore.charts.downstream import NAMES
from dmcore.charts.shares import AGAINST
from dmcore.charts.token_kinds import kinds_table
from dmcore.figures import downstream as figures
from dmcore.report.blocks import Block, Numbers, Part, Section, Shown, choices, not_made, part, said
from dmcore.report.sections.tables import estimates, with_halves
from dmcore.report.subject import Subject
from dmcore.words.downstream import (
    both_sentence,
    control_sentence,
    downstream_finding,
    gap_sentence,
    recovered_sentence,
    remarks_of,
    sample_of,
)

TITLE = "What does the error cost the model?"
RECOVERED = {
    "recovered_zero": "Of zero ablation",
    "recovered_mean": "Of mean ablation",
    "recovered_sae": "Of what Sae(x) costs",
}
HEADS = {"name": ("The site holds", ""), **{name: (head, "%.1f %%") for name, head in RECOVERED.items()}}


def section(subject: Subject) -> Section:
    """Make the section."""
    found = subject.downstream(subject.key)
    if found is None:
        command = f"downstream {subject.published.file} {subject.sae}"
        return Section("downstream", TITLE, (not_made("What this SAE's error costs the model has", command),))
    variants = found["variants"].filter(pl.col("variant").is_in(list(NAMES)))
    variants = variants.with_columns(name=pl.col("variant").replace_strict(NAMES))
    costs = estimates(variants, {"name": "The site holds"}, {"delta": "Loss over the clean model's (nats a token)"})
    blocks: list[Block] = [
        *said(downstream_finding(found), finding=True),
        Part("Cost"),
        Shown(figures.cost_figure(subject, found)),
        Numbers("downstream_variants", "What each variant costs", costs, sample_of(found), found["variants"]),
        *said(recovered_sentence(found), control_sentence(found)),
        Numbers("downstream_recovered", "How much of the loss is recovered?",
                with_halves(figures.recovered_rows(found).to_dicts(), HEADS),
                f"± is half the width of a 95 % interval. {sample_of(found)}", figures.recovered_rows(found)),
        *said(gap_sentence(found), *remarks_of(found, ("recovered_zero", "recovered_mean", "recovered_sae"))),
    ]  # fmt: skip
    if len(found["doses"]):
        blocks += part("Doses", [Shown(figures.doses_figure(subject, found))])
    blocks.append(Part("Shares"))
    blocks += choices(
        figures.shares_figure(subject, against, gained)
        for gained in ("recovered", "kl_recovered")
        for against in AGAINST
    )
    blocks += said(both_sentence(found))
    if len(kinds_table(found["kinds"])):
        blocks += part("Kinds of token", [Shown(figures.kinds_figure(subject, found))])
    return Section("downstream", TITLE, tuple(blocks))
