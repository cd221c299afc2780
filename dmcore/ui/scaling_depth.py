"""The view *Depth* of the Scaling page: a metric over the layers, and what width does at each."""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from dmcore.charts.depth import (
    constancy_chart,
    depth_chart,
    depth_table,
    exponents_chart,
    over_layers_table,
    same_tokens_chart,
)
from dmcore.charts.numbers import compact
from dmcore.errors import StoreError
from dmcore.results import Scaling, over_widths
from dmcore.ui.figure import Figure, draw
from dmcore.ui.scaling_metrics import FORMULAS, choose_metric
from dmcore.ui.sections import sample_words
from dmcore.ui.selection import Selection
from dmcore.words.names import l0_text
from dmcore.words.scaling import row_of


def draw_depth(selection: Selection) -> None:
    """The metrics over layers, and what width does at each."""
    record, records = selection.record, selection.published.records
    question = "Is it the same at every layer?"
    st.subheader(question, anchor=False)
    if records["site"].n_unique() == 1:
        st.info("This study has one site: add SAEs at other layers to compare.", icon=":material/layers:")
        return
    metric = choose_metric("over")
    table = without_lone_widths(depth_table(records, record["l0"], record["label"], metric), record["sae"])
    l0s = [l0_text(l0) for l0 in table["l0"].sort()]
    near = f"(all at L0 {l0s[0]})" if l0s[0] == l0s[-1] else f"(they have {l0s[0]} to {l0s[-1]})"
    draw(
        Figure(
            name=f"depth_{metric}",
            key=(record["summary_key"], *table["sae"], metric),
            question=question,
            caption=f"{FORMULAS[metric]} A line for each width, in latents: at each site the SAE with the L0 nearest to "
            f"{l0_text(record['l0'])} {near}; widths that a stream has at one layer only are left out. Ringed: the selected "
            f"SAE. Bars: 95 % intervals over contexts. {sample_words(record)}",
            chart=lambda: depth_chart(table, metric, record["sae"]),
            data=lambda: table,
        ),
        level=0,
    )
    words = sample_words(record)
    sites, missing = site_rows(selection)
    if missing:
        st.caption(f":material/hourglass: {missing} of the study's sites have not been compared yet: sweep the study.")
    if not len(sites):
        return
    key = (record["summary_key"], *sites["key"])
    left, right = st.columns(2, gap="large")
    with left:
        draw(_ratio_figure(sites, key, words), level=4)
    with right:
        draw(_tokens_figure(sites, key, words), level=4)
    if sites["m"].count() > 1:
        draw(_exponents_figure(sites, key, words), level=4)
    else:
        st.caption(
            ":material/info: Exponents over layers need at least 4 widths at two or more sites; this study has them at "
            f"{'one' if sites['m'].count() else 'none'}."
        )


def without_lone_widths(table: pl.DataFrame, selected: str) -> pl.DataFrame:
    """A depth table without the widths that a stream has at one layer where it has others at several: they make no line."""
    layers = pl.col("layer").n_unique().over("stream", "d_sae")
    most = pl.col("layer").n_unique().over("stream")
    return table.filter((layers > 1) | (most == 1) | (pl.col("sae") == selected))


def _ratio_figure(sites: pl.DataFrame, key: tuple[str, ...], words: str) -> Figure:
    return Figure(
        name="width_ratio_by_layer",
        key=key,
        question="How much nonlinear error does width leave?",
        caption=f"Nonlinear FVU of the widest over that of the narrowest SAE at each site ({_widths(sites)}), 95 % paired "
        f"intervals over contexts. 1 (dashed): width does nothing to it; above 1 it grows. {words}",
        chart=lambda: constancy_chart(sites.with_columns(metric=pl.lit("fvu_nonlinear"))),
        data=lambda: over_layers_table(sites, "ratio"),
    )


def _tokens_figure(sites: pl.DataFrame, key: tuple[str, ...], words: str) -> Figure:
    return Figure(
        name="same_tokens_by_layer",
        key=key,
        question="Do wide SAEs fail where narrow ones do?",
        caption="Held-out R² of the widest SAE's |e| at a token, predicted from the narrowest's by a straight "
        "line; 1: they fail on "
        f"the same tokens. 95 % intervals over contexts. {words}",
        chart=lambda: same_tokens_chart(sites),
        data=lambda: over_layers_table(sites, "r2"),
    )


def _exponents_figure(sites: pl.DataFrame, key: tuple[str, ...], words: str) -> Figure:
    return Figure(
        name="exponents_by_layer",
        key=key,
        question="How fast does the error fall with width?",
        caption="Exponent m of FVU = c + a·W⁻ᵐ, fitted in log space at each site with at least 4 widths; 95 % intervals over "
        f"contexts, which leave out how far few SAEs scatter about a law. {words}",
        chart=lambda: exponents_chart(sites.with_columns(metric=pl.lit("fvu"), law=pl.lit("power"))),
        data=lambda: over_layers_table(sites, "m"),
    )


def _widths(sites: pl.DataFrame) -> str:
    spans = {(row["narrowest"], row["widest"]) for row in sites.to_dicts()}
    if len(spans) == 1:
        low, high = spans.pop()
        return f"{compact(low)} and {compact(high)} latents"
    return "widths differ between sites"


def site_rows(selection: Selection) -> tuple[pl.DataFrame, int]:
    """A row a site for the set nearest to the selected SAE's L0; and how many sites have no comparison."""
    record, records = selection.record, selection.published.records
    rows, missing = [], 0
    for site in records["site"].unique(maintain_order=True):
        try:
            scaling = selection.scaling_at(site)
        except StoreError:
            missing += 1
            continue
        here = records.filter(site=site)
        far = (pl.col("l0").clip(0.01).log() - pl.Series([max(record["l0"], 0.01)]).log()[0]).abs()
        same = here.filter(label=record["label"])
        nearest = (same if len(same) else here).sort(far).row(0, named=True)
        members = over_widths(records, nearest)
        if members.height > 1:
            rows.append(_site_row(scaling, nearest))
    return pl.DataFrame([row for row in rows if row], infer_schema_length=None), missing


def _site_row(scaling: Scaling, nearest: dict[str, Any]) -> dict[str, Any]:
    """What the depth charts need of one site."""
    chosen = scaling.set_of(nearest["summary_key"])
    members = scaling.members(chosen)
    constancy = row_of(scaling["constancy"], set=chosen, metric="fvu_nonlinear")
    law = row_of(scaling["laws"], set=chosen, metric="fvu", law="power", space="log")
    pair = row_of(scaling["pairs"], source=members["sae"][0], target=members["sae"][-1])
    row: dict[str, Any] = {
        "key": scaling.folder.name,
        **{name: nearest[name] for name in ("site", "stream", "layer")},
        "narrowest": members["d_sae"][0],
        "widest": members["d_sae"][-1],
    }
    for name, found in (("ratio", constancy), ("m", law), ("r2", pair)):
        for end in ("", "_low", "_high"):
            row[f"{name}{end}"] = None if found is None else found[f"{name}{end}"]
    return row
