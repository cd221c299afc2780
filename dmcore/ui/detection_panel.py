"""The view *Detection scores* of the page Nonlinear error: how well the text tells where single latents are active."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dmcore.charts.numbers import percent
from dmcore.figures.detection import deciles_figure, own_figure, parts_figure
from dmcore.results import Detection, Parts
from dmcore.results.detection import PATTERNS, scorers_of
from dmcore.ui import reads
from dmcore.ui.figure import draw
from dmcore.ui.look_job import draw_look_button
from dmcore.ui.missing import draw_missing
from dmcore.ui.sections import finding
from dmcore.ui.selection import Selection, option, set_option
from dmcore.ui.table import show_table
from dmcore.words.detection import (
    HOW,
    detection_finding,
    harder_sentence,
    latent_rows,
    legible,
    of_parts,
    scored_by,
    scorer_words,
)
from dmcore.words.names import plain
from dmcore.words.parts import NAMES
from dmcore.words.scaling import triple

_TABLE = "detection.table"


def choose_scorer(found: Sequence[Detection]) -> str:
    """Whose scores are shown, where several scored."""
    scorers = scorers_of(found)
    names = ["Patterns of the text" if one == PATTERNS else plain(one) for one in scorers]
    return option("scorer", "Told by", scorers, names, scorers[0], kind=st.selectbox)


def draw_told(selection: Selection, parts: Parts | None, top: DeltaGenerator) -> None:
    """Draw what there is of the selected SAE and of those on the parts of its error; what was found goes to the top."""
    found = reads.detections(selection.study_id, selection.record["summary_key"])
    found = [one for one in found if one.about["part"] is None] + of_parts(found, parts)
    if not found:
        which = "--parts" if parts is not None else quote(selection.record["sae"])
        draw_missing("Detection scores of these latents have", f"detect {selection.published.file} {which}")
        key = selection.record["summary_key"]
        draw_look_button(selection.study_id, selection.record["sae"], lambda found: bool(found.detections(key)))
        return
    scorer = choose_scorer(found)
    with top:
        finding(detection_finding(found, parts, scorer))
    draw_detection(found, parts, scorer)


def draw_detection(found: Sequence[Detection], parts: Parts | None, scorer: str) -> None:
    """Draw the view: the parts beside each other, then the latents of one SAE."""
    own = scored_by(found, scorer)
    if not own:
        failures = sorted({reason for one in found for reason in one["scores"]["failure"].drop_nulls()})
        st.info("No latent could be scored. " + plain(" ".join(failures[:1])), icon=":material/inbox:")
        return
    on_parts = of_parts(own, parts)
    if on_parts:
        _draw_parts(on_parts, scorer)
    _draw_latents(own, parts, scorer)
    st.caption(
        HOW.get(
            scorer, f"{plain(scorer)} explained each latent in a sentence and was then shown other windows with it."
        )
        + " Shares over deciles alone tell little: who always says that a latent is active has 100 % there and 0 % of the silent "
        "windows. Balanced accuracy is the mean of the two."
    )


def _draw_parts(found: Sequence[Detection], scorer: str) -> None:
    draw(parts_figure(found, scorer))
    if sentence := harder_sentence(found):
        st.markdown(sentence)
    draw(deciles_figure(found, scorer))


def _draw_latents(found: Sequence[Detection], parts: Parts | None, scorer: str) -> None:
    """The latents of the selected SAE or of one on a part, with their explanations."""
    entries = of_parts(found, parts)
    own = [one for one in found if one.about["part"] is None]
    by_name = {"own": own[0]} if own else {}
    by_name |= {f"{one.about['part_name']}.{one.about['train_seed']}": one for one in entries}
    if not by_name:
        return
    st.markdown("### Which latents are told, and by what?")
    names = [
        "The selected SAE" if one.about["part"] is None
        else f"SAE on {NAMES[one.about['part_name']]}, seed {one.about['train_seed']}"
        for one in by_name.values()
    ]  # fmt: skip
    whose = option("told", "Latents of", list(by_name), names, next(iter(by_name)), kind=st.selectbox)
    chosen = by_name[whose]
    if whose == "own" or not entries:
        _draw_own(chosen, scorer)
    _draw_table(chosen, whose)


def _draw_own(one: Detection, scorer: str) -> None:
    draw(own_figure(one, scorer))


def _draw_table(one: Detection, whose: str) -> None:
    table = latent_rows(one)
    numbers = table["latent"].to_list()

    def pick() -> None:
        picked = st.session_state[_TABLE].selection.rows
        if picked and picked[0] < len(numbers):
            for field, value in (("look", "features"), ("whose", whose), ("latent", str(numbers[picked[0]]))):
                set_option(field, value)

    column = st.column_config.NumberColumn
    by_patterns = one.about["scorer"] == PATTERNS
    first = ("latent", "balanced_accuracy", "explanation")  # what a narrow page shows
    show_table(
        table.select(*first, *(name for name in table.columns if name not in first)),
        key=_TABLE,
        on_select=pick,
        selection_mode="single-row",
        hide_index=True,
        height=320,
        column_config={
            "latent": column("Latent", format="%d", width="small"),
            "explanation": st.column_config.TextColumn("Best single pattern" if by_patterns else "Explanation", width="large"),
            "balanced_accuracy": column("Balanced acc.", format="%.0f %%", help="Mean of active and silent windows told."),
            "balanced_accuracy_low": column("95 % from", format="%.0f %%", help="95 % interval over the latent's windows."),
            "balanced_accuracy_high": column("95 % to", format="%.0f %%", help="95 % interval over the latent's windows."),
            "auc": column("AUC", format="%.2f"),
            "pattern_balanced_accuracy": column("Pattern alone", format="%.0f %%", help="Of the best single pattern alone."),
        },
    )  # fmt: skip
    alone = (
        " Balanced accuracy is of all patterns together; the last column is of the one that is named."
        if by_patterns
        else ""
    )
    st.caption(f"The best told first; click on a column's head to sort, on a row to see the latent's card.{alone}")


def draw_explanations(found: Sequence[Detection], latent: int) -> None:
    """What has been said of a latent, by each scorer, and how well it holds; nothing where nobody was asked about it."""
    for scorer in scorers_of(found):
        for row in filter(None, (one.score(latent) for one in found if one.about["scorer"] == scorer)):
            if row["failure"] is not None:
                st.caption(f"Detection by {scorer_words(scorer)}: {plain(legible(row['failure']))}")
                continue
            score = percent(*triple(row, "balanced_accuracy"))
            alone = percent(*triple(row, "pattern_balanced_accuracy"))
            best = f" The best single one has {alone}:" if scorer == PATTERNS else ""
            st.markdown(
                f"It is told from {scorer_words(scorer)} with a balanced accuracy of {score}, in "
                f"{row['n_active']:,} active and {row['n'] - row['n_active']:,} silent windows (guessing: 50 %).{best}"
            )
            # Code: in it no Markdown or HTML of an explanation means anything.
            st.code(legible(row["explanation"] or ""), language=None, wrap_lines=True)
