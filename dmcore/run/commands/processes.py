"""Shares of a command's work in processes of their own; what two of them need is made once, by the locks of the store."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

from dmcore.errors import DarkMatterError


def add_workers(parser: argparse.ArgumentParser) -> None:
    """The option `--workers`."""
    parser.add_argument("--workers", type=int, default=1, help="processes that share the SAEs (1)")


def checked_workers(n_workers: int) -> int:
    """The number of processes that was asked for.

    Raises:
        DarkMatterError: it is below 1.
    """
    if n_workers < 1:
        raise DarkMatterError(f"--workers is {n_workers}: give a whole number, 1 or above.")
    return n_workers


def run_shares(shares: Sequence[Sequence[str]], *, quiet: bool = False) -> None:
    """Run `python -m dmcore` with each share's arguments, all at once; the cores are divided among them.

    Args:
        shares: command and arguments.
        quiet: drop what they print, but not their progress and errors: for results that are read from the cache afterwards.
    """
    # Threads that outnumber the cores wait for each other most of the time.
    threads = str(max(1, (os.cpu_count() or 1) // max(1, len(shares))))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "dmcore", *share], env=environment, stdout=subprocess.DEVNULL if quiet else None
        )
        for share in shares
    ]
    try:
        for worker in workers:
            worker.wait()
    finally:
        for worker in workers:
            worker.terminate()


def share_saes(command: Sequence[str], names: Sequence[str], n_workers: int) -> None:
    """Run a command on SAEs whose names are given, some in each process; nothing where one process is to do it all.

    Args:
        command: with its options and the study; the names are put after it.
        names: of the SAEs, dealt out in turn.
        n_workers: processes at once.
    """
    n_workers = min(checked_workers(n_workers), len(names))
    if n_workers > 1:
        run_shares([[*command, *names[part::n_workers]] for part in range(n_workers)], quiet=True)
