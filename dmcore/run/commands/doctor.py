"""`doctor`: whether this host is fit, and what to do where it is not."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dmcore.run.commands.shared import resolve_study, say


def register(commands: Any) -> None:
    """Add the command."""
    doctor = commands.add_parser(
        "doctor", help="check this host: packages, driver, memory, disk, hub, worker; says what to do, changes nothing"
    )
    doctor.add_argument("study", nargs="?", help="a study file, or: demo; what it takes is held against the host")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from dmcore.run.host.checks import FAIL, lines_of, worst
    from dmcore.run.host.doctor import examine
    from dmcore.run.logs import one_line

    checks = examine(resolve_study(arguments.study) if arguments.study else None)
    state = worst(checks)
    if arguments.json:
        say(json.dumps({"state": state, "checks": [check.to_dict() for check in checks]}, indent=1))
    else:
        for line in lines_of(checks):
            say(one_line(line))
    return 1 if state == FAIL else 0
