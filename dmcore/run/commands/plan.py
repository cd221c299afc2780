"""`plan`: what a study would take, before anything is downloaded."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dmcore.errors import DarkMatterError
from dmcore.run.commands.shared import resolve_study, say


def register(commands: Any) -> None:
    """Add the command."""
    plan = commands.add_parser("plan", help="say what a study would take: memory, disk, operations, time; offline")
    plan.add_argument("study", help="a study file, or: demo")
    plan.add_argument("--devices", type=int, default=1, help="devices over which the model is spread (1)")
    plan.add_argument("--device-memory", type=float, help="memory of each device in GiB (that of the assumed device)")
    plan.add_argument(
        "--device",
        default="auto",
        help="H200, H100, A100, RTX-4090, ..., GPU for another, cpu, or auto: H100 from a billion parameters up (auto)",
    )
    plan.add_argument(
        "--tflops", type=float, help="peak rate of a device, 10^12 operations a second, in place of its own"
    )
    plan.add_argument("--json", action="store_true", help="print JSON: bytes, operations and seconds")
    plan.set_defaults(run=_plan)


def _plan(arguments: argparse.Namespace) -> int:
    from dmcore.run.estimates.estimate import Machine, describe, estimate_study
    from dmcore.run.estimates.feasible import check_feasible

    if arguments.devices < 1:
        raise DarkMatterError(f"--devices is {arguments.devices}: give a whole number, 1 or above.")
    for name in ("device_memory", "tflops"):
        value = getattr(arguments, name)
        if value is not None and not 0 < value < 1e9:
            raise DarkMatterError(f"--{name.replace('_', '-')} is {value:g}: give a number above 0.")
    study = resolve_study(arguments.study)
    check_feasible(study)
    machine = Machine(arguments.device, arguments.devices, arguments.device_memory, arguments.tflops)
    estimate = estimate_study(study, machine=machine)
    if arguments.json:
        say(json.dumps(estimate.to_dict(), indent=1))
        return 0
    rows = describe(estimate)
    width = max(len(label) for label, _ in rows)
    say(study.title)
    for label, value in rows:
        say(f"  {label:<{width}}  {value}")
    say("Assumed")
    for sentence in estimate.assumptions:
        say(f"  - {sentence}")
    return 0
