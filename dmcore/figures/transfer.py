"""The charts of the view Transfer."""

from __future__ import annotations

from dmcore.charts.transfer import matrix_chart, matrix_table
from dmcore.figures.figure import Figure
from dmcore.results.transfer import Transfer
from dmcore.words.transfer import member_labels, transfer_sample

QUESTIONS = {
    "domain": "Does the map of one text hold on another?",
    "layer": "Does the map of one layer hold at another?",
    "sae": "Does the map of one SAE hold for another of the same site?",
    "width": "Does the map of one width hold for another?",
}
KEPT_WORDS = {
    "map": "The map as it was fitted, slope and bias. ",
    "slope": "The slope as it was fitted; the means of x and of the error are those of where it is tested. ",
    "scaled": "The slope times one number; that, and the means, are fitted where it is tested. ",
}
ABOUT = {
    "domain": "All texts: every kept token. Where texts are named by document, contexts of one document are both fitted and "
    "tested on in the diagonal, never the same ones. A map of few tokens is noisy, most of all along directions in which its own "
    "text hardly varies: part of what does not transfer is that, and the row of all texts has the least of it. ",
    "layer": "One SAE a layer, of the nearest width and L0. The map of one layer reads x of the other and predicts the error "
    "there. ",
    "sae": "SAEs of this site: of this kind at every width and L0, and of the other kinds at this width. ",
    "width": "SAEs of this site, one a width, of the nearest L0. ",
}
CELLS = {
    "r2": "R² = 1 − Σ|e − prediction|² / Σ|e − mean e|², pooled over tokens and dimensions, held out by context in every cell; "
    "below 0 the prediction is worse than the mean. ",
    "relative": "R² over R² of the map fitted where it is tested, held out by context in every cell, paired over contexts. ",
}


def transfer_figure(found: Transfer, kept: str, shown: str) -> Figure:
    """The matrix.

    Args:
        found: the result.
        kept: of `dmcore.results.transfer.KEPT`.
        shown: `r2`, or `relative` to the map fitted where it is tested.
    """
    cells, labels = found["cells"], member_labels(found)
    return Figure(
        name=f"transfer_{found.by}_{kept}_{shown}",
        key=(found.folder.name, kept, shown),
        question=QUESTIONS[found.by],
        caption=f"{KEPT_WORDS[kept]}{CELLS[shown]}{ABOUT[found.by]}Framed: fitted where it is tested. 95 % "
        f"intervals over contexts are in the data. {transfer_sample(found)}",
        hint="Point at a cell for its interval.",
        chart=lambda: matrix_chart(cells, labels, kept, shown),
        data=lambda: matrix_table(cells, labels, kept, shown),
    )
