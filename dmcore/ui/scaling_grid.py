"""The views *Width × L0*, *Depth* and *Sparsity* of the Scaling page: the study's SAEs over the other axes."""

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
from dmcore.charts.numbers import compact, number
from dmcore.charts.sparsity import sparsity_chart, sparsity_table
from dmcore.charts.surface import surface_chart, surface_table
from dmcore.errors import StoreError
from dmcore.results import Scaling, over_widths
from dmcore.ui.figure import Figure, Pick, draw
from dmcore.ui.paired import EqualL0, equal_l0_ratios
from dmcore.ui.scaling_words import parameter, row_of
from dmcore.ui.sections import sample_words
from dmcore.ui.selection import Selection, option, select
from dmcore.ui.streams import site_phrase
from dmcore.ui.words import architecture_name, l0_text, plain

SURFACE_OPTIONS = {
    "fvu": "FVU",
    "fvu_nonlinear": "Nonlinear FVU",
    "r2_error": "R² of the vector",
    "r2_error_norm_sq": "R² of the squared norm",
}
FORMULAS = {
    "fvu": "FVU = Σ|x − Sae(x)|² / Σ|x − mean x|².",
    "fvu_nonlinear": "Nonlinear FVU = Σ|e − ê|² / Σ|x − mean x|².",
    "r2_error": "R² = 1 − Σ|e − ê|² / Σ|e − mean e|², pooled over tokens and dimensions.",
    "r2_error_norm_sq": "R² of |e|² predicted by a linear map of x.",
}


def choose_metric(field: str) -> str:
    """The metric that a view shows."""
    return option(field, "Show", list(SURFACE_OPTIONS), list(SURFACE_OPTIONS.values()), "fvu_nonlinear",
                  kind=st.segmented_control)  # fmt: skip


def draw_plane(selection: Selection, scaling: Scaling) -> None:
    """A metric over width and L0."""
    record = selection.record
    question = "What do width and sparsity do together?"
    st.subheader(question, anchor=False)
    site = selection.published.records.filter(site=record["site"])
    labels = set(scaling["surfaces"]["label"])
    label = record["label"] if record["label"] in labels or not labels else sorted(labels)[0]
    points = site.filter(label=label)
    cells = scaling["surfaces"].filter(label=label)
    if not len(cells):
        texts = scaling["remarks"].filter(topic="surface", label=label)["text"].to_list()
        texts.append(
            "Add SAEs at other widths and L0s of this site to the study, on Catalogue or in its file, and start it on Runs."
        )
        st.info(plain(" ".join(texts)), icon=":material/info:")
        return
    metric = choose_metric("surface")
    lines = scaling["isolines"].filter(label=label)
    other = "" if label == record["label"] else f" The selected SAE is {plain(architecture_name(record['label']))}."

    def pick(name: Any) -> None:
        rows = points.filter(pl.col("sae") == str(name))
        if len(rows):
            select(selection.study_id, rows.row(0, named=True))

    draw(
        Figure(
            name=f"surface_{metric}",
            key=(record["summary_key"], str(scaling.folder.name), metric, label),
            question=question,
            caption=f"{plain(architecture_name(label))} SAEs on {site_phrase(record)}.{other} {FORMULAS[metric]} Circles: "
            f"measured SAEs; between them values are interpolated linearly over triangles in log width and log L0; nothing "
            "is drawn outside their hull. Lines: equal values. Click on a circle, or near it, to choose that SAE "
            f"on every page. {sample_words(record)}",
            chart=lambda: surface_chart(
                cells.filter(metric=metric), lines.filter(metric=metric), points, record["sae"], metric
            ),
            data=lambda: surface_table(points, metric),
        ),
        level=0,
        pick=Pick("pick", "sae", pick),
    )
    joint = row_of(scaling["joint"], label=label, metric=metric)
    if joint is not None and joint["c"] is not None:
        st.markdown(joint_sentence(joint, SURFACE_OPTIONS[metric]))


def joint_sentence(joint: dict[str, Any], name: str) -> str:
    """The law of width and L0, and whether it holds."""
    c, a, m, n = (parameter(joint, name) for name in ("c", "a", "m", "n"))
    text = f"One law for all {joint['n_saes']} SAEs, {name} = c + a·W⁻ᵐ·L0⁻ⁿ: c {c}, a {a}, m {m}, n {n} (95 % over contexts)."
    if joint["aic_separate"] is not None:
        difference = joint["aic"] - joint["aic_separate"]
        better = (
            "a law for each L0 describes them better"
            if difference > 0
            else "it describes them better than a law for each L0"
        )
        text += f" By Akaike's criterion {better} (by {abs(difference):,.0f})."
    if joint["left_out_error"] is not None:
        text += f" Fitted without the widest SAEs it misses them by {100 * joint['left_out_error']:.0f} %."
    return text


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


def draw_sparsity(selection: Selection) -> None:
    """A metric over L0 at one width, a line an architecture, and the architectures at equal L0."""
    record = selection.record
    here = selection.published.records.filter(site=record["site"], d_sae=record["d_sae"])
    several = here["label"].n_unique() > 1
    question = (
        "Which architecture leaves less error at equal L0?" if several else "What does sparsity do at this width?"
    )
    st.subheader(question, anchor=False)
    named = here.with_columns(pl.col("label").map_elements(architecture_name, return_dtype=pl.String))
    metric = choose_metric("over")
    draw(
        Figure(
            name=f"sparsity_{metric}",
            key=(record["summary_key"], *here["summary_key"], metric),
            question=question,
            caption=f"SAEs with {compact(record['d_sae'])} latents on {site_phrase(record)}. {FORMULAS[metric]} L0 is "
            f"measured on the same tokens. Bars: 95 % intervals over contexts. {sample_words(record)}",
            chart=lambda: sparsity_chart(named, metric, record["sae"]),
            data=lambda: sparsity_table(named, metric),
        ),
        level=0,
    )
    if not several:
        n = "one SAE" if len(here) == 1 else f"SAEs of one architecture, {plain(architecture_name(here['label'][0]))},"
        st.caption(
            f":material/info: At this width and site the study has {n} so there is none to compare it with: add "
            "others on Catalogue."
        )
        return
    rows = equal_l0_ratios(selection, here, metric)
    st.markdown("\n".join(equal_l0_lines(rows, SURFACE_OPTIONS[metric])))
    st.caption(
        "Each SAE over the reference architecture at the same L0, interpolated between its two neighbouring SAEs on log axes; "
        "95 % paired intervals over contexts. Below 1: less than the reference. One trained SAE each: another seed may differ."
        f"{shrinkage_note(selection, here)}"
    )


def shrinkage_note(selection: Selection, here: pl.DataFrame) -> str:
    """Why an L1 SAE may have much error and little nonlinear error, where that is so."""
    if "standard" not in set(here["label"]):
        return ""
    ratios = {}
    for metric in ("fvu", "fvu_nonlinear"):
        rows = [
            r.ratio for r in equal_l0_ratios(selection, here, metric) if r.label == "standard" and r.ratio is not None
        ]
        ratios[metric] = [float(ratio) for ratio in rows]
    if not ratios["fvu"] or min(ratios["fvu"]) < 1 or max(ratios["fvu_nonlinear"], default=2.0) > 1:
        return ""
    return (
        " The L1 SAE has more error but less nonlinear error: an L1 penalty shrinks values, and error by "
        "shrinking is linear in x "
        "for the most part."
    )


def equal_l0_lines(rows: list[EqualL0], name: str) -> list[str]:
    """A table in Markdown."""
    lines = [
        f"| Architecture | L0 | {name} | over {plain(architecture_name(rows[0].reference))} at that L0 |",
        "|---|---|---|---|",
    ]
    for row in rows:
        ratio = (
            "outside the reference's L0s"
            if row.ratio is None
            else f"**{number(row.ratio, row.ratio.low, row.ratio.high)}**"
        )
        lines.append(f"| {plain(architecture_name(row.label))} | {l0_text(row.l0)} | {number(*row.value)} | {ratio} |")
    return lines
