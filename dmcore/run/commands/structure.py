"""`structure`: in how many directions an SAE's error lies, whether its tokens fall in clusters, and what fires with it."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

import polars as pl

from dmcore.errors import StoreError
from dmcore.progress import Reporter, terminal_sink
from dmcore.results import Structure
from dmcore.results.structure import CLUSTERED_PARTS, SIDES, SPECTRUM_PARTS, STRUCTURE_TABLES
from dmcore.run.commands.shared import device_named, resolve_study, say, some_saes
from dmcore.store.store import Store

N_LISTED = 5
"""Latents of either side, and clusters of a part, that are printed."""
N_TOKENS = 6
"""Tokens that stand for a cluster."""


def register(commands: Any) -> None:
    """Add the command."""
    structure = commands.add_parser("structure", help="directions, clusters and latents of an SAE's error")
    structure.add_argument("study", help="a study file, or: demo")
    structure.add_argument("sae", nargs="?", default="", help="an SAE of the study, or the end of its name")
    structure.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    structure.add_argument("--json", action="store_true", help="print JSON: the tables as lists of rows")
    structure.set_defaults(run=_structure)


def _structure(arguments: argparse.Namespace) -> int:
    from dmcore.run.looks.inspect import Inspector
    from dmcore.run.pipeline import Pipeline

    study = resolve_study(arguments.study)
    if not arguments.sae:
        raise StoreError(f"Say which SAE: {some_saes(study)}.")
    pipeline = Pipeline(Store(), device_named(arguments.device), Reporter(terminal_sink()))
    inspector = Inspector(pipeline, study)
    name, found = inspector.sae(arguments.sae).sae.name, inspector.structure(arguments.sae)
    if arguments.json:
        say(json.dumps({"sae": name, **structure_json(found)}, indent=1))
    else:
        say("\n".join([f"{name}: {_sample(found)}", *structure_lines(found)]))
    return 0


def structure_json(found: Structure) -> dict[str, Any]:
    """All tables as lists of rows, and what is said of the whole."""
    return {"about": {**found.about}, **{name: found[name].to_dicts() for name in STRUCTURE_TABLES}}


def structure_lines(found: Structure) -> list[str]:
    """The structure in a few lines: a table of the parts, clusters, lifts, remarks."""
    lines = part_lines(found)
    for part in CLUSTERED_PARTS:
        lines += _cluster_lines(found, part)
    for side, words in zip(SIDES, ("more", "less"), strict=True):
        rows = found["latents"].filter(pl.col("side") == side).sort("rank").head(N_LISTED).to_dicts()
        told = ", ".join(f"{row['latent']} {_estimate(row, 'lift')}" for row in rows)
        if told:
            lines.append(f"latents that fire {words} often where the error is most nonlinear (lift): {told}")
    for by in found["groups"]["by"].unique(maintain_order=True):
        rows = found["groups"].filter(pl.col("by") == by).sort("order").to_dicts()
        told = ", ".join(f"{row['group']} {_estimate(row, 'lift')}" for row in rows if row["lift"] is not None)
        lines.append(f"tokens by {by} (lift): {told}")
    return [f"  {line}" for line in [*lines, *(f"note: {text}" for text in found["remarks"]["text"])]]


def part_lines(found: Structure) -> list[str]:
    """A line a part, aligned: variance, directions, effective rank, overlap of halves."""
    k = found.compared_k
    rows = [["part", "variance / x's", "directions for 90 %", "effective rank", "first directions in two halves"]]
    for part in SPECTRUM_PARTS:
        row, halves = found.part(part), found.overlap(part, k)
        rows.append([part, _number(row["variance_share"]), _estimate(row, "directions_90"),
                     _estimate(row, "effective_rank"), "-" if halves is None else _overlap(halves)])  # fmt: skip
    if any(row[4] != "-" for row in rows[1:]):
        rows[0][4] = f"the first {k} in two halves: overlap (chance {k / found.about['d_model']:.3g})"
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cluster_lines(found: Structure, part: str) -> list[str]:
    """The clusters of a part, the largest first; one line where there are none."""
    rows = found["clusters"].filter(pl.col("part") == part).sort("n_tokens", descending=True)
    if rows.is_empty():
        return [f"clusters of {part}: none"]
    tried = found["silhouettes"].filter((pl.col("part") == part) & pl.col("chosen")).row(0, named=True)
    lines = [
        f"clusters of {part}: {len(rows)}, silhouette {_number(tried['silhouette'])} (without clusters "
        f"{_number(tried['null_mean'])})"
    ]
    for row in rows.head(N_LISTED).to_dicts():
        tokens = found["cluster_tokens"].filter((pl.col("part") == part) & (pl.col("cluster") == row["cluster"]))
        texts = " ".join(repr(found.texts.get(i, f"#{i}")) for i in tokens.sort("rank")["token"].head(N_TOKENS))
        lines.append(f"  {row['n_tokens']:,} tokens in {row['n_contexts']:,} contexts: {texts}")
    if len(rows) > N_LISTED:
        lines.append(f"  and {len(rows) - N_LISTED} more")
    return lines


def _sample(found: Structure) -> str:
    about = found.about
    return f"{about['n_tokens']:,} tokens in {about['n_contexts']:,} contexts, {about['d_model']:,} dimensions"


def _overlap(row: dict[str, Any]) -> str:
    return _between(row["overlap"], row["overlap_least"], row["overlap_most"])


def _estimate(row: dict[str, Any], name: str) -> str:
    return _between(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _between(value: float | None, low: float | None, high: float | None) -> str:
    """A value and its ends, with the decimals that give half of what is between them two figures."""
    if value is None or low is None or high is None:
        return _number(value)
    decimals = 4 if high <= low else min(max(1 - math.floor(math.log10((high - low) / 2)), 0), 4)
    return f"{value:,.{decimals}f} ({low:,.{decimals}f} to {high:,.{decimals}f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
