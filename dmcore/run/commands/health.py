"""`health`: how the worker, the queue, the device and the disk are, for a monitor."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dmcore.run.commands.shared import say


def register(commands: Any) -> None:
    """Add the command."""
    health = commands.add_parser(
        "health", help="say how worker, queue, device and disk are; status 1 if one of them fails, for monitors"
    )
    health.add_argument("--json", action="store_true", help="print JSON: every fact, times as ages too")
    health.set_defaults(run=_health)


def _health(arguments: argparse.Namespace) -> int:
    from dmcore.run.host.checks import FAIL, lines_of
    from dmcore.run.host.health import look
    from dmcore.run.logs import one_line

    found = look()
    if arguments.json:
        say(json.dumps(found.to_dict(), indent=1))
    else:
        for line in lines_of(found.checks()):
            say(one_line(line))
    return 1 if found.state == FAIL else 0
