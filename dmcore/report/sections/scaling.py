"""What wider, sparser and deeper dictionaries still miss."""

from __future__ import annotations

from typing import Any

import polars as pl

from dmcore.charts.laws import LAW_NAMES
from dmcore.charts.numbers import compact
from dmcore.errors import StoreError
from dmcore.figures import depth, grid, norms, tokens, width
from dmcore.report.blocks import Block, Missing, Numbers, Section, Shown, choices, part, said, unreadable
from dmcore.report.sections.tables import METRICS, estimates, texts
from dmcore.report.subject import Subject
from dmcore.results import Scaling, over_widths
from dmcore.words.grid import joint_sentence, shrinkage_note
from dmcore.words.laws import FORMULAS, METRIC_OPTIONS, SPACES, aic_text, few_points, left_out_text, scatter_span
from dmcore.words.metrics import SURFACE_OPTIONS
from dmcore.words.names import architecture_name, l0_text, plain
from dmcore.words.norms import norms_sentence
from dmcore.words.paired import EqualL0, equal_l0_ratios
from dmcore.words.sample import sample_words
from dmcore.words.scaling import (
    constancy_sentence,
    floor_finding,
    floor_note,
    l0_note,
    parameter,
    remarks_of,
    row_of,
    tokens_finding,
    too_far,
    width_finding,
)
from dmcore.words.streams import site_phrase
from dmcore.words.tokens import pair_sentence

FIRST = ("fvu_nonlinear", *(metric for metric in SURFACE_OPTIONS if metric != "fvu_nonlinear"))
"""Metrics that a chart can show, that of the page first."""
TITLE = "What do wider dictionaries still miss?"


def section(subject: Subject) -> Section:
    """Make the section."""
    record, records = subject.record, subject.published.records
    sites, missing = _sites(subject)
    scaling = sites.get(record["site"])
    if scaling is None:
        return Section(
            "scaling", TITLE, (*missing, *part("Depth", _depth(subject)), *part("Sparsity", _sparsity(subject)))
        )
    chosen = scaling.set_of(record["summary_key"])
    label = over_widths(records, record)["label"][0]
    findings = (
        width_finding(scaling, chosen, record, label),
        floor_finding(scaling, chosen, record["l0"]),
        tokens_finding(scaling, chosen, record["l0"]),
    )
    blocks: list[Block] = [
        *said(" ".join(filter(None, findings)), finding=True),
        *part("Width", _width(subject, scaling, chosen)),
        *part("Width × L0", _plane(subject, scaling)),
        *part("Depth", _depth(subject)),
        *part("Sparsity", _sparsity(subject)),
        *part("Tokens", _tokens(subject, scaling, chosen)),
        *part("Norms", _norms(subject, scaling, list(sites.values()))),
        *missing,
    ]
    return Section("scaling", TITLE, tuple(blocks))


def _sites(subject: Subject) -> tuple[dict[str, Scaling], list[Missing]]:
    """The comparison at each site that has one; and what is said of the others."""
    found, missing = {}, []
    for site in subject.published.records["site"].unique(maintain_order=True):
        try:
            found[site] = subject.scaling_at(site)
        except StoreError as error:
            missing.append(unreadable(error))
    return found, missing


def _width(subject: Subject, scaling: Scaling, chosen: int) -> list[Block]:
    record = subject.record
    points, members = over_widths(subject.published.records, record), scaling.members(chosen)
    l0s = l0_note(members, record["l0"])
    if too_far(members, record["l0"]):
        return said(f"No other width has an SAE near L0 {l0_text(record['l0'])}: {l0s}")
    here = pl.col("set") == chosen
    curves, laws = scaling["curves"].filter(here), scaling["laws"].filter(here)
    what = f"{plain(architecture_name(points['label'][0]))} SAEs on {site_phrase(record)}"
    blocks: list[Block] = [
        Shown(width.extrapolated_figure(subject, points, curves, laws, what, l0s)),
        *said(floor_note(points, laws), constancy_sentence(scaling, chosen)),
        *said(*map(plain, remarks_of(scaling, chosen, ("law", "l0")))),
    ]
    power = row_of(laws, law="power", space="log", metric="fvu")
    blocks += said("" if power is None else few_points(power))
    for metric, name in METRIC_OPTIONS.items():
        spaces = [space for space in SPACES if len(laws.filter(metric=metric, space=space))]
        blocks += choices(width.law_figure(subject, points, curves, laws, metric, space) for space in spaces)
        for space, of in SPACES.items():
            fitted = laws.filter(metric=metric, space=space)
            if len(fitted):
                blocks.append(_laws(fitted, name, space, of))
    return blocks


def _laws(fitted: pl.DataFrame, name: str, space: str, of: str) -> Numbers:
    best, rows = fitted["aic"].min(), []
    for row in fitted.sort("aic").to_dicts():
        cells: dict[str, Any] = {"Law": f"{LAW_NAMES[row['law']]}: {FORMULAS[row['law']]}"}
        cells |= {one: parameter(row, one) for one in "cam"}
        if row["law"] == "exponential" and cells["m"]:
            cells["m"] = f"w₀ {cells['m']}"
        rows.append(cells | {"ΔAIC": aic_text(row["aic"], best), "Widest SAE, left out": left_out_text(row)})
        if row["law"] == "power" and row["m_scatter_low"] is not None:
            scatter = {one: scatter_span(row, one) for one in "cam"}
            rows.append({"Law": "the same, by scatter", **scatter, "ΔAIC": "", "Widest SAE, left out": ""})
    caption = (
        "In brackets: 95 % over contexts. By scatter: 95 % by how far the SAEs lie from the law, the larger doubt as a rule. "
        "ΔAIC: Akaike's criterion less that of the best law. Last column: the law fitted without the widest SAE, its prediction "
        "over what was measured, less 1."
    )
    metric = fitted["metric"][0]
    return Numbers(f"laws_{metric}_{space}", f"Laws of {name}, least squares {of}", texts(rows), caption, fitted)


def _plane(subject: Subject, scaling: Scaling) -> list[Block]:
    labels = set(scaling["surfaces"]["label"])
    label = subject.record["label"] if subject.record["label"] in labels or not labels else min(labels)
    if not labels:
        return said(*map(plain, scaling["remarks"].filter(topic="surface", label=label)["text"].to_list()))
    blocks: list[Block] = choices(grid.surface_figure(subject, scaling, label, metric) for metric in FIRST)
    for metric in FIRST:
        joint = row_of(scaling["joint"], label=label, metric=metric)
        if joint is not None and joint["c"] is not None:
            blocks += said(joint_sentence(joint, SURFACE_OPTIONS[metric]))
    return blocks


def _sparsity(subject: Subject) -> list[Block]:
    record = subject.record
    here = subject.published.records.filter(site=record["site"], d_sae=record["d_sae"])
    blocks: list[Block] = choices(grid.sparsity_figure(subject, here, metric) for metric in FIRST)
    if here["label"].n_unique() == 1:
        return blocks
    for metric in FIRST:
        compared = equal_l0_ratios(subject, here, metric)
        rows = [_at_equal_l0(one) for one in compared]
        data = pl.DataFrame(rows, infer_schema_length=None)
        over = f"over {architecture_name(compared[0].reference)} at that L0"
        table = estimates(data, {"label": "Architecture", "l0": "L0"}, {"value": METRICS[metric], "ratio": over})
        blocks.append(
            Numbers(f"equal_l0_{metric}", f"{METRICS[metric]} at equal L0", table, "Over the reference architecture at the same "
                    "L0, interpolated between its two neighbouring SAEs on log axes; 95 % paired intervals over contexts. Not "
                    f"computed outside the reference's L0s. {sample_words(record)}", data)
        )  # fmt: skip
    return [*blocks, *said(shrinkage_note(subject, here).strip())]


def _at_equal_l0(one: EqualL0) -> dict[str, Any]:
    ratio = (None, None, None) if one.ratio is None else (float(one.ratio), one.ratio.low, one.ratio.high)
    row: dict[str, Any] = {"label": architecture_name(one.label), "l0": l0_text(one.l0)}
    for name, values in (("value", one.value), ("ratio", ratio)):
        row |= {f"{name}{end}": value for end, value in zip(("", "_low", "_high"), values, strict=True)}
    return row


def _depth(subject: Subject) -> list[Block]:
    if subject.published.records["site"].n_unique() == 1:
        return said("This study has one site: there are no layers to compare.")
    blocks: list[Block] = choices(depth.depth_figure(subject, metric) for metric in FIRST)
    sites, _ = depth.site_rows(subject)
    if len(sites):
        key, words = (subject.key, *sites["key"]), sample_words(subject.record)
        made = [depth.ratio_figure(sites, key, words), depth.tokens_figure(sites, key, words)]
        made += [depth.exponents_figure(sites, key, words)] if sites["m"].count() > 1 else []
        blocks += [Shown(figure) for figure in made]
        widths = [f"{compact(r['narrowest'])} and {compact(r['widest'])}" for r in sites.to_dicts()]
        values = {"ratio": "Nonlinear FVU, widest over narrowest", "r2": "R² of the widest's |e| from the narrowest's",
                  "m": "Exponent m of FVU"}  # fmt: skip
        table = estimates(sites.with_columns(pl.Series("widths", widths)), {"site": "Site", "widths": "Widths"}, values)
        caption = f"95 % intervals over contexts. {words}"
        blocks.append(Numbers("sites", "What width does at each site", table, caption, sites.drop("key")))
    return blocks


def _tokens(subject: Subject, scaling: Scaling, chosen: int) -> list[Block]:
    members, blocks = scaling.members(chosen), []
    if len(members) > 1:
        blocks += choices(tokens.pairs_figure(scaling, members, value) for value in ("r2", "spearman", "closed"))
        blocks += said(pair_sentence(scaling, members))
    slices = scaling["slices"].filter(pl.col("sae") == scaling.number[subject.key])
    there = [by for by in ("class", "position", "domain") if by in set(slices["by"])]
    return [*blocks, *(Shown(tokens.slices_figure(subject, scaling, slices, by)) for by in there)]


def _norms(subject: Subject, scaling: Scaling, sites: list[Scaling]) -> list[Block]:
    sae = scaling.number[subject.key]
    blocks: list[Block] = [Shown(norms.norm_tests_figure(subject, sites)), *said(norms_sentence(scaling, sae))]
    latents, check = scaling["latents"].filter(sae=sae), row_of(scaling["latent_checks"], sae=sae)
    if len(latents) and check is not None and check["pearson"] is not None:
        blocks.append(Shown(norms.latent_check_figure(subject, scaling, latents, check)))
    return blocks
