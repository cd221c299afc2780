"""The view *Norms* of the Scaling page: which parts of an activation have a size that a linear map can tell."""

from __future__ import annotations

import streamlit as st

from dmcore.errors import StoreError
from dmcore.figures.norms import latent_check_figure, norm_tests_figure
from dmcore.results import Scaling
from dmcore.ui.figure import draw
from dmcore.ui.selection import Selection
from dmcore.words.norms import norms_sentence
from dmcore.words.scaling import row_of


def draw_norms(selection: Selection, scaling: Scaling) -> None:
    """The tests of norms over all SAEs of the study, and the check of latents of the selected one."""
    records = selection.published.records
    sites = []
    for site in records["site"].unique(maintain_order=True):
        try:
            sites.append(selection.scaling_at(site))
        except StoreError:
            continue
    draw(norm_tests_figure(selection, sites))
    st.markdown(norms_sentence(scaling, scaling.number[selection.record["summary_key"]]))
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
        latent_check_figure(selection, scaling, latents, check),
        level=0,
    )
    probe = f"; the probe has held-out R² {check['probe_r2']:.3f}" if check["probe_r2"] is not None else ""
    st.markdown(
        f"Over these latents the correlation of slope and size is {check['pearson']:.2f} (Pearson), "
        f"{check['spearman']:.2f} (of "
        f"ranks, Spearman); 1 would mean that the probe knows each latent's size{probe}."
    )
