"""The views of the page Downstream: what each variant costs, doses, shares over SAEs, kinds of token, single tokens."""

from __future__ import annotations

from collections.abc import Callable
from shlex import quote

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dmcore.charts.token_kinds import LEAST, kinds_table
from dmcore.figures.downstream import cost_figure, doses_figure, kinds_figure, recovered_rows, shares_figure
from dmcore.results import DOWNSTREAM, Downstream
from dmcore.ui import reads
from dmcore.ui.downstream_tokens import draw_tokens
from dmcore.ui.figure import draw
from dmcore.ui.look_job import draw_look_button
from dmcore.ui.missing import draw_missing
from dmcore.ui.model_kind import is_encoder
from dmcore.ui.reduction_views import lead_to_others
from dmcore.ui.sections import finding
from dmcore.ui.selection import Selection, option
from dmcore.ui.table import show_table
from dmcore.words.downstream import (
    NO_LOSS,
    both_sentence,
    control_sentence,
    downstream_finding,
    gap_sentence,
    recovered_sentence,
    remarks_of,
)

View = Callable[[Selection, Downstream], None]
"""Draws a view of what the selected SAE's error costs."""
LEAST_TOLD = -1.0
"""A variant that costs more than twice what a share is taken of has none."""
GAINED = {"recovered": "Loss", "kl_recovered": "KL"}
SIZES = {"norm_sq_share": "Squared norm", "norm_share": "Norm", "r2_share": "R² of the error"}


def draw_view(selection: Selection, look: str, top: DeltaGenerator) -> None:
    """Draw a view of the selected SAE, or say why there is none."""
    found = reads.downstream(selection.study_id, selection.record["summary_key"])
    if found is None:
        draw_no_downstream(selection)
        return
    with top:
        finding(downstream_finding(found))
    VIEWS[look][1](selection, found)


def cost_view(selection: Selection, found: Downstream) -> None:
    """Every variant."""
    draw(cost_figure(selection, found))
    for sentence in (recovered_sentence(found), control_sentence(found)):
        if sentence:
            st.markdown(sentence.replace(" %", "\xa0%"))
    _draw_recovered(found)
    notes = (gap_sentence(found), *remarks_of(found, ("recovered_zero", "recovered_mean", "recovered_sae")))
    for note in filter(None, notes):
        st.caption(note)


def _draw_recovered(found: Downstream) -> None:
    st.markdown("### How much of the loss is recovered?")
    number = st.column_config.NumberColumn
    heads = {
        "recovered_zero": ("Of zero ablation", "(loss with 0 − loss) / (loss with 0 − clean loss)"),
        "recovered_mean": (
            "Of mean ablation",
            "(loss with the mean of x − loss) / (loss with the mean of x − clean loss)",
        ),
        "recovered_sae": ("Of what Sae(x) costs", "1 − (loss − clean loss) / (loss with Sae(x) − clean loss)"),
    }
    config: dict = {"name": st.column_config.TextColumn("The site holds", width="medium")}
    for column, (head, formula) in heads.items():
        config[column] = number(head, format="%.1f %%", help=formula)
        config[f"{column}_half"] = number("±", format="%.1f", width=60, help="Half the width of the 95 % interval.")
    show_table(recovered_rows(found), key="downstream.recovered", hide_index=True, column_config=config)


def doses_view(selection: Selection, found: Downstream) -> None:
    """Loss over the dose of each part."""
    if found["doses"].is_empty():
        st.info("No doses were run: leave out `--dose-contexts 0`.", icon=":material/inbox:")
        return
    draw(doses_figure(selection, found))


def shares_view(selection: Selection, found: Downstream) -> None:
    """The parts' shares of the loss against their shares of the error, for every SAE with results."""
    with st.container(horizontal=True):
        against = option("against", "Size of a part", list(SIZES), list(SIZES.values()), "norm_sq_share",
                         kind=st.segmented_control)  # fmt: skip
        gained = option("gained", "Cost", list(GAINED), list(GAINED.values()), "recovered", kind=st.segmented_control)
    draw(shares_figure(selection, against, gained))
    if sentence := both_sentence(found):
        st.markdown(sentence.replace(" %", "\xa0%"))


def kinds_view(selection: Selection, found: Downstream) -> None:
    """How often the model is right, by the kind of the token that comes."""
    if kinds_table(found["kinds"]).is_empty():
        text = " ".join(remarks_of(found, ("kinds",))) or f"No kind of token has {LEAST} tokens here."
        st.info(text, icon=":material/inbox:")
        return
    draw(kinds_figure(selection, found))


def draw_no_downstream(selection: Selection) -> None:
    """Say what makes the results of this SAE, or why there can be none; lead to others that have some."""
    if is_encoder(selection.study_id, selection.record["site"]):
        st.info(NO_LOSS, icon=":material/info:")
        return
    command = f"downstream {selection.published.file} {quote(selection.record['sae'])}"
    draw_missing("The cost of this SAE's error has", command)
    study_id, key = selection.study_id, selection.record["summary_key"]
    draw_look_button(
        study_id, selection.record["sae"], lambda published: published.downstream(key) is not None, "downstream"
    )
    lead_to_others(selection, DOWNSTREAM)


VIEWS: dict[str, tuple[str, View]] = {
    "cost": ("Cost", cost_view),
    "doses": ("Doses", doses_view),
    "shares": ("Shares", shares_view),
    "kinds": ("Kinds of token", kinds_view),
    "tokens": ("Tokens", draw_tokens),
}
"""Title and view, by the name in the link."""
