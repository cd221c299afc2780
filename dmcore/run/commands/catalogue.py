"""`catalogue`: list the SAEs that SAELens's registry knows, offline."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dmcore.run.commands.shared import say

if TYPE_CHECKING:
    import polars as pl

JSON_KEYS = (
    "release", "id", "model", "hook", "site", "stream", "layer", "d_in", "d_sae", "l0", "architecture", "processing", "kind",
    "on_disk", "repo_id", "path", "neuronpedia_id",
)  # fmt: skip

THOUSANDS = {f"{2**power // 1000}k": 2**power for power in range(16, 20)}
"""Widths that releases name by thousands (65k, 131k, 262k, 524k); 16k, 32k and 1m are counted by 1,024 by all."""


def width_named(text: str) -> int:
    """A width in latents: `16384`, `16,384`, `16k`, `131k`, `1m`."""
    name = text.strip().lower().replace(",", "")
    if name in THOUSANDS:
        return THOUSANDS[name]
    found = re.fullmatch(r"([1-9][0-9]{0,8})([km]?)", name)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no width (16384 is one, and so are 16k, 65k and 1m)")
    return int(found[1]) * {"": 1, "k": 2**10, "m": 2**20}[found[2]]


def register(commands: Any) -> None:
    """Add the command."""
    catalogue = commands.add_parser("catalogue", help="list the SAEs that can be had, with site, width and L0; offline")
    catalogue.add_argument("--release", help="a release, by its whole name")
    catalogue.add_argument("--model", help="a model, e.g. google/gemma-2-9b or gemma-2-9b")
    catalogue.add_argument("--layer", type=int, help="a layer, from 0")
    catalogue.add_argument("--width", type=width_named, help="latents, e.g. 16384, or 16k as releases are named")
    catalogue.add_argument("--site", help="a site or stream: hook_resid_post, residual, mlp, attention, ...")
    catalogue.add_argument("--architecture", help="topk, jumprelu, standard, gated, matryoshka, ...")
    catalogue.add_argument("--text", help="words that release, id, path or model hold")
    catalogue.add_argument("--on-disk", action="store_true", help="only what is on this machine already")
    catalogue.add_argument("--releases", action="store_true", help="one line per release, with counts")
    catalogue.add_argument("--json", action="store_true", help="print JSON; an L0 of null is unknown")
    catalogue.set_defaults(run=_catalogue)


def _catalogue(arguments: argparse.Namespace) -> int:
    from dmcore.sources.catalogue import check_names, check_release, filter_catalogue, read_catalogue

    frame = read_catalogue()
    if arguments.release is not None:
        check_release(frame, arguments.release)
    check_names(frame, model=arguments.model, site=arguments.site, architecture=arguments.architecture)
    names = ("release", "model", "layer", "width", "site", "architecture", "text")
    wanted = {name: getattr(arguments, name) for name in names}
    found = filter_catalogue(frame, **wanted, on_disk=arguments.on_disk)
    if arguments.releases:
        return _releases(found, as_json=arguments.json)
    if arguments.json:
        rows = found.select(*JSON_KEYS).rename({"processing": "asked"}).to_dicts()
        # A list, as in a study file; and the width by both names that are in use.
        say(json.dumps([_record(row) for row in rows], indent=1))
        return 0
    if not found.height:
        say(f"None of the {frame.height:,} SAEs is all that was asked for: leave one of the filters out.")
        return 0
    rows = [
        (r["release"], r["id"], r["model"], r["hook"] or f"({r['kind']})", _whole(r["d_sae"]), _l0(r["l0"]),
         r["architecture"] or "unknown", "yes" if r["on_disk"] else "")
        for r in found.iter_rows(named=True)
    ]  # fmt: skip
    _table(("release", "id", "model", "hook", "width", "L0", "architecture", "on disk"), rows)
    say(f"{found.height:,} of {frame.height:,} SAEs, {int(found['on_disk'].sum()):,} on disk.")
    return 0


def _record(row: dict[str, Any]) -> dict[str, Any]:
    asked = row.pop("asked")
    return {**row, "width": row["d_sae"], "processing": asked.split(",") if asked else []}


def _releases(found: pl.DataFrame, *, as_json: bool) -> int:
    import polars as pl

    table = found.group_by("release", maintain_order=True).agg(
        pl.col("model").first(),
        pl.len().alias("saes"),
        pl.col("layer").n_unique().alias("layers"),
        pl.col("d_sae").drop_nulls().unique().sort().alias("widths"),
        pl.col("on_disk").sum().alias("on_disk"),
        pl.col("kind").first(),
        pl.col("repo_id").first(),
    )
    if as_json:
        say(json.dumps(table.to_dicts(), indent=1))
        return 0
    rows = [
        (r["release"], r["model"], f"{r['saes']:,}", str(r["layers"]), ", ".join(map(_whole, r["widths"])) or "unknown",
         str(r["on_disk"] or ""), r["kind"])
        for r in table.iter_rows(named=True)
    ]  # fmt: skip
    _table(("release", "model", "SAEs", "layers", "widths", "on disk", "kind"), rows)
    say(f"{table.height:,} releases, {found.height:,} SAEs.")
    return 0


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _whole(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _l0(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"
