"""The charts of the view Shrinkage."""

from __future__ import annotations

import polars as pl

from dmcore.charts.map_shape import (
    alignment_chart,
    alignment_table,
    facts_chart,
    facts_table,
    rows_chart,
    rows_table,
    singular_chart,
    singular_table,
)
from dmcore.charts.numbers import number
from dmcore.charts.shrinkage import ablation_chart, ablation_table, ladder_chart, ladder_table, rank_chart, rank_table
from dmcore.figures.figure import Figure
from dmcore.results.shrinkage import CASES, Shrinkage
from dmcore.words.shrinkage import shrinkage_sample

LADDER_WORDS = (
    "Left: R² from x, held out, of what is left of the error once the rung is taken away. Gain: over the smaller map that the "
    "rung holds, paired. 95 % intervals over contexts."
)
OUTLIERS = "Is it an affair of a few outlying dimensions?"
OUTLIER_WORDS = "Held out by context, pooled; 95 % intervals over contexts, differences paired."
R2 = "R² = 1 − Σ|e − prediction|² / Σ|e − mean e|², pooled over tokens and dimensions, out of fold. "


def _key(found: Shrinkage, *more: str) -> tuple[str, ...]:
    return found.folder.name, *more


def _biased(found: Shrinkage) -> str:
    if found.about["fit_bias"]:
        return "Every map has a bias, into which b, the bias of the decoder, goes. "
    return "No map has a bias; b is the bias of the decoder. "


def ladder_figure(found: Shrinkage) -> Figure:
    """The ladder."""
    ladder = found["ladder"]
    return Figure(
        name="shrinkage_ladder",
        key=_key(found),
        question="Is the linear part only undone shrinkage?",
        caption=f"{R2}{_biased(found)}Dashed: the map of every rank. At the right R² as a share of its, paired. x and Sae(x) "
        "together are no rung: e = x − Sae(x). Bars: 95 % intervals over contexts, maps held fixed; most are narrower than their "
        "mark. "
        f"{shrinkage_sample(found)}",
        chart=lambda: ladder_chart(ladder),
        data=lambda: ladder_table(ladder),
    )


def rank_figure(found: Shrinkage) -> Figure:
    """R2 over the rank."""
    ranks = found["ranks"]
    return Figure(
        name="shrinkage_ranks",
        key=_key(found),
        question="How many directions does the map need, with and without shrinkage?",
        caption=f"{R2}Solid: the best map of each rank (reduced-rank regression). Dashed: α x taken away first, and the best map "
        "of each rank of what is left. If the linear part were shrinkage and a few directions, the dashed line would be flat "
        f"after those. Bands: 95 % intervals over contexts; rank 0 is in the data. {shrinkage_sample(found)}",
        chart=lambda: rank_chart(ranks),
        data=lambda: rank_table(ranks),
    )


def slope_of(found: Shrinkage) -> float | None:
    """Mean of the map's diagonal."""
    rows = found["shape"].filter(pl.col("fact") == "slope")
    return None if rows.is_empty() else rows["value"][0]


def shape_figure(found: Shrinkage) -> Figure:
    """Shares of the map."""
    shape = found["shape"]
    return Figure(
        name="shrinkage_shape",
        key=_key(found),
        question="What does the map look like?",
        caption="Shares of |W|², the sum of its squares: (tr W)² / d, Σ W_ii², |(W + Wᵀ) / 2|², |(W − Wᵀ) / 2|². Dashed: the "
        "mean of a random W. Every direction counts the same here, however much x varies along it. Bars: 95 % intervals, "
        f"jackknife over {found.about['n_folds']} folds. W of all {found.about['n_tokens']:,} tokens.",
        chart=lambda: facts_chart(shape),
        data=lambda: facts_table(shape),
    )


def singular_figure(found: Shrinkage) -> Figure:
    """The singular spectrum."""
    spectrum, slope = found["spectrum"], slope_of(found)
    return Figure(
        name="shrinkage_spectrum",
        key=_key(found),
        question="Does the map treat all directions alike?",
        caption="Singular values of W. Pure shrinkage, α I, has the same in every direction. Bands: 95 % intervals, "
        f"jackknife over {found.about['n_folds']} folds. W of all {found.about['n_tokens']:,} tokens.",
        chart=lambda: singular_chart(spectrum, slope),
        data=lambda: singular_table(spectrum),
    )


WEIGHTED = {
    "data": "Directions in the order of the variance of what the map predicts along them",
    "plain": "Directions are singular vectors of W, in the order of their values",
}
"""What the directions of a weighting are."""


def alignment_figure(found: Shrinkage, weighting: str) -> Figure:
    """Overlap with components."""
    alignment = found["alignment"]
    return Figure(
        name=f"shrinkage_alignment_{weighting}",
        key=_key(found, weighting),
        question="Do its directions lie along the main directions of x, or of the decoder?",
        caption=f"{WEIGHTED[weighting]}: those of x that it reads, those of the error that it writes. Mean squared cosine of the "
        "principal angles between the first k of them and the first k principal components of x (solid) or of the decoder rows "
        "(dotted). Grey: chance, k / d; below it they keep away from them. Bars: 95 % intervals, jackknife over "
        f"{found.about['n_folds']} folds. W of all {found.about['n_tokens']:,} tokens.",
        chart=lambda: alignment_chart(alignment, weighting),
        data=lambda: alignment_table(alignment, weighting),
    )


def rows_figure(found: Shrinkage, weighting: str) -> Figure:
    """Cosines with single decoder rows."""
    rows = found["rows"]
    return Figure(
        name=f"shrinkage_rows_{weighting}",
        key=_key(found, weighting),
        question="Are its directions those of single latents?",
        caption=f"{WEIGHTED[weighting]}. Largest |cosine| of each with any of the {found.about['d_sae']:,} decoder rows. Grey: "
        "the 95 % quantile of the same for 500 random directions, which one in twenty exceeds by chance. "
        f"W of all {found.about['n_tokens']:,} tokens.",
        chart=lambda: rows_chart(rows, weighting),
        data=lambda: rows_table(rows, weighting),
    )


def ablation_figure(found: Shrinkage) -> Figure:
    """What each group of components adds."""
    ablations = found["ablations"]
    return Figure(
        name="shrinkage_ablations",
        key=_key(found),
        question="Which directions of x does the linear part come from?",
        caption="Principal components of x on the training contexts, the largest first. Blue: (R² − R² without the group) / R², "
        "paired, the group held at its mean. With a bias that is what a fit on the other components gives. Black: the group's "
        f"share of the variance of x. {R2}Bars: 95 % intervals over contexts. {shrinkage_sample(found)}",
        chart=lambda: ablation_chart(ablations),
        data=lambda: ablation_table(ablations),
    )


def ladder_rows(found: Shrinkage) -> pl.DataFrame:
    """The ladder with every number and its interval as text."""
    rows = found["ladder"].to_dicts()

    def said(name: str) -> list[str]:
        return [number(*(row[f"{name}{end}"] for end in ("", "_low", "_high"))) for row in rows]

    columns = {"R²": said("r2"), "of the linear part": said("share"), "gain": said("gain"), "left": said("left")}
    about = {"map": [row["title"] for row in rows], "numbers fitted": [row["n_weights"] for row in rows]}
    alpha = ["" if row["alpha"] is None else f"{row['alpha']:.4g}" for row in rows]
    blank = {name: ["" if text == "not computed" else text for text in texts] for name, texts in columns.items()}
    return pl.DataFrame({**about, "α": alpha, **blank})


def outlier_rows(found: Shrinkage) -> pl.DataFrame:
    """R2 of the full map with and without outlying dimensions, numbers with their intervals as text."""
    rows = found["without"].to_dicts()
    texts = [
        [number(*(row[f"{name}{end}"] for end in ("", "_low", "_high"))) for row in rows] for name in ("r2", "drop")
    ]
    drops = ["" if text == "not computed" else text for text in texts[1]]
    cases = [CASES[row["case"]] for row in rows]
    return pl.DataFrame({"R² of the full map where": cases, "R²": texts[0], "less than with all": drops})
