"""How linear the error of an SAE is."""

from __future__ import annotations

from dmcore.figures import regression as figures
from dmcore.figures.figure import Figure
from dmcore.report.blocks import Block, Numbers, Section, Shown, said
from dmcore.report.sections.tables import estimates
from dmcore.report.subject import Subject
from dmcore.results import over_layers
from dmcore.words.regression import baseline_sentence, prediction_sentence, sink_sentence
from dmcore.words.sample import sample_words


def section(subject: Subject) -> Section:
    """Make the section."""
    summary, record = subject.summary, subject.record
    layers = over_layers(subject.published.records, record)
    charts: list[tuple[int, Figure]] = [
        (len(summary.density), figures.density_figure(summary, "norm_sq")),
        (len(summary.density), figures.density_figure(summary, "vector")),
        (len(summary.dims), figures.dimensions_figure(summary)),
        (len(summary.ridge), figures.ridge_figure(summary)),
        (len(summary.variants), figures.settings_figure(summary, record)),
        (len(summary.positions), figures.positions_figure(summary)),
        (len(summary.baselines), figures.baselines_figure(summary)),
        (len(layers) - 1, figures.baselines_by_layer_figure(subject, layers)),
        (len(layers) - 1, figures.layers_figure(subject, layers)),
    ]
    blocks: list[Block] = [
        *said(f"{prediction_sentence(record)} {baseline_sentence(summary.baselines)}", finding=True),
        *(Shown(figure) for n, figure in charts if n > 0),
        *said(sink_sentence(summary.positions)),
    ]
    if len(summary.variants):
        about = {"skip_positions": "Skipped positions", "fit_bias": "Bias"}
        values = {"fvu_nonlinear": "Nonlinear FVU", "r2_error": "R² of vector, pooled",
                  "r2_error_mean_dims": "R² of vector, mean over dims", "r2_error_norm_sq": "R² of squared norm"}  # fmt: skip
        shown = {name: head for name, head in values.items() if name in summary.variants.columns}
        blocks.append(
            Numbers("settings", "The same under other settings", estimates(summary.variants, about, shown),
                    f"Held out by context; 95 % intervals over contexts. {sample_words(record)}", summary.variants)
        )  # fmt: skip
    return Section("regression", "How linear is the error?", tuple(blocks))
