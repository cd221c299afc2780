"""`shrinkage`: whether the linear part of an SAE's error is only undone shrinkage, and what its map looks like."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dmcore.progress import Reporter, terminal_sink
from dmcore.results.shrinkage import CASES, Shrinkage
from dmcore.run.commands.reduce import aligned, estimate, number
from dmcore.run.commands.shared import chosen_saes, device_named, over_saes, resolve_study, say, say_failures
from dmcore.store.store import Store


def register(commands: Any) -> None:
    """Add the command."""
    shrinkage = commands.add_parser("shrinkage", help="is an SAE's linear error only undone shrinkage; what its map is")
    shrinkage.add_argument("study", help="a study file, or: demo")
    shrinkage.add_argument("sae", nargs="*", help="SAEs of the study, or the ends of their names (all with results)")
    shrinkage.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    shrinkage.add_argument("--json", action="store_true", help="print JSON: for each SAE the tables as lists of rows")
    shrinkage.set_defaults(run=_shrinkage)


def _shrinkage(arguments: argparse.Namespace) -> int:
    from dmcore.run.looks.inspect import Inspector
    from dmcore.run.pipeline import Pipeline

    study = resolve_study(arguments.study)
    inspector = Inspector(Pipeline(Store(), device_named(arguments.device), Reporter(terminal_sink())), study)
    names = chosen_saes(inspector, arguments.sae)
    records: list[dict[str, Any]] = []

    def one(name: str) -> None:
        found = inspector.shrinkage(name)
        records.append({"sae": name, **found.record()})
        if not arguments.json:
            about = found.about
            say(f"{name}: {about['n_tokens']:,} tokens in {about['n_contexts']:,} contexts, held out by context")
            say("\n".join(f"  {line}" for line in shrinkage_lines(found)))

    failures = over_saes(names, one)
    if arguments.json:
        say(json.dumps(records, indent=1))
    return say_failures(failures)


def shrinkage_lines(found: Shrinkage) -> list[str]:
    """The ladder, what ablation and outliers do, the shape of the map, remarks."""
    rows = [["map", "weights", "R2", "of the linear part", "R2 of what is left"]]
    for row in found["ladder"].to_dicts():
        cells = [estimate(row, name) for name in ("r2", "share", "left")]
        rows.append([row["rung"], f"{row['n_weights']:,}", *cells])
    lines = aligned(rows) if len(rows) > 1 else []
    groups = found["ablations"].to_dicts()
    if groups:
        rows = [["without components", "variance of x", "R2", "drop"]]
        rows += [
            [f"{row['first']}-{row['last']}", number(row["variance_share"]), estimate(row, "r2"), estimate(row, "drop")]
            for row in groups
        ]
        lines += aligned(rows)
    if len(found["outliers"]):
        dimensions = ", ".join(map(str, found["outliers"]["dimension"].head(8)))
        lines.append(f"outlying dimensions of x: {dimensions}" + (" ..." if len(found["outliers"]) > 8 else ""))
        rows = [[CASES[row["case"]], estimate(row, "r2")] for row in found["without"].to_dicts()]
        lines += aligned(rows)
    facts = [
        f"{row['fact']} {estimate(row, 'value')} (chance {number(row['chance'])})" for row in found["shape"].to_dicts()
    ]
    if facts:
        lines.append(f"shares of |W|^2: {'; '.join(facts)}")
    return [*lines, *(f"note: {text}" for text in found["remarks"]["text"])]
