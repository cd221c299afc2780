"""`python -m dmcore COMMAND`: compute studies, show their numbers, look after the cache."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from dmcore.errors import Cancelled, DarkMatterError
from dmcore.run.commands import cache, catalogue, jobs, plan, show, sweep, train_saes, worker

COMMANDS = (sweep, show, plan, catalogue, train_saes, cache, jobs, worker)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(prog="python -m dmcore", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. Every failure that the user can mend is one line on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Before torch loads: threads that spin while they wait make a sweep twenty times slower on a machine that is busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = build_parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except DarkMatterError as error:
        sys.stderr.write(f"error: {error}\n")
    except Cancelled as request:
        sys.stderr.write(f"{request} Finished work is kept; run the same command to go on.\n")
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped. Finished work is kept; run the same command to go on.\n")
        return 130
    except BrokenPipeError:
        sys.stderr.close()
    return 1
