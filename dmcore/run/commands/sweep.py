"""`sweep`: compute everything that a study asks for."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from dmcore.errors import DarkMatterError
from dmcore.progress import Reporter, terminal_sink
from dmcore.run.commands.processes import add_workers, checked_workers, run_shares
from dmcore.run.commands.shared import add_precision, device_named, records_table, resolve_study, say
from dmcore.run.engines import add_engine, asked_engine, open_pipeline


def register(commands: Any) -> None:
    """Add the command."""
    sweep = commands.add_parser("sweep", help="compute everything that a study asks for")
    sweep.add_argument("study", help="a study file, or: demo")
    add_workers(sweep)
    add_engine(sweep)
    sweep.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    add_precision(sweep)
    sweep.add_argument("--recompute", action="store_true", help="compute anew beside the cache, and compare with it")
    sweep.add_argument("--json", action="store_true", help="print the records as JSON")
    sweep.add_argument("--part", default="", help=argparse.SUPPRESS)
    sweep.set_defaults(run=_sweep)


def _sweep(arguments: argparse.Namespace) -> int:
    study = resolve_study(arguments.study).with_precision(arguments.precision)
    if checked_workers(arguments.workers) > 1 and arguments.engine == "ray":
        raise DarkMatterError(
            "--workers is for the local engine: Ray runs a task on every processor of its nodes by itself."
        )
    if arguments.recompute:
        from dmcore.run.recompute import recompute

        return recompute(study, device_named(arguments.device), Reporter(terminal_sink()), say)
    if arguments.workers > 1:
        _run_workers(arguments)

    part, parts = (int(n) for n in arguments.part.split("/")) if arguments.part else (0, 1)
    pipeline = open_pipeline(asked_engine(arguments), arguments.device, Reporter(terminal_sink()))
    outcome = pipeline.sweep(study, only=(lambda index: index % parts == part) if arguments.part else None)
    if arguments.json:
        say(json.dumps(outcome.records, indent=1))
    elif not arguments.part:
        say(records_table(outcome.records))
        cached = len(outcome.records) - outcome.computed
        say(f"{len(outcome.records)} of {len(study.saes)} SAEs: {outcome.computed} computed, {cached} from the cache.")
    for name, reason in outcome.failures.items():
        sys.stderr.write(f"error: {name}: {reason}\n")
    for hook, reason in outcome.unscaled.items():
        sys.stderr.write(f"error: the SAEs at {hook} could not be compared: {reason}\n")
    if outcome.parts:
        sys.stderr.write(f"error: the SAEs on the parts could not be measured: {outcome.parts}\n")
    return 1 if outcome.failures or outcome.unscaled or outcome.parts else 0


def _run_workers(arguments: argparse.Namespace) -> None:
    command = ["sweep", arguments.study, "--device", arguments.device]
    if arguments.precision:
        command += ["--precision", arguments.precision]
    run_shares([[*command, "--part", f"{part}/{arguments.workers}"] for part in range(arguments.workers)])
