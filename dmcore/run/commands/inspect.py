"""`inspect`: everything that pages show of single SAEs and a sweep leaves out: features, structure of the error, detection."""

from __future__ import annotations

import argparse
from typing import Any

from dmcore.progress import Reporter, terminal_sink
from dmcore.run.commands.shared import device_named, resolve_study, say, say_aside
from dmcore.store.store import Store


def register(commands: Any) -> None:
    """Add the command."""
    inspect = commands.add_parser(
        "inspect",
        help="look into SAEs: their features, the structure of their error, how well features can be told",
        description="Make what the page Nonlinear error shows of single SAEs, where it is missing: features, structure, "
        "and detection scores by patterns of the text. `features`, `structure` and `detect` make one each, and print it.",
    )
    inspect.add_argument("study", help="a study file, or: demo")
    inspect.add_argument("sae", nargs="+", help="SAEs of the study, or the ends of their names")
    inspect.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    inspect.set_defaults(run=_inspect)


def _inspect(arguments: argparse.Namespace) -> int:
    from dmcore.run.looks.inspect import Inspector
    from dmcore.run.pipeline import Pipeline

    study = resolve_study(arguments.study)
    inspector = Inspector(Pipeline(Store(), device_named(arguments.device), Reporter(terminal_sink())), study)
    names = [inspector.sae(name).sae.name for name in arguments.sae]
    status = 0
    for name in names:
        failure = inspector.everything(name)
        if failure:
            say_aside(f"{name}: {failure}")
            status = 1
        else:
            say(f"{name}: features, structure and detection scores are there.")
    return status
