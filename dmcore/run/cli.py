"""`python -m dmcore COMMAND`: compute studies, show their numbers, look after the cache."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dmcore import __version__
from dmcore.errors import Cancelled, DarkMatterError
from dmcore.run import logs
from dmcore.run.commands import (
    cache,
    catalogue,
    claims,
    controls,
    detect,
    doctor,
    downstream,
    features,
    health,
    inspect,
    jobs,
    parts,
    plan,
    precision,
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
from dmcore.store.disk import GONE, is_full
from dmcore.store.disk import disk_words as store_disk_words
from dmcore.store.store import default_root

log = logging.getLogger(__name__)

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
    precision,
    catalogue,
    train_saes,
    cache,
    jobs,
    worker,
    health,
    doctor,
)


MONITORED = ("health", "doctor")
"""Commands that programs call: for these bad usage has the status 2, which no answer has."""


class UsageError(DarkMatterError):
    """A command line that cannot be understood."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as every other failure is said, instead of printing its whole usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what `main` prints."""
        known = self.prog if self.prog != PROGRAM else f"{PROGRAM} COMMAND"
        raise UsageError(f"{message[0].upper()}{message[1:]}: `{known} --help` says what can be given.")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = Parser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--version", action="version", version=f"dmcore {__version__}")
    logs.add_options(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. Every failure that the user can mend is one line on stderr."""
    # Before torch loads: threads that spin while they wait make a sweep twenty times slower on a machine that is busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        settings, words = logs.take_options(Parser(prog=PROGRAM, add_help=False, allow_abbrev=False), words)
        logs.configure("cli", settings, bare=True, root=default_root())
        arguments = build_parser().parse_args(words)
        return arguments.run(arguments)
    except UsageError as error:
        _complain(f"error: {error}")
        return 2 if set(MONITORED) & set(words[:1]) else 1
    except DarkMatterError as error:
        _complain(f"error: {error}")
    except Cancelled as request:
        _complain(f"{request} Finished work is kept; run the same command to go on.")
    except KeyboardInterrupt:
        _complain("\nStopped. Finished work is kept; run the same command to go on.")
        return 130
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as error:
        _complain(f"error: {disk_words(error)}")
    return 1


def _complain(sentence: str) -> None:
    """Why a command ends, on stderr: as a log line where those are for programs."""
    if logs.is_json():
        log.error("%s", sentence.strip().removeprefix("error: "))
        return
    lead = "\n" if sentence.startswith("\n") else ""
    sys.stderr.write(f"{lead}{logs.one_line(sentence.strip())}\n")


def disk_words(error: OSError) -> str:
    """A failure of a disk that nothing below has put into words, as one sentence with its remedy."""
    folder = Path(error.filename).parent if isinstance(error.filename, str) else default_root()
    if isinstance(error.filename, str | type(None)) and (is_full(error) or error.errno in GONE):
        return str(store_disk_words(error, folder))
    reason = error.strerror or str(error)
    where = f"{error.filename}: {reason}" if error.filename else reason
    return f"{where}. Check that path; if it is in the cache, set DMCORE_CACHE to a folder that can be written."
