"""The charts of the view *Depth*: a metric over the layers, and what width does at each."""

from __future__ import annotations

from typing import Any

import polars as pl

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
from dmcore.figures.figure import Figure
from dmcore.results import Scaling, over_widths
from dmcore.words.chosen import Chosen
from dmcore.words.metrics import FORMULAS
from dmcore.words.names import l0_text
from dmcore.words.sample import sample_words
from dmcore.words.scaling import row_of


def without_lone_widths(table: pl.DataFrame, selected: str) -> pl.DataFrame:
    """A depth table without the widths that a stream has at one layer where it has others at several: they make no line."""
    layers = pl.col("layer").n_unique().over("stream", "d_sae")
    most = pl.col("layer").n_unique().over("stream")
    return table.filter((layers > 1) | (most == 1) | (pl.col("sae") == selected))


def ratio_figure(sites: pl.DataFrame, key: tuple[str, ...], words: str) -> Figure:
    """What width leaves of the nonlinear error, site by site."""
    return Figure(
        name="width_ratio_by_layer",
        key=key,
        question="How much nonlinear error does width leave?",
        caption=f"Nonlinear FVU of the widest over that of the narrowest SAE at each site ({_widths(sites)}), 95 % paired "
        f"intervals over contexts. 1 (dashed): width does nothing to it; above 1 it grows. {words}",
        chart=lambda: constancy_chart(sites.with_columns(metric=pl.lit("fvu_nonlinear"))),
        data=lambda: over_layers_table(sites, "ratio"),
    )


def tokens_figure(sites: pl.DataFrame, key: tuple[str, ...], words: str) -> Figure:
    """Whether wide SAEs fail where narrow ones do, site by site."""
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


def exponents_figure(sites: pl.DataFrame, key: tuple[str, ...], words: str) -> Figure:
    """Exponents of the law of the error, site by site."""
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


def site_rows(chosen: Chosen) -> tuple[pl.DataFrame, int]:
    """A row a site for the set nearest to the selected SAE's L0; and how many sites have no comparison."""
    record, records = chosen.record, chosen.published.records
    rows, missing = [], 0
    for site in records["site"].unique(maintain_order=True):
        try:
            scaling = chosen.scaling_at(site)
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


def depth_figure(chosen: Chosen, metric: str) -> Figure:
    """A metric over layers, a line a width."""
    record = chosen.record
    table = without_lone_widths(
        depth_table(chosen.published.records, record["l0"], record["label"], metric), record["sae"]
    )
    l0s = [l0_text(l0) for l0 in table["l0"].sort()]
    near = f"(all at L0 {l0s[0]})" if l0s[0] == l0s[-1] else f"(they have {l0s[0]} to {l0s[-1]})"
    return Figure(
        name=f"depth_{metric}",
        key=(record["summary_key"], *table["sae"], metric),
        question=DEPTH,
        caption=f"{FORMULAS[metric]} A line for each width, in latents: at each site the SAE with the L0 nearest to "
        f"{l0_text(record['l0'])} {near}; widths that a stream has at one layer only are left out. Ringed: the selected "
        f"SAE. Bars: 95 % intervals over contexts. {sample_words(record)}",
        chart=lambda: depth_chart(table, metric, record["sae"]),
        data=lambda: table,
    )


DEPTH = "Is it the same at every layer?"
