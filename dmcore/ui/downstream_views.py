"""The views of the page Downstream: what each variant costs, doses, shares over SAEs, kinds of token, single tokens."""

from __future__ import annotations

from collections.abc import Callable
from shlex import quote

import polars as pl
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dmcore.charts.doses import doses_chart, doses_table
from dmcore.charts.downstream import NAMES, cost_chart, cost_table
from dmcore.charts.shares import AGAINST, SHARES, shares_chart, shares_table, widths_words
from dmcore.charts.token_kinds import LEAST, kinds_chart, kinds_table
from dmcore.results import DOWNSTREAM, Downstream
from dmcore.results.downstream import PARTS
from dmcore.ui import reads
from dmcore.ui.downstream_tokens import draw_tokens
from dmcore.ui.downstream_words import (
    NO_LOSS,
    both_sentence,
    control_sentence,
    downstream_finding,
    gap_sentence,
    own_record,
    recovered_sentence,
    remarks_of,
    sample_of,
)
from dmcore.ui.figure import Figure, draw
from dmcore.ui.look_job import draw_look_button
from dmcore.ui.missing import draw_missing
from dmcore.ui.model_kind import is_encoder
from dmcore.ui.reduction_views import lead_to_others
from dmcore.ui.sections import finding
from dmcore.ui.selection import Selection, option

View = Callable[[Selection, Downstream], None]
"""Draws a view of what the selected SAE's error costs."""
LEAST_TOLD = -1.0
"""A variant that costs more than twice what a share is taken of has none."""
GAINED = {"recovered": "Loss", "kl_recovered": "KL"}
SIZES = {"norm_sq_share": "Squared norm", "norm_share": "Norm", "r2_share": "R² of the error"}
LOST = "Loss: cross-entropy of the next token, in nats; its rise over the clean model's is paired, token by token."


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
    draw(
        Figure(
            name="downstream_cost",
            key=(selection.record["summary_key"], found.folder.name),
            question="What does it cost to hold something else there?",
            caption="The activation at the site is replaced at the scored positions, and the model goes on from there. "
            f"{LOST} KL: of the predictions from the clean model's. Grey: controls; a random vector is as long as the "
            "error at its token; "
            "another token's error is scaled to that length. Bars of the mean of x and of 0 go on beyond their panel. "
            f"{sample_of(found)}",
            chart=lambda: cost_chart(found["variants"], found["sums"]),
            data=lambda: cost_table(found["variants"], found["sums"]),
        )
    )
    for sentence in (recovered_sentence(found), control_sentence(found)):
        if sentence:
            st.markdown(sentence.replace(" %", "\xa0%"))
    _draw_recovered(found)
    notes = (gap_sentence(found), *remarks_of(found, ("recovered_zero", "recovered_mean", "recovered_sae")))
    for note in filter(None, notes):
        st.caption(note)


def recovered_rows(found: Downstream) -> pl.DataFrame:
    """What each variant recovers, in percent, with half the width of its intervals."""
    rows = found["variants"].filter(pl.col("variant").is_in(list(NAMES)))
    rows = rows.with_columns(name=pl.col("variant").replace_strict(NAMES))
    columns: list[pl.Expr] = [pl.col("name")]
    for column in ("recovered_zero", "recovered_mean", "recovered_sae"):
        half = 100 * (pl.col(f"{column}_high") - pl.col(f"{column}_low")) / 2
        told = pl.col(column) >= LEAST_TOLD  # ablations cost many times what Sae(x) does: no share of it
        columns += [
            pl.when(told).then(pl.col(column) * 100).alias(column),
            pl.when(told).then(half).alias(f"{column}_half"),
        ]
    return rows.select(*columns)


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
    st.dataframe(recovered_rows(found), key="downstream.recovered", hide_index=True, column_config=config)


def doses_view(selection: Selection, found: Downstream) -> None:
    """Loss over the dose of each part."""
    doses = found["doses"]
    if doses.is_empty():
        st.info("No doses were run: leave out `--dose-contexts 0`.", icon=":material/inbox:")
        return
    n = doses["n_tokens"][0]
    draw(
        Figure(
            name="downstream_doses",
            key=(selection.record["summary_key"], found.folder.name),
            question="Does a part cost in proportion to how much of it is missing?",
            caption="Loss of Sae(x) + λ · part above the clean model's: 0 is Sae(x), 1 has the whole part. A straight "
            "line down to 1 "
            "would be in proportion; a curve that flattens early says that the first piece matters most. Beyond 1 there "
            "is more of "
            f"the part than x has. Bands: 95 % intervals over {found.about['dose_contexts']:,} contexts ({n:,} predictions), so "
            "that 0 and 1 need not be what all contexts give.",
            chart=lambda: doses_chart(doses),
            data=lambda: doses_table(doses),
        )
    )


def shares_of(selection: Selection) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """`SHARES` of every SAE of the study with results, and the keys of their entries."""
    records = {row["summary_key"]: row for row in selection.published.records.to_dicts()}
    rows, keys = [], []
    for key in reads.looked(selection.study_id, DOWNSTREAM):
        found = reads.downstream(selection.study_id, key)
        if found is None:
            continue
        keys.append(found.folder.name)
        more = own_record(found)
        about = {name: records[key][name] for name in ("sae", "layer", "d_sae", "l0")}
        rows += [found.part(part) | more[part] | about for part in PARTS]
    table = pl.DataFrame([{c: row.get(c) for c in SHARES} for row in rows], schema=SHARES, strict=False)
    return table, tuple(keys)


def shares_view(selection: Selection, found: Downstream) -> None:
    """The parts' shares of the loss against their shares of the error, for every SAE with results."""
    with st.container(horizontal=True):
        against = option("against", "Size of a part", list(SIZES), list(SIZES.values()), "norm_sq_share",
                         kind=st.segmented_control)  # fmt: skip
        gained = option("gained", "Cost", list(GAINED), list(GAINED.values()), "recovered", kind=st.segmented_control)
    shares, keys = shares_of(selection)
    n = shares["sae"].n_unique()
    of = f"{n} SAE{'s' if n != 1 else ''} with results: {widths_words(shares)}"
    what = "loss" if gained == "recovered" else "KL"
    draw(
        Figure(
            name=f"downstream_shares_{against}_{gained}",
            key=(selection.record["summary_key"], against, gained, *keys),
            question="Does a part cost what its size says?",
            caption=f"Across: {AGAINST[against]}. Up: share of the {what} that Sae(x) costs which adding the part back "
            "recovers. On the "
            "dashed line a part costs in proportion to its size; above it, more. Shares of the two parts need not add up "
            "to 1: the "
            "parts are not orthogonal, and the model is not linear. Larger dots: wider dictionaries; ringed: the selected SAE. "
            f"Bars: 95 % intervals over contexts. {of}.",
            chart=lambda: shares_chart(shares, against, gained, selection.record["sae"]),
            data=lambda: shares_table(shares, against, gained),
        )
    )
    if sentence := both_sentence(found):
        st.markdown(sentence.replace(" %", "\xa0%"))


def kinds_view(selection: Selection, found: Downstream) -> None:
    """How often the model is right, by the kind of the token that comes."""
    kinds = found["kinds"]
    if kinds_table(kinds).is_empty():
        text = " ".join(remarks_of(found, ("kinds",))) or f"No kind of token has {LEAST} tokens here."
        st.info(text, icon=":material/inbox:")
        return
    draw(
        Figure(
            name="downstream_kinds",
            key=(selection.record["summary_key"], found.folder.name),
            question="At which tokens do predictions suffer?",
            caption="Cloze accuracy on held-out text: how often the most probable token is the one that comes, by the "
            "kind of that token "
            "(number of tokens in brackets). Right: how many percentage points fewer than the clean model, paired. "
            f"Kinds of fewer than {LEAST} tokens are left out. {sample_of(found)}",
            chart=lambda: kinds_chart(kinds),
            data=lambda: kinds_table(kinds),
        )
    )


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
