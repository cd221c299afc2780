"""The charts of the view Controls."""

from __future__ import annotations

import polars as pl

from dmcore.charts.controls import (
    controls_chart,
    controls_table,
    curve_chart,
    curve_table,
    spectra_chart,
    spectra_table,
)
from dmcore.charts.numbers import number
from dmcore.figures.figure import Figure
from dmcore.results import Controls
from dmcore.results.controls import METRICS
from dmcore.words.controls import sample_sentence

HEADS = {
    "fvu": "FVU",
    "fvu_nonlinear": "Nonlinear FVU",
    "r2_error": "R² of the error",
    "r2_error_norm_sq": "R² of |e|²",
}
DICTIONARIES = "Would another dictionary look the same?"
DICTIONARY_WORDS = (
    "All on activations of this site, split in the same way. The small SAEs are trained alike, on the model and on a copy of it "
    "with random weights, and measured on the contexts that neither saw. An error that does not vary has no R²."
)


def controls_figure(found: Controls) -> Figure:
    """Every control in a row."""
    rows = found["controls"]
    return Figure(
        name="controls",
        key=(found.folder.name,),
        question="Is each number what it should be where the answer is known?",
        caption="Each row has a scale of its own. Grey: where the number should be; dashed box: where it should not be. Mark: "
        "what it is, with its 95 % interval: over shuffles or random draws where chance is in question, over contexts "
        "elsewhere; for seeds the largest change. Circle, cross, diamond: passed, not passed, undecided. "
        f"{sample_sentence(found)}",
        hint="Point at a row to read what is done and why.",
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


def dictionary_rows(found: Controls) -> pl.DataFrame:
    """The SAE and the dictionaries that it is compared with, numbers with their intervals as text."""
    rows = found["dictionaries"].to_dicts()
    columns = {"Dictionary": [row["title"] for row in rows], "L0": [round(row["l0"], 1) for row in rows],
               "Latents": [row["d_sae"] for row in rows]}  # fmt: skip
    for metric in METRICS:
        ends = [[row[f"{metric}{end}"] for end in ("", "_low", "_high")] for row in rows]
        columns[HEADS[metric]] = ["none" if value[0] is None else number(*value) for value in ends]
    return pl.DataFrame({**columns, "Tokens": [row["n_tokens"] for row in rows]})
