"""`transfer`: maps from x to the error that were fitted in one place and tested in another."""

from __future__ import annotations

import argparse
import json
from typing import Any

import polars as pl

from dmcore.errors import DarkMatterError
from dmcore.progress import Reporter, terminal_sink
from dmcore.results.transfer import BY, KEPT, Transfer
from dmcore.run.commands.reduce import aligned, number
from dmcore.run.commands.shared import chosen_saes, device_named, resolve_study, say, say_failures
from dmcore.store.store import Store


def register(commands: Any) -> None:
    """Add the command."""
    transfer = commands.add_parser("transfer", help="fit the map on one text, layer or SAE, and test it on another")
    transfer.add_argument("study", help="a study file, or: demo")
    transfer.add_argument(
        "sae", nargs="*", help="SAEs that the matrices are around, or the ends of their names (the base of [parts], or the "
        "first with results)",
    )  # fmt: skip
    transfer.add_argument(
        "--by", action="append", choices=list(BY), help="domain, layer, sae or width; again for more (all)"
    )
    transfer.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    transfer.add_argument("--json", action="store_true", help="print JSON: a record a matrix, tables as lists of rows")
    transfer.set_defaults(run=_transfer)


def _transfer(arguments: argparse.Namespace) -> int:
    from dmcore.run.looks.inspect import Inspector
    from dmcore.run.pipeline import Pipeline

    study = resolve_study(arguments.study)
    inspector = Inspector(Pipeline(Store(), device_named(arguments.device), Reporter(terminal_sink())), study)
    base = [study.parts.base] if study.parts is not None else []
    names = chosen_saes(inspector, arguments.sae or base)
    names = names if arguments.sae else names[:1]
    records: list[dict[str, Any]] = []
    failures: list[str] = []
    asked = [(name, by) for name in names for by in arguments.by or BY]
    for name, by in asked:
        try:
            found = inspector.transfer(name, by)
        except DarkMatterError as error:
            if len(asked) == 1:
                raise
            failures.append(f"{name}, {BY[by]}: {error}")
            continue
        records.append({"sae": name, **found.record()})
        if not arguments.json:
            say("\n".join([f"{name}, maps {BY[by]}:", *(f"  {line}" for line in transfer_lines(found))]))
    if arguments.json:
        say(json.dumps(records, indent=1))
    return say_failures(failures)


def transfer_lines(found: Transfer) -> list[str]:
    """The members, then R2 of every pair for each kind of what is kept: a row is where the map was fitted."""
    members, cells = found["members"].to_dicts(), found["cells"]
    lines = [f"{row['member']}: {_member(found, row)}, {row['n_tokens']:,} tokens" for row in members]
    for kept, words in KEPT.items():
        rows = [[f"R2, {words}", *(str(row["member"]) for row in members)]]
        for fitted in members:
            of_row = cells.filter((pl.col("kept") == kept) & (pl.col("fitted") == fitted["member"]))
            values = dict(of_row.select("tested", "r2").rows())
            rows.append([f"fitted on {fitted['member']}", *(number(values.get(row["member"])) for row in members)])
        lines += aligned(rows)
    return [*lines, *(f"note: {text}" for text in found["remarks"]["text"])]


def _member(found: Transfer, row: dict[str, Any]) -> str:
    return str(row["name"]) if found.by == "domain" else f"{row['name']} (layer {row['layer']}, L0 {row['l0']:.3g})"
