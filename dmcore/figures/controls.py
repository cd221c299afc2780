"""The charts of the view Controls."""

from __future__ import annotations

from dmcore.charts.controls import (
    controls_chart,
    controls_table,
    curve_chart,
    curve_table,
    spectra_chart,
    spectra_table,
)
from dmcore.figures.figure import Figure
from dmcore.results import Controls
from dmcore.words.controls import sample_sentence


def controls_figure(found: Controls) -> Figure:
    """Every control in a row."""
    rows = found["controls"]
    return Figure(
        name="controls",
        key=(found.folder.name,),
        question="Is each number what it should be where the answer is known?",
        caption="Each row has a scale of its own. Grey: where the number should be; dashed box: where it should not be. Mark: "
        "what it is, with its 95 % interval: over shuffles or random draws where chance is in question, over contexts "
        "elsewhere; for seeds the largest change. Circle, cross, diamond: passed, not passed, undecided. Point at a "
        f"row to read what is done and why. {sample_sentence(found)}",
        chart=lambda: controls_chart(rows),
        data=lambda: controls_table(rows),
    )


def curve_figure(found: Controls, metric: str) -> Figure:
    """The learning curve of `r2_error` or `fvu_nonlinear`."""
    curve, tends = found["curve"], found["asymptotes"]
    return Figure(
        name=f"controls_curve_{metric}",
        key=(found.folder.name, metric),
        question=f"{'Linear share' if metric == 'r2_error' else 'Nonlinear FVU'} by maps of fewer texts",
        caption="Maps fitted on 1/16 to all of the training contexts of each fold, tested on the same tokens. Band: 95 % "
        "interval over contexts, maps held fixed. Dashed: the intercept of a line over d/(n − d − 1) through the last three "
        f"points. {sample_sentence(found)}",
        chart=lambda: curve_chart(curve, tends, metric),
        data=lambda: curve_table(curve, metric),
    )


def spectra_figure(found: Controls) -> Figure:
    """Variance of the predicted error by direction, against chance."""
    spectra = found["spectra"]
    return Figure(
        name="controls_spectra",
        key=(found.folder.name,),
        question="In how many directions is more predicted than chance would?",
        caption="Eigenvalues of the variance of the predicted error, by the map of all tokens, over the error's variance; "
        f"dashed: the same of shuffled errors. In sample: the fit to noise is in both. {sample_sentence(found)}",
        chart=lambda: spectra_chart(spectra),
        data=lambda: spectra_table(spectra),
    )
