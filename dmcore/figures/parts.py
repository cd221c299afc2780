"""The charts of the view *SAEs on the parts*."""

from __future__ import annotations

from dmcore.charts.parts import parts_chart, parts_table, training_chart, training_table
from dmcore.charts.seeds import seeds_chart, seeds_table
from dmcore.figures.figure import Figure
from dmcore.results import Parts
from dmcore.words.names import architecture_name


def parts_figure(parts: Parts, key: tuple[str, ...]) -> Figure:
    """FVU of SAEs on each part."""
    about = parts.about
    sample = (
        f"n = {about['n_tokens']:,} tokens in {about['n_contexts']:,} contexts; parts out of {about['n_folds']} folds."
    )
    return Figure(
        name="parts_fvu",
        key=key,
        question="How much of each part can an SAE rewrite?",
        caption=f"{budget_words(parts)}. FVU = Σ|v − Sae(v)|² / Σ|v − mean v|² of each part v: a "
        "dot is a seed, the bar their mean. "
        f"Bars: 95 % intervals over contexts. Right: latents that no token activates. {sample}",
        chart=lambda: parts_chart(parts["saes"], parts["means"], parts["differences"]),
        data=lambda: parts_table(parts["saes"], parts["means"]),
    )


def training_figure(parts: Parts, key: tuple[str, ...]) -> Figure:
    """FVU of those SAEs in training."""
    return Figure(
        name="parts_training",
        key=key,
        question="Was the budget enough?",
        caption="FVU on held-out training texts, a line for each seed. Where a line still falls at its end, more tokens "
        f"would lower it; compare parts by that too. {budget_words(parts)}.",
        chart=lambda: training_chart(parts["curves"]),
        data=lambda: training_table(parts["curves"]),
    )


def seeds_figure(parts: Parts, key: tuple[str, ...]) -> Figure:
    """Whether seeds find the same latents."""
    return Figure(
        name="parts_seeds",
        key=key,
        question="Do other seeds find the same latents?",
        caption="Latents of two seeds, matched one to one by the cosine of their decoder rows; those that some token "
        "activates. Dashed: random rows, and random rows with the second moments of the dictionaries. SAEs that are "
        "trained on noise can agree more than either, so a share above a cosine is no count of true features.",
        chart=lambda: seeds_chart(parts["stability"]),
        data=lambda: seeds_table(parts["stability"]),
    )


def budget_words(parts: Parts) -> str:
    """The budget that all SAEs on the parts had."""
    about = parts.about
    return (
        f"{architecture_name(about['architecture'])} SAEs of {about['width']:,} latents, L0 {about['l0']}, "
        f"{about['tokens']:,} training tokens each, seeds {', '.join(map(str, about['seeds']))}"
    )
