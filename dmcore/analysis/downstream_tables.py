"""The tables of a downstream analysis from its sums: costs, recovered shares and kinds of tokens, each with its interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from dmcore.analysis.downstream_sums import TOKEN_COLUMNS, DownstreamSums
from dmcore.analysis.splice_variants import dose_name
from dmcore.analysis.token_kinds import KINDS
from dmcore.math.bootstrap import ratio
from dmcore.math.recovered import draws, estimate, share_recovered
from dmcore.results.downstream import DOSES, KIND_VARIANTS, PARTS, VARIANTS, downstream_table

Array = np.ndarray
Row = dict[str, Any]

NO_INCREASE = {
    "recovered_zero": ("zero", "Putting 0 at this site raises the loss by nothing that can be told from 0"),
    "recovered_mean": ("mean", "Putting the mean of x at this site raises the loss by nothing that can be told from 0"),
    "recovered_sae": ("sae", "Putting Sae(x) at this site raises the loss by nothing that can be told from 0"),
}
"""Of which increase each recovered share is, and what is said where there is none."""


def ends(name: str, drawn: Array) -> Row:
    """A value and its interval, as columns."""
    found = estimate(drawn)
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def downstream_tables(
    sums: DownstreamSums, seed: int, *, unnamed: bool
) -> tuple[dict[str, Any], dict[str, pl.DataFrame]]:
    """All tables but those of single tokens, and what is said of the whole.

    Args:
        sums: of all runs.
        seed: of the bootstrap.
        unnamed: whether the texts of tokens are not known.
    """
    weights = draws(int(sums.units.max()) + 1, seed)
    remarks = []
    for column, (worst, said) in NO_INCREASE.items():
        if np.isnan(_recovered(sums, "all", "clean", worst, weights)).all():
            remarks.append({"topic": column, "text": f"{said}, so no share of it can be recovered."})
    if unnamed:
        remarks.append({"topic": "kinds", "text": "The texts of tokens are not known, so there are no kinds of token."})
    tables = {
        "variants": downstream_table("variants", [_variant_row(sums, name, weights) for name in VARIANTS]),
        "parts": downstream_table("parts", part_rows(sums, weights)),
        "doses": downstream_table("doses", _dose_rows(sums, weights)),
        "kinds": downstream_table("kinds", [] if unnamed else _kind_rows(sums, weights)),
        "sums": _sums_table(sums),
        "remarks": downstream_table("remarks", remarks),
    }
    there = bool(sums.sums("doses", "clean")["n_tokens"].sum())
    about = {
        "n_tokens": int(sums.sums("all", "clean")["n_tokens"].sum()),
        "exact_gap": float(sums.arrays["exact_gap"][0]) if there else None,
    }
    return about, tables


def _cost(sums: DownstreamSums, panel: str, name: str, weights: Array) -> Row:
    """What a variant costs, against the clean model on the same contexts."""
    own, clean = sums.sums(panel, name), sums.sums(panel, "clean")
    counts = own["n_tokens"]
    return {
        "n_tokens": int(counts.sum()),
        **ends("ce", ratio(own["ce"], counts, weights)),
        **ends("delta", ratio(own["ce"] - clean["ce"], counts, weights)),
        **ends("kl", ratio(own["kl"], counts, weights)),
        **ends("top1", ratio(own["top1"], counts, weights)),
    }


def _recovered(sums: DownstreamSums, panel: str, name: str, worst: str, weights: Array) -> Array:
    losses = (sums.sums(panel, variant)["ce"] for variant in ("clean", name, worst))
    return share_recovered(*losses, weights)


def _variant_row(sums: DownstreamSums, name: str, weights: Array) -> Row:
    own = sums.sums("all", name)
    row = {"variant": name, **_cost(sums, "all", name, weights)}
    row |= ends("accuracy", ratio(own["correct"], own["n_tokens"], weights))
    for column, (worst, _) in NO_INCREASE.items():
        row |= ends(column, _recovered(sums, "all", name, worst, weights))
    return row


def part_rows(sums: DownstreamSums, weights: Array) -> list[Row]:
    """What each part recovers of the SAE's own loss increase, beside its share of the error."""
    norms = sums.norms()
    drawn: dict[str, dict[str, Array]] = {}
    for part in PARTS:
        sae, spliced = (sums.sums("all", name)["kl"] for name in ("sae", f"sae_{part}"))
        drawn[part] = {
            "norm_sq_share": ratio(norms[f"{part}_sq"], norms["error_sq"], weights),
            "norm_share": ratio(norms[part], norms["error"], weights),
            "recovered": _recovered(sums, "all", f"sae_{part}", "sae", weights),
            "kl_recovered": share_recovered(np.zeros_like(sae), spliced, sae, weights),
        }
    linear, nonlinear = (drawn[part] for part in PARTS)
    drawn["both"] = {column: linear[column] + nonlinear[column] for column in linear}
    rows = []
    for part, columns in drawn.items():
        with np.errstate(divide="ignore", invalid="ignore"):
            columns["per_norm_sq"] = columns["recovered"] / columns["norm_sq_share"]
        row: Row = {"part": part}
        for column, values in columns.items():
            row |= ends(column, values)
        rows.append(row)
    return rows


def _dose_rows(sums: DownstreamSums, weights: Array) -> list[Row]:
    if not sums.sums("doses", "clean")["n_tokens"].sum():
        return []
    rows = []
    for part in PARTS:
        names = {0.0: "sae", 1.0: f"sae_{part}"} | {dose: dose_name(part, dose) for dose in DOSES}
        for dose in sorted(names):
            row = {"part": part, "dose": dose, **_cost(sums, "doses", names[dose], weights)}
            rows.append(row | ends("recovered_sae", _recovered(sums, "doses", names[dose], "sae", weights)))
    return rows


def _kind_rows(sums: DownstreamSums, weights: Array) -> list[Row]:
    rows = []
    clean = sums.arrays["kinds"][KIND_VARIANTS.index("clean")]
    for variant, (counts, losses, correct) in zip(KIND_VARIANTS, sums.arrays["kinds"], strict=True):
        for order, kind in enumerate(KINDS):
            n = counts[:, order]
            if not n.sum():
                continue
            row = {"variant": variant, "kind": kind, "order": order, "n_tokens": int(n.sum())}
            row |= ends("accuracy", ratio(correct[:, order], n, weights))
            row |= ends("accuracy_delta", ratio(correct[:, order] - clean[2, :, order], n, weights))
            row |= ends("ce", ratio(losses[:, order], n, weights))
            row |= ends("delta", ratio(losses[:, order] - clean[1, :, order], n, weights))
            rows.append(row)
    return rows


def _sums_table(sums: DownstreamSums) -> pl.DataFrame:
    frames = []
    for panel, names in sums.names.items():
        for name in names:
            columns = sums.sums(panel, name)
            where = np.flatnonzero(columns["n_tokens"])
            of_units = {column: values[where] for column, values in columns.items()}
            fixed = {"panel": [panel] * len(where), "variant": [name] * len(where), "unit": where}
            frames.append(downstream_table("sums", fixed | of_units))
    return pl.concat(frames)


def token_table(sums: DownstreamSums, positions: Array, tokens: Array, targets: Array) -> pl.DataFrame:
    """Single tokens of the listed contexts; `tokens`, `targets`: (n_listed, n_scored) ids."""
    shape = tokens.shape
    columns = {
        "context": np.broadcast_to(np.array(sums.listed)[:, None], shape).reshape(-1),
        "position": np.broadcast_to(positions, shape).reshape(-1),
        "token": tokens.reshape(-1),
        "target": targets.reshape(-1),
    }
    values = sums.arrays["tokens"].reshape(-1, len(TOKEN_COLUMNS)).T
    return downstream_table("tokens", columns | dict(zip(TOKEN_COLUMNS, values, strict=True)))
