"""`reduce`: what can be added to an SAE, or done with its dictionary, and how much of its error that removes."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

from dmcore.errors import StoreError
from dmcore.progress import Reporter, terminal_sink
from dmcore.results import Reduction
from dmcore.run.commands.shared import device_named, resolve_study, say, some_saes
from dmcore.store.store import Store

SHOWN = ("fvu", "fvu_nonlinear", "error_removed", "nonlinear_removed")


def register(commands: Any) -> None:
    """Add the command."""
    reduce = commands.add_parser("reduce", help="methods that reduce an SAE's error, on equal terms")
    reduce.add_argument("study", help="a study file, or: demo")
    reduce.add_argument("sae", nargs="*", help="SAEs of the study, or the ends of their names")
    reduce.add_argument(
        "--earlier",
        action="append",
        default=None,
        metavar="SAE",
        help="an SAE of an earlier component (again for more)",
    )
    reduce.add_argument(
        "--methods", default=None, help="coding methods, with commas between them; none for no method (the usual ones)"
    )
    reduce.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    reduce.add_argument("--json", action="store_true", help="print JSON: a record for each SAE and method")
    reduce.set_defaults(run=_reduce)


def _reduce(arguments: argparse.Namespace) -> int:
    from dmcore.run.inspect import Inspector
    from dmcore.run.pipeline import Pipeline

    study = resolve_study(arguments.study)
    if not arguments.sae:
        raise StoreError(f"Say which SAE: {some_saes(study)}.")
    pipeline = Pipeline(Store(), device_named(arguments.device), Reporter(terminal_sink()))
    inspector = Inspector(pipeline, study)
    saes = [inspector.sae(name) for name in arguments.sae]
    methods = arguments.methods
    chosen = None if methods is None else [one for one in methods.split(",") if one and one != "none"]
    records: list[dict[str, Any]] = []
    for sae in saes:
        found = inspector.reduction(sae.sae.name, earlier=arguments.earlier, methods=chosen)
        wider = inspector.wider(sae.sae.name)
        about = {"site": sae.sae.hook, "sae": sae.sae.name, "d_sae": found.about["d_sae"]}
        if arguments.json:
            records += league_records(found, wider, about)
        else:
            say("\n".join([f"{sae.sae.name}: {_sample(found)}", *league_lines(found, wider)]))
    if arguments.json:
        say(json.dumps(records, indent=1))
    return 0


def league_records(found: Reduction, wider: list[dict[str, Any]], about: dict[str, Any]) -> list[dict[str, Any]]:
    """A record a method: site, SAE, and every column of the table."""
    return [{**about, **row} for row in [*found["methods"].to_dicts(), *wider]]


def league_lines(found: Reduction, wider: list[dict[str, Any]]) -> list[str]:
    """The table as aligned text, then regressions on earlier components and remarks."""
    rows = [["method", "L0", "extra L0", "parameters", *SHOWN, "s / 1,000"]]
    for row in [*found["methods"].to_dicts(), *wider]:
        cells = [row["method"], _number(row["l0"]), _number(row["extra_l0"]), f"{row['parameters_added']:,}"]
        rows.append([*cells, *(_estimate(row, name) for name in SHOWN), _number(row["seconds_per_1000"])])
    lines = _aligned(rows)
    for part in found["components"].to_dicts():
        lines.append(f"{part['role']}: {part['sae']} ({part['d_sae']:,} latents, L0 {part['l0']:.3g})")
    regressed = found["regressions"]
    if len(regressed):
        rows = [["held-out R2 from", "error", "linear part", "nonlinear part"]]
        for inputs in regressed["inputs"].unique(maintain_order=True):
            cells = [found.r2(inputs, target) for target in ("error", "linear", "nonlinear")]
            rows.append([inputs, *("-" if cell is None else _estimate(cell, "r2") for cell in cells)])
        lines += _aligned(rows)
    lines += [f"note: {text}" for text in found["remarks"]["text"]]
    return [f"  {line}" for line in lines]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _sample(found: Reduction) -> str:
    about = found.about
    return f"{about['n_tokens']:,} tokens in {about['n_contexts']:,} contexts, held out by context"


def _estimate(row: dict[str, Any], name: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None or low is None or high is None:
        return _number(value)
    decimals = 4 if high <= low else min(max(1 - math.floor(math.log10((high - low) / 2)), 0), 4)
    return f"{value:,.{decimals}f} ({low:,.{decimals}f} to {high:,.{decimals}f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
