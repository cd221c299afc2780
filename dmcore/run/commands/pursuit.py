"""`pursuit`: codes that an SAE's dictionary allows when its encoder does not limit them, at equal L0."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dmcore.errors import DataError
from dmcore.progress import Reporter, terminal_sink
from dmcore.results import Reduction, ReductionSettings
from dmcore.results.reduction import CODING, LOSS_METRICS
from dmcore.run.commands.reduce import aligned, chosen_methods, estimate, number, sample_words
from dmcore.run.commands.shared import chosen_saes, device_named, over_saes, resolve_study, say, say_failures
from dmcore.store.store import Store

SHOWN = ("fvu", "fvu_nonlinear", "error_removed", "nonlinear_removed")


def register(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "pursuit",
        help="other codes of an SAE's dictionary: gradient and matching pursuits, least squares",
        description="What the SAE's dictionary could do with as many latents a token as its encoder has active, or with "
        "another number: the error that each method leaves, held out by context. What the paper calls encoder error is the "
        "nonlinear FVU of the encoder less that of a pursuit.",
    )
    command.add_argument("study", help="a study file, or: demo")
    command.add_argument("sae", nargs="*", help="SAEs of the study, or the ends of their names (all that have results)")
    command.add_argument("--methods", default=None, help=f"with commas between them ({','.join(CODING)})")
    usual = ReductionSettings().coding_contexts
    command.add_argument(
        "--l0", type=int, default=None, help="atoms that each token may have (the encoder's own number)"
    )
    command.add_argument(
        "--contexts", type=int, default=usual, help=f"contexts to code, at equal steps; 0: all ({usual})"
    )
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    command.add_argument("--json", action="store_true", help="print JSON: a record for each SAE and method")
    command.set_defaults(run=_pursuit)


def _pursuit(arguments: argparse.Namespace) -> int:
    from dmcore.run.looks.inspect import Inspector
    from dmcore.run.pipeline import Pipeline

    study = resolve_study(arguments.study)
    inspector = Inspector(Pipeline(Store(), device_named(arguments.device), Reporter(terminal_sink())), study)
    names, chosen = chosen_saes(inspector, arguments.sae), chosen_methods(arguments.methods)
    records: list[dict[str, Any]] = []

    def one(name: str) -> None:
        found = inspector.pursuit(name, methods=chosen, coding_contexts=arguments.contexts, target_l0=arguments.l0)
        rows = coding_rows(found)
        about = {"site": study.sae_called(name).hook, "sae": name, "d_sae": found.about["d_sae"]}
        records.extend({**about, **row} for row in rows)
        if not arguments.json:
            say("\n".join([f"{name}: {sample_words(found)}", *_lines(rows)]))

    failures = over_saes(names, one)
    if arguments.json:
        say(json.dumps(records, indent=1))
    return say_failures(failures)


def coding_rows(found: Reduction) -> list[dict[str, Any]]:
    """The rows of the encoder and of the coding methods, without what is not of codes.

    Raises:
        DataError: no method could be run; says why.
    """
    rows = [row for row in found["methods"].to_dicts() if row["kind"] in ("encoder", "coding")]
    why = [row["text"] for row in found["remarks"].to_dicts() if row["topic"] == "coding"]
    if len(rows) == 1 and why:
        raise DataError(why[0])
    other = ("rank", "inputs", "loss_tokens", "loss_contexts", *LOSS_METRICS)
    return [
        {name: v for name, v in row.items() if name.removesuffix("_low").removesuffix("_high") not in other}
        for row in rows
    ]


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    cells = [["method", "L0", *SHOWN, "s / 1,000"]]
    for row in rows:
        found = [estimate(row, name) for name in SHOWN]
        cells.append([row["method"], number(row["l0"]), *found, number(row["seconds_per_1000"])])
    return [f"  {line}" for line in aligned(cells)]
