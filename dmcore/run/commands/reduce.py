"""`reduce`: what can be added to an SAE, or done with its dictionary, and how much of its error that removes."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

from dmcore.progress import Reporter, terminal_sink
from dmcore.results import Reduction, ReductionSettings
from dmcore.run.commands.processes import add_workers, share_saes
from dmcore.run.commands.shared import chosen_saes, device_named, over_saes, resolve_study, say, say_failures
from dmcore.store.store import Store

SHOWN = ("fvu", "fvu_nonlinear", "error_removed", "nonlinear_removed", "recovered_sae")


def register(commands: Any) -> None:
    """Add the command."""
    reduce = commands.add_parser("reduce", help="methods that reduce an SAE's error, on equal terms")
    reduce.add_argument("study", help="a study file, or: demo")
    reduce.add_argument("sae", nargs="*", help="SAEs of the study, or the ends of their names (all that have results)")
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
    usual = ReductionSettings()
    reduce.add_argument(
        "--coding-contexts",
        type=int,
        default=usual.coding_contexts,
        help=f"contexts that coding methods run on, at equal steps; 0: all ({usual.coding_contexts})",
    )
    reduce.add_argument(
        "--loss-contexts",
        type=int,
        default=usual.loss_contexts,
        help=f"of those, contexts that the model's loss is computed on; 0: none ({usual.loss_contexts})",
    )
    add_workers(reduce)
    reduce.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    reduce.add_argument("--json", action="store_true", help="print JSON: a record for each SAE and method")
    reduce.set_defaults(run=_reduce)


def _reduce(arguments: argparse.Namespace) -> int:
    from dmcore.run.looks.inspect import Inspector
    from dmcore.run.pipeline import Pipeline

    study = resolve_study(arguments.study)
    settings = ReductionSettings(arguments.coding_contexts, arguments.loss_contexts)
    inspector = Inspector(Pipeline(Store(), device_named(arguments.device), Reporter(terminal_sink())), study)
    names, chosen = chosen_saes(inspector, arguments.sae), chosen_methods(arguments.methods)
    share_saes(["reduce", *_options(arguments, settings), arguments.study], names, arguments.workers)
    records: list[dict[str, Any]] = []

    def one(name: str) -> None:
        found = inspector.reduction(name, earlier=arguments.earlier, methods=chosen, settings=settings)
        wider, about = inspector.wider(name), {"site": study.sae_called(name).hook, "sae": name}
        records.extend(league_records(found, wider, {**about, "d_sae": found.about["d_sae"]}))
        if not arguments.json:
            place = f" ({names.index(name) + 1} of {len(names)})" if len(names) > 1 else ""
            say("\n".join([f"{name}: {sample_words(found)}{place}", *league_lines(found, wider)]))

    failures = over_saes(names, one)
    if arguments.json:
        say(json.dumps(records, indent=1))
    return say_failures(failures)


def _options(arguments: argparse.Namespace, settings: ReductionSettings) -> list[str]:
    """The options of a process that does a share."""
    options = ["--coding-contexts", str(settings.coding_contexts), "--loss-contexts", str(settings.loss_contexts)]
    options += [] if arguments.methods is None else ["--methods", arguments.methods]
    options += [word for one in arguments.earlier or () for word in ("--earlier", one)]
    return [*options, "--device", arguments.device]


def chosen_methods(given: str | None) -> list[str] | None:
    """The names of coding methods in an option; None where it was not given."""
    return None if given is None else [one for one in given.split(",") if one and one != "none"]


def league_records(found: Reduction, wider: list[dict[str, Any]], about: dict[str, Any]) -> list[dict[str, Any]]:
    """A record a method: site, SAE, and every column of the table."""
    return [{**about, **row} for row in [*found["methods"].to_dicts(), *wider]]


def league_lines(found: Reduction, wider: list[dict[str, Any]]) -> list[str]:
    """The table as aligned text, then regressions on earlier components and remarks."""
    rows = [["method", "L0", "extra L0", "parameters", *SHOWN, "s / 1,000"]]
    for row in [*found["methods"].to_dicts(), *wider]:
        cells = [row["method"], number(row["l0"]), number(row["extra_l0"]), f"{row['parameters_added']:,}"]
        rows.append([*cells, *(estimate(row, name) for name in SHOWN), number(row["seconds_per_1000"])])
    lines = aligned(rows)
    for part in found["components"].to_dicts():
        lines.append(f"{part['role']}: {part['sae']} ({part['d_sae']:,} latents, L0 {part['l0']:.3g})")
    regressed = found["regressions"]
    if len(regressed):
        rows = [["held-out R2 from", "error", "linear part", "nonlinear part"]]
        for inputs in regressed["inputs"].unique(maintain_order=True):
            cells = [found.r2(inputs, target) for target in ("error", "linear", "nonlinear")]
            rows.append([inputs, *("-" if cell is None else estimate(cell, "r2") for cell in cells)])
        lines += aligned(rows)
    lines += [f"note: {text}" for text in found["remarks"]["text"]]
    return [f"  {line}" for line in lines]


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows of cells as lines."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def sample_words(found: Reduction) -> str:
    """On what the numbers are."""
    about = found.about
    some = about["coding_contexts"]
    coding = f"; coding methods on {some:,} contexts" if 0 < some < about["n_contexts"] else ""
    return f"{about['n_tokens']:,} tokens in {about['n_contexts']:,} contexts, held out by context{coding}"


def estimate(row: dict[str, Any], name: str) -> str:
    """A number with its interval."""
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None or low is None or high is None:
        return number(value)
    decimals = 4 if high <= low else min(max(1 - math.floor(math.log10((high - low) / 2)), 0), 4)
    return f"{value:,.{decimals}f} ({low:,.{decimals}f} to {high:,.{decimals}f})"


def number(value: float | None) -> str:
    """A number, or a dash."""
    return "-" if value is None else f"{value:.3g}"
