"""The league table of methods: rows of one SAE or of many, with what they recover of the model's loss, as shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from dmcore.charts.league import OWN, short_title
from dmcore.results import DOWNSTREAM, Downstream, Reduction
from dmcore.results.reduction import REDUCTION_TABLES
from dmcore.words.chosen import Chosen

LOSS = ("loss_recovered", "loss_recovered_low", "loss_recovered_high")
"""Share of the loss of zero ablation that is recovered, where it was measured."""


LEAGUE: dict[str, Any] = {
    "summary_key": pl.String,
    "sae": pl.String,
    "site": pl.String,
    "layer": pl.Int64,
    "d_sae": pl.Int64,
    "label": pl.String,
    **REDUCTION_TABLES["methods"],
    **dict.fromkeys(LOSS, pl.Float64),
}
"""A row an SAE and method."""


INTERVALS = (
    "fvu",
    "fvu_nonlinear",
    "nonlinear_removed",
    "error_removed",
    "r2_error",
    "r2_error_norm_sq",
    "loss_recovered",
)


PERCENT = ("nonlinear_removed", "error_removed", "loss_recovered", "recovered_sae")


LOOKS = {
    "layer": ("Layer", "%d", "small"),
    "d_sae": ("Width", "localized", "small"),
    "method": ("Method", "", 260),
    "l0": ("L0", "%.1f", "small"),
    "fvu": ("FVU", "%.4f", "small"),
    "fvu_nonlinear": ("Nonlinear FVU", "%.4f", 115),
    "nonlinear_removed": ("Nonlinear removed", "%.1f %%", 135),
    "error_removed": ("Error removed", "%.1f %%", 110),
    "r2_error": ("R² of error", "%.3f", 90),
    "r2_error_norm_sq": ("R² of |error|²", "%.3f", 105),
    "loss_recovered": ("Loss recovered", "%.1f %%", 115),
    "recovered_sae": ("Of Sae(x)'s cost", "%.1f %%", 120),
    "parameters_added": ("Parameters added", "localized", 130),
    "seconds_per_1000": ("s per 1,000 tokens", "%.3f", 140),
    "extra_l0": ("Other latents", "%.1f", 100),
    "sae": ("SAE", "", "large"),
    "source": ("Source", "", "medium"),
}
"""Columns as shown: name, format and width."""


HELPS = {
    "nonlinear_removed": "1 − after / before, paired over contexts; below 0, there is more of it than before. A reconstruction "
    "that shrinks towards its mean lowers this too: read it together with what is removed of the error.",
    "error_removed": "1 − Σ|error after|² / Σ|error before|².",
    "r2_error": "Held-out R² of the error that is left, from x: its linear share.",
    "r2_error_norm_sq": "Held-out R² of the squared norm of the error that is left, from x.",
    "loss_recovered": "Of what zero ablation costs the model, with the method's reconstruction at the site, on the contexts that "
    "the caption of Methods names; of wider SAEs, and where it was not run, as the page Downstream has it, on its contexts.",
    "recovered_sae": "Of the loss that Sae(x) costs, what the method gives back: 1 − its loss increase / that of Sae(x).",
    "parameters_added": "Numbers added to the SAE: 2 d r or d² for a skip, d × inputs for earlier components, 2 d + 1 for each "
    "further latent. A bias goes into the SAE's own; what is in other SAEs is not counted.",
    "seconds_per_1000": "To make the codes of 1,000 tokens, on the machine that computed this: by the SAE's own encoder, or by "
    "the method in its place. What is affine costs a product more.",
    "extra_l0": "Active latents of other SAEs that it needs, beyond the L0.",
}


def league_of(
    chosen: Chosen, record: Mapping[str, Any], found: Reduction, wider: Sequence[dict[str, Any]] = ()
) -> pl.DataFrame:
    """The methods of one SAE and the wider SAEs at its L0 that are given, as `LEAGUE`."""
    rows = [*found["methods"].to_dicts(), *wider]
    spliced = set(chosen.looked(DOWNSTREAM))
    keys = dict(chosen.published.records.select("sae", "summary_key").rows())
    own = {name: record[name] for name in ("summary_key", "sae", "site", "layer", "d_sae", "label")}
    full = found.about["d_model"]
    made = []
    for row in rows:
        loss: Mapping[str, Any] = {}
        key, variant = record["summary_key"], "sae" if row["method"] == OWN else ""
        if row["kind"] == "skip" and row["rank"] == full:
            variant = "sae_linear"
        if row["kind"] == "wider":
            key, variant = keys.get(row["source"], ""), "sae"
        if row.get("recovered_zero") is not None:
            loss = {name: row[name.replace("loss_recovered", "recovered_zero")] for name in LOSS}
        elif variant and key in spliced and (costs := chosen.downstream(key)) is not None:
            loss = loss_recovered(costs, variant)
        made.append(own | row | loss)
    return pl.DataFrame([{column: row.get(column) for column in LEAGUE} for row in made], schema=LEAGUE, strict=False)


def loss_recovered(costs: Downstream, variant: str) -> dict[str, Any]:
    """The columns `LOSS` of a variant."""
    row = costs.variant(variant)
    return {name: row[name.replace("loss_recovered", "recovered_zero")] for name in LOSS}


def leagues(chosen: Chosen, found: Iterable[tuple[Mapping[str, Any], Reduction]]) -> pl.DataFrame:
    """The methods of some SAEs, as `LEAGUE`; wider SAEs are in it as themselves."""
    tables = [league_of(chosen, record, reduction) for record, reduction in found]
    return pl.concat([pl.DataFrame(schema=LEAGUE), *tables])


def shown(table: pl.DataFrame, *, many: bool) -> pl.DataFrame:
    """The table as a page shows it: percents, and beside each estimate half the width of its interval.

    Args:
        table: `LEAGUE`.
        many: of more than one SAE, so that rows say whose they are.
    """
    columns = [name for name in LOOKS if many or name not in ("sae", "layer", "d_sae")]
    columns = [name for name in columns if table[name].null_count() < len(table) or name in ("method", "l0")]
    picked: list[pl.Expr | pl.Series] = []
    for name in columns:
        scale = 100.0 if name in PERCENT else 1.0
        if name == "method":
            picked.append(pl.Series("method", [_title(row) for row in table.to_dicts()], dtype=pl.String))
            continue
        picked.append(pl.col(name) * scale if name in PERCENT else pl.col(name))
        if name in INTERVALS:
            half = scale * (pl.col(f"{name}_high") - pl.col(f"{name}_low")) / 2
            picked.append(half.alias(f"{name}_half"))
    return table.select(picked)


def _title(row: Mapping[str, Any]) -> str:
    words = short_title(dict(row))
    return f"+ {words}" if row["kind"] == "earlier" else words
