"""`worker`: the process that owns a device and runs the jobs of the queue."""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
from dataclasses import replace
from typing import Any

from dmcore.run import logs
from dmcore.run.commands.shared import say
from dmcore.store.store import default_root

log = logging.getLogger(__name__)


def register(commands: Any) -> None:
    """Add the command."""
    from dmcore.run.jobs.worker import IDLE_SECONDS

    worker = commands.add_parser("worker", help="run the jobs of the queue on one device")
    worker.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    worker.add_argument("--once", action="store_true", help="end when no job is waiting")
    worker.add_argument(
        "--idle-seconds",
        type=_seconds,
        default=IDLE_SECONDS,
        help=f"end after so long without a job ({IDLE_SECONDS:g})",
    )
    worker.add_argument(
        "--hang-seconds",
        type=_seconds,
        default=None,
        help="end a job's process that shows no sign of life for so long; 0 never does (DMCORE_HANG_SECONDS, or 900)",
    )
    worker.add_argument(
        "--hang-retries",
        type=_times,
        default=None,
        help="how often a job is begun again after that (DMCORE_HANG_RETRIES, or 1)",
    )
    worker.add_argument("--run-job", default="", help=argparse.SUPPRESS)
    worker.add_argument("--parent", type=int, default=0, help=argparse.SUPPRESS)
    worker.set_defaults(run=_worker)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:  # also where it is no number
        raise argparse.ArgumentTypeError(f"{text!r} is no time to wait (give seconds, 0 or above)")
    return seconds


def _times(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of times (give 0, 1, 2, ...)")
    return int(text)


def _worker(arguments: argparse.Namespace) -> int:
    if arguments.run_job:
        from dmcore.run.jobs.child import run_job

        status = run_job(arguments.run_job, arguments.parent)
        # All is written: without this, unloading the libraries holds the device for another second.
        logging.shutdown()
        os._exit(status)
    from dmcore.run.jobs.liveness import HangPolicy
    from dmcore.run.jobs.worker import run_worker

    logs.configure("worker", logs.LogSettings.of_environment(), level="info", bare=True, root=default_root())
    said: list[str] = []

    def say_now(line: str) -> None:
        said.append(line)
        if logs.is_json() or logs.LogSettings.of_environment().to_file:
            log.info("%s", line)
        if not logs.is_json():
            say(logs.one_line(line))
            sys.stdout.flush()

    policy = HangPolicy.of_environment()
    given = {"seconds": arguments.hang_seconds, "retries": arguments.hang_retries}
    policy = replace(policy, **{name: value for name, value in given.items() if value is not None})
    status = run_worker(
        arguments.device, idle_seconds=arguments.idle_seconds, once=arguments.once, say=say_now, policy=policy
    )
    if arguments.once and not said:
        say_now("No job is waiting.")
    return status
