"""`python -m dmcore COMMAND`: compute studies, show their numbers, look after the cache."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from dmcore import __version__
from dmcore.errors import Cancelled, DarkMatterError
from dmcore.run.commands import (
    cache,
    catalogue,
    claims,
    controls,
    detect,
    downstream,
    features,
    inspect,
    jobs,
    parts,
    plan,
    pursuit,
    reduce,
    report,
    scaling,
    show,
    shrinkage,
    structure,
    sweep,
    synthetic,
    train_saes,
    transfer,
    worker,
)

PROGRAM = "python -m dmcore"
COMMANDS = (
    sweep,
    show,
    scaling,
    parts,
    features,
    structure,
    downstream,
    controls,
    detect,
    reduce,
    pursuit,
    report,
    shrinkage,
    transfer,
    synthetic,
    claims,
    inspect,
    plan,
    catalogue,
    train_saes,
    cache,
    jobs,
    worker,
)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as every other failure is said, instead of printing its whole usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what `main` prints."""
        known = self.prog if self.prog != PROGRAM else f"{PROGRAM} COMMAND"
        raise DarkMatterError(f"{message[0].upper()}{message[1:]}: `{known} --help` says what can be given.")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = Parser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--version", action="version", version=f"dmcore {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. Every failure that the user can mend is one line on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Before torch loads: threads that spin while they wait make a sweep twenty times slower on a machine that is busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        arguments = build_parser().parse_args(argv)
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
    except OSError as error:
        sys.stderr.write(f"error: {disk_words(error)}\n")
    return 1


def disk_words(error: OSError) -> str:
    """A failure of a disk that nothing below has put into words, as one sentence with its remedy."""
    reason = error.strerror or str(error)
    if error.errno == errno.ENOSPC:
        return f"{reason}: free space and run the same command to go on; finished work is kept."
    where = f"{error.filename}: {reason}" if error.filename else reason
    return f"{where}. Check that path; if it is in the cache, set DMCORE_CACHE to a folder that can be written."
