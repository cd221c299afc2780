"""The view *Norms* of the Scaling page: which parts of an activation have a size that a linear map can tell."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dmcore.charts.latents import latents_chart, latents_table
from dmcore.charts.norm_tests import named, norm_tests_chart, norm_tests_table
from dmcore.errors import StoreError
from dmcore.results import Scaling
from dmcore.ui.figure import Figure, draw
from dmcore.ui.sections import sample_words
from dmcore.ui.selection import Selection
from dmcore.words.norms import norms_sentence
from dmcore.words.scaling import row_of


def draw_norms(selection: Selection, scaling: Scaling) -> None:
    """The tests of norms over all SAEs of the study, and the check of latents of the selected one."""
    record, records = selection.record, selection.published.records
    sites = []
    for site in records["site"].unique(maintain_order=True):
        try:
            sites.append(selection.scaling_at(site))
        except StoreError:
            continue
    tests = pl.concat([named(one["norm_tests"], one.about["saes"]) for one in sites])
    draw(
        Figure(
            name="norm_tests",
            key=(record["summary_key"], *(one.folder.name for one in sites)),
            question="Whose size does a linear map know?",
            caption="Held-out R² of |v|² predicted by a linear map with a bias, for six quantities v: a dot is an SAE of the "
            f"study ({len(records)} in all), the diamond the selected one, the bar the median. Left: from x. Right: from v "
            f"itself. A sparse sum of features whose sizes are fixed has a squared norm that is linear in it; noise has not. "
            "Sae(x) + nonlinear error is x less its linear error. Linear and nonlinear error are out of fold. "
            f"{sample_words(record)}",
            chart=lambda: norm_tests_chart(tests, records, record["sae"]),
            data=lambda: norm_tests_table(tests, records),
        )
    )
    st.markdown(norms_sentence(scaling, scaling.number[record["summary_key"]]))
    draw_latents(selection, scaling)


def draw_latents(selection: Selection, scaling: Scaling) -> None:
    """Is the probe for the reconstruction's squared norm the sum of its latents' sizes?"""
    sae = scaling.number[selection.record["summary_key"]]
    latents, check = scaling["latents"].filter(sae=sae), row_of(scaling["latent_checks"], sae=sae)
    st.subheader("Does the probe of the norm know each latent's size?", anchor=False)
    if not len(latents) or check is None or check["pearson"] is None:
        st.info(
            "This SAE has no decoder rows to compare with (it scales each token by itself, or is an object that has none), or "
            "too few latents that are active.",
            icon=":material/inbox:",
        )
        return
    draw(
        Figure(
            name="latent_check",
            key=(selection.record["summary_key"], scaling.folder.name),
            question="Does the probe of the norm know each latent's size?",
            caption="w: a linear probe for |Sae(x) − b|² from Sae(x) − b, where b is the decoder's bias. Vertical: its slope "
            "w·d/|d| along a latent's decoder row d. Horizontal: the latent's mean value where it is active, "
            "times |d|. If latents "
            "were orthogonal and each had one size, all would lie on the dashed line. "
            f"A dot is a latent: {len(latents)} of {check['n_latents']:,} latents that are active on 10 tokens "
            f"or more, at equal steps of frequency. {sample_words(selection.record)}",
            chart=lambda: latents_chart(latents),
            data=lambda: latents_table(latents),
        ),
        level=0,
    )
    probe = f"; the probe has held-out R² {check['probe_r2']:.3f}" if check["probe_r2"] is not None else ""
    st.markdown(
        f"Over these latents the correlation of slope and size is {check['pearson']:.2f} (Pearson), "
        f"{check['spearman']:.2f} (of "
        f"ranks, Spearman); 1 would mean that the probe knows each latent's size{probe}."
    )
