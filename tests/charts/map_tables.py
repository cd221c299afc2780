"""Made-up tables of shrinkage and transfer, for tests of charts and pages. They are no results."""

from __future__ import annotations

from typing import Any

import polars as pl

from dmcore.results.shrinkage import CASES, shrinkage_table
from dmcore.results.transfer import KEPT, transfer_table

D_MODEL = 192


def ends(name: str, value: float, half: float = 0.02) -> dict[str, float]:
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def ladder() -> pl.DataFrame:
    found = [("scale_x", 0.03, 1, None), ("scale_recon", -0.001, 1, None), ("diagonal", 0.05, D_MODEL, None)]
    found += [
        (f"rank_{r}", 0.35 * (r / D_MODEL) ** 0.5, r * (2 * D_MODEL - r), r) for r in (1, 2, 4, 8, 16, 32, 64, 128)
    ]
    found.append(("full", 0.35, D_MODEL**2, D_MODEL))
    rows: list[dict[str, Any]] = []
    for rung, r2, weights, rank in found:
        row = {"rung": rung, "title": rung.replace("_", " "), "rank": rank, "n_weights": weights}
        row |= ends("r2", r2) | ends("share", r2 / 0.35, 0.02)
        if rung in {"scale_x", "scale_recon", "diagonal"}:
            row |= ends("left", 0.32) | {"alpha": 0.04}
        rows.append(row)
    return shrinkage_table("ladder", rows)


def ranks() -> pl.DataFrame:
    rows = []
    for rank in range(D_MODEL + 1):
        r2 = 0.35 * (rank / D_MODEL) ** 0.5
        rows.append({"rank": rank} | ends("r2", r2) | ends("scaled", max(r2, 0.03)))
    return shrinkage_table("ranks", rows)


def shape() -> pl.DataFrame:
    facts = {"identity": 0.1, "diagonal": 0.15, "symmetric": 0.8, "antisymmetric": 0.2, "slope": 0.05}
    return shrinkage_table("shape", [{"fact": f, "chance": 0.01} | ends("value", v) for f, v in facts.items()])


def spectrum() -> pl.DataFrame:
    rows = [
        {"direction": i} | ends("singular", 1 / i, 0.1 / i) | ends("predicted", 1 / i**2, 0.0)
        for i in range(1, D_MODEL + 1)
    ]
    return shrinkage_table("spectrum", rows)


def alignment(bases: tuple[str, ...] = ("x", "decoder")) -> pl.DataFrame:
    rows = [
        {"side": side, "weighting": weighting, "basis": basis, "k": k, "chance": k / D_MODEL} | ends("overlap", 0.3)
        for side in ("reads", "writes") for weighting in ("plain", "data") for basis in bases
        for k in (1, 2, 4, 8, 16, 32, 64, 96)
    ]  # fmt: skip
    return shrinkage_table("alignment", rows)


def rows() -> pl.DataFrame:
    found = [
        {"side": side, "weighting": weighting, "direction": i, "cosine": 0.9 / i, "latent": 7 * i, "chance": 0.31}
        for side in ("reads", "writes") for weighting in ("plain", "data") for i in range(1, 17)
    ]  # fmt: skip
    return shrinkage_table("rows", found)


def outliers(n: int = 9) -> pl.DataFrame:
    found = [{"dimension": 10 * i, "variance": 100.0 - i, "times_median": 100.0 - i} for i in range(n)]
    return shrinkage_table("outliers", found)


def without(cases: tuple[str, ...] = tuple(CASES)) -> pl.DataFrame:
    found: list[dict[str, Any]] = [{"case": case} | ends("r2", 0.3) for case in cases]
    return shrinkage_table("without", [row | (ends("drop", 0.05) if row["case"] != "all" else {}) for row in found])


def ablations() -> pl.DataFrame:
    groups = [(1, 4, 0.5, 0.1), (5, 16, 0.2, 0.2), (17, 64, 0.2, 0.3), (65, D_MODEL, 0.1, 0.4)]
    found = [
        {"first": a, "last": b, "variance_share": share} | ends("r2", 0.3) | ends("drop", 0.35 * gone)
        | ends("drop_share", gone) for a, b, share, gone in groups
    ]  # fmt: skip
    return shrinkage_table("ablations", found)


def shrinkage_tables(**more: pl.DataFrame) -> dict[str, pl.DataFrame]:
    remarks = shrinkage_table("remarks", [{"topic": "rows", "text": "A <b>remark</b> that is *no* Markdown."}])
    return {
        "ladder": ladder(), "ranks": ranks(), "shape": shape(), "spectrum": spectrum(), "alignment": alignment(),
        "rows": rows(), "outliers": outliers(), "without": without(), "ablations": ablations(), "remarks": remarks,
    } | more  # fmt: skip


def members(names: list[str], **columns: list[Any]) -> pl.DataFrame:
    about = {
        "site": "blocks.2.hook_resid_post",
        "label": "topk",
        "d_sae": 1024,
        "l0": 16.0,
        "n_tokens": 9000,
        "n_contexts": 9,
    }
    found = [
        {"member": k, "name": name, "layer": k, **about, **{column: values[k] for column, values in columns.items()}}
        for k, name in enumerate(names)
    ]
    return transfer_table("members", found)


def cells(n: int, off: float = 0.2, own: float = 0.3) -> pl.DataFrame:
    found = []
    for a in range(n):
        for b in range(n):
            for kept in KEPT:
                r2 = own if a == b else off - 0.01 * a if kept == "map" else own * 0.9
                row = {"fitted": a, "tested": b, "kept": kept, "scale": 0.8 if kept == "scaled" else None}
                found.append(row | ends("r2", r2) | ends("relative", r2 / own) | ends("drop", own - r2))
    return transfer_table("cells", found)


def transfer_tables(names: list[str], off: float = 0.2, **columns: list[Any]) -> dict[str, pl.DataFrame]:
    remarks = transfer_table("remarks", [{"topic": "transfer", "text": "A <b>remark</b> on domains."}])
    return {"members": members(names, **columns), "cells": cells(len(names), off), "remarks": remarks}
