"""Cached reads of finished results: the only way in which pages reach the store.

A page needs one read for the study's records and one for the chosen SAE. Both are kept in memory: records for as long as
`FRESH_SECONDS`, so that a sweep that has just ended shows up; summaries by their content key, for good. Results are frozen
objects over immutable polars tables, so they are shared between sessions and never copied.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl
import streamlit as st

from dmcore.errors import DarkMatterError, StoreError
from dmcore.words.streams import told_apart

if TYPE_CHECKING:
    from dmcore.results import (
        Controls,
        Detection,
        Downstream,
        Features,
        Learned,
        Parts,
        Reduction,
        Scaling,
        Structure,
        Summary,
    )
    from dmcore.results.claims import Claims
    from dmcore.results.shrinkage import Shrinkage
    from dmcore.results.transfer import Transfer
    from dmcore.run.jobs.disk import Holding
    from dmcore.specs import Study
    from dmcore.store.published import Published

FRESH_SECONDS = 20
"""How long a study's records are shown before they are read again."""


@st.cache_resource(ttl=FRESH_SECONDS, show_spinner=False)
def studies() -> dict[str, str]:
    """Title of every study that has results, by its name; raises `StoreError` with the remedy where there is none."""
    from dmcore.store.published import list_studies

    found = list_studies()
    if not found:
        raise StoreError(
            "Nothing has been computed yet: start a study on the Runs page, or run `python -m dmcore sweep demo`."
        )
    return found


@st.cache_resource(ttl=FRESH_SECONDS, max_entries=16, show_spinner="Reading the study's results")
def published(study_id: str) -> Published:
    """The finished results of a study; raises `StoreError` with the remedy where there are none."""
    from dmcore.store.published import open_published

    found = open_published(study_id)
    if not len(found.records):
        raise StoreError(
            f"The study {study_id} has no result yet: start it on the Runs page, or run `python -m dmcore sweep` on its file."
        )
    return replace(found, records=told_apart(found.records))


@st.cache_resource(max_entries=256, show_spinner="Reading this SAE's results")
def summary(study_id: str, summary_key: str) -> Summary:
    """Everything that pages show of one SAE."""
    try:
        return published(study_id).summary(summary_key)
    except (OSError, KeyError, ValueError, pl.exceptions.PolarsError) as error:
        if isinstance(error, DarkMatterError):
            raise
        raise StoreError("The results of this SAE cannot be read: sweep the study again to make them anew.") from error


@st.cache_resource(max_entries=64, show_spinner="Reading how this site scales")
def scaling(study_id: str, site: str, summaries: tuple[str, ...]) -> Scaling:
    """The comparison of the SAEs at a site; `summaries`: the keys of their summaries, which name it."""
    del summaries
    return published(study_id).scaling(site)


@st.cache_resource(max_entries=64, ttl=FRESH_SECONDS, show_spinner=False)
def parts(study_id: str, summary_key: str) -> Parts | None:
    """The SAEs on the parts of an SAE's error; None if there are none."""
    return published(study_id).parts(summary_key)


@st.cache_resource(max_entries=16, ttl=FRESH_SECONDS, show_spinner=False)
def bases(study_id: str) -> list[str]:
    """Keys of the summaries of the SAEs that have SAEs on the parts of their error."""
    return published(study_id).bases()


@st.cache_resource(max_entries=32, ttl=FRESH_SECONDS, show_spinner="Reading this SAE's features")
def features(study_id: str, summary_key: str, part: str | None) -> Features | None:
    """The features of an SAE, or of one on a part of its error; None if they have not been made."""
    return published(study_id).features(summary_key, part)


@st.cache_resource(max_entries=16, ttl=FRESH_SECONDS, show_spinner="Reading which latents are known")
def learned(study_id: str, summary_key: str, parts_key: str) -> Learned | None:
    """Which latents of the SAEs on the parts are in a dictionary already; `parts_key` names them. None if not computed."""
    found = parts(study_id, summary_key)
    same = found is not None and found.folder.name == parts_key
    return published(study_id).learned(summary_key, found) if found is not None and same else None


@st.cache_resource(max_entries=32, ttl=FRESH_SECONDS, show_spinner="Reading the structure of this SAE's error")
def structure(study_id: str, summary_key: str) -> Structure | None:
    """The structure of an SAE's error; None if it has not been made."""
    return published(study_id).structure(summary_key)


@st.cache_resource(max_entries=64, ttl=FRESH_SECONDS, show_spinner=False)
def detections(study_id: str, summary_key: str) -> list[Detection]:
    """Detection scores of an SAE and of those on the parts of its error, by every scorer."""
    return published(study_id).detections(summary_key)


@st.cache_resource(max_entries=64, ttl=FRESH_SECONDS, show_spinner="Reading what makes this SAE's error smaller")
def reduction(study_id: str, summary_key: str) -> Reduction | None:
    """What makes an SAE's error smaller; None if it has not been made."""
    return published(study_id).reduction(summary_key)


@st.cache_resource(max_entries=64, ttl=FRESH_SECONDS, show_spinner="Reading what this SAE's error costs")
def downstream(study_id: str, summary_key: str) -> Downstream | None:
    """What an SAE's error costs the model; None if it has not been made."""
    return published(study_id).downstream(summary_key)


@st.cache_resource(max_entries=64, ttl=FRESH_SECONDS, show_spinner="Reading the controls of this SAE's numbers")
def controls(study_id: str, summary_key: str) -> Controls | None:
    """The controls of an SAE's numbers; None if they have not been made."""
    return published(study_id).controls(summary_key)


@st.cache_resource(max_entries=64, ttl=FRESH_SECONDS, show_spinner="Reading how much of this SAE's error is shrinkage")
def shrinkage(study_id: str, summary_key: str) -> Shrinkage | None:
    """How much of an SAE's linear error is undone shrinkage; None if it has not been made."""
    return published(study_id).shrinkage(summary_key)


@st.cache_resource(max_entries=64, ttl=FRESH_SECONDS, show_spinner="Reading whether the map holds elsewhere")
def transfer(study_id: str, summary_key: str, by: str) -> Transfer | None:
    """Maps fitted in one place and tested in another, around an SAE; None if that has not been made."""
    return published(study_id).transfer(summary_key, by)


@st.cache_resource(max_entries=16, ttl=FRESH_SECONDS, show_spinner="Looking which SAEs have results")
def looked(study_id: str, stage: str) -> list[str]:
    """Keys of the summaries of the study's SAEs that have what `reduction` or `downstream` reads, in the study's order."""
    from dmcore.results import DOWNSTREAM, REDUCTION
    from dmcore.store.looked import summaries_with

    read = {REDUCTION: reduction, DOWNSTREAM: downstream}[stage]
    found = published(study_id)
    made = summaries_with(found.store, stage)  # those of other settings or versions are among them
    return [key for key in found.records["summary_key"] if key in made and read(study_id, key) is not None]


@st.cache_resource(max_entries=64, ttl=FRESH_SECONDS, show_spinner=False)
def wider(study_id: str, summary_key: str) -> list[dict[str, Any]]:
    """Rows of a reduction's table of methods for the wider SAEs at the same L0."""
    return published(study_id).wider(summary_key)


@st.cache_resource(max_entries=16, ttl=FRESH_SECONDS, show_spinner="Holding the paper's statements against this study")
def claims(study_id: str) -> Claims:
    """The paper's statements held against a study, as the command `claims` does it."""
    from dmcore.store.published import open_published

    return open_published(study_id).claims()


@st.cache_resource(ttl=300, show_spinner="Reading the catalogue of SAEs")
def catalogue() -> pl.DataFrame:
    """Every SAE of the catalogue; raises `SpecError` with the remedy where the registry is not installed."""
    from dmcore.sources.catalogue import read_catalogue

    return read_catalogue()


@st.cache_resource(ttl=FRESH_SECONDS, show_spinner="Reading what the cache holds")
def disk() -> list[Holding]:
    """Every entry of the cache, with the studies that use it."""
    from dmcore.run.jobs.disk import holdings
    from dmcore.store.store import Store

    return holdings(Store())


def n_results(study: Study) -> int:
    """SAEs of a study that have results, whether or not its index is of the file as it is now; 0 where there is none."""
    try:
        found = published(study.name).records["sae"]
    except StoreError:
        return 0
    return len(set(found) & {sae.name for sae in study.saes})


def forget() -> None:
    """Drop what is kept in memory, so that the next read sees the disk."""
    for cached in (
        studies,
        published,
        summary,
        scaling,
        parts,
        bases,
        features,
        learned,
        structure,
        detections,
        reduction,
        downstream,
        controls,
        shrinkage,
        transfer,
        looked,
        wider,
        claims,
        catalogue,
        disk,
    ):
        cached.clear()
