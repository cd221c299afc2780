"""The charts of the view *Tokens* that are of all tokens: pairs of SAEs, and groups of tokens."""

from __future__ import annotations

import polars as pl

from dmcore.charts.pairs import pairs_chart, pairs_table
from dmcore.charts.slices import slices_chart, slices_table
from dmcore.figures.figure import Figure
from dmcore.results import Scaling
from dmcore.words.chosen import Chosen
from dmcore.words.scaling import l0_span

KINDS = (
    "Word start: letters after a space; word part: letters with none before; mixed: letters with digits or "
    "signs; newline: white "
    "space with a line break; bytes: a piece of a character. "
)


def pairs_figure(scaling: Scaling, members: pl.DataFrame, value: str) -> Figure:
    """How well one width's error tells another's, token by token."""
    explained = {
        "r2": "Held-out R² of the error norm |e| of one SAE (column) predicted from that of another (row) by a straight line.",
        "spearman": "Spearman's rank correlation of the error norms |e| of two SAEs.",
        "closed": "Share of the variance that the row's |e| leaves unexplained in the column's |e|, which adding the row's "
        "|nonlinear error| as a second regressor explains, held out: (R²₂ − R²₁) / (1 − R²₁).",
    }
    pairs = scaling["pairs"]
    return Figure(
        name=f"pairs_{value}",
        key=(str(scaling.folder.name), str(members["set"][0]), value),
        question="Do wider SAEs fail on the same tokens?",
        caption=f"{explained[value]} n = {scaling.about['n_tokens']:,} tokens in {scaling.about['n_contexts']:,} contexts; "
        f"folds of whole contexts. {l0_span(members)}. Diagonal: an SAE from itself.",
        chart=lambda: pairs_chart(pairs, members, value),
        data=lambda: pairs_table(pairs, members, value),
    )


def slices_figure(chosen: Chosen, scaling: Scaling, slices: pl.DataFrame, by: str) -> Figure:
    """The parts by kind of token, position or domain; `slices`: of the chosen SAE."""
    return Figure(
        name=f"slices_{by}",
        key=(chosen.record["summary_key"], str(scaling.folder.name), by),
        question="Where is the error large?",
        caption="Left: mean squared norm of each part in a group over that of all tokens (dashed, 1: average). Right: "
        "nonlinear error's squared norm over the total error's, in the group. "
        f"{KINDS if by == 'class' else ''}Bars: 95 % intervals over contexts. n = {scaling.about['n_tokens']:,} tokens.",
        chart=lambda: slices_chart(slices, by),
        data=lambda: slices_table(slices, by),
    )
