"""`python -m dmcore.demo`: build the embedded default, or say what of it is there."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from dmcore.demo.build import BuildPlan, build, is_complete, missing
from dmcore.demo.scale import SCALES
from dmcore.errors import Cancelled, DarkMatterError
from dmcore.progress import Reporter, terminal_sink

_ARTIFACTS = Path(__file__).parent / "artifacts"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(asctime)s %(message)s")
    work = options.work or Path("cache") / f"demo-build-{options.scale}"
    plan = BuildPlan(SCALES[options.scale], options.out, work, options.device)
    try:
        if options.command == "status":
            return _status(plan)
        if is_complete(plan):
            sys.stdout.write(f"{plan.out} is complete; nothing to do.\n")
            return 0
        if options.fresh:
            _forget(plan.work)
        build(plan, Reporter(terminal_sink()), options.sae_minutes)
    except (DarkMatterError, Cancelled) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped; the same command goes on from the last checkpoint.\n")
        return 130
    sys.stdout.write(f"{plan.out} is complete.\n")
    return 0


def _status(plan: BuildPlan) -> int:
    """List what is missing; status 0 if nothing is."""
    absent = missing(plan)
    for path in absent:
        sys.stdout.write(f"missing: {path}\n")
    if not absent:
        sys.stdout.write(f"{plan.out} is complete.\n")
    return 1 if absent else 0


def _forget(work: Path) -> None:
    """Delete a work folder that this builder made."""
    import shutil

    if (work / "build.json").exists():
        shutil.rmtree(work)


def _parser() -> argparse.ArgumentParser:
    """The options of both commands."""
    parser = argparse.ArgumentParser(prog="python -m dmcore.demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    building = commands.add_parser("build", help="train model and SAEs; goes on where an earlier run stopped")
    status = commands.add_parser("status", help="say what of the artifacts is missing")
    for command in (building, status):
        command.add_argument("--out", type=Path, default=_ARTIFACTS, help="folder of the artifacts")
        command.add_argument("--scale", choices=sorted(SCALES), default="full", help="size of the build")
        command.add_argument("--work", type=Path, help="folder of unfinished work (cache/demo-build-SCALE)")
        command.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
        command.add_argument("--verbose", action="store_true", help="log losses and FVUs")
    building.add_argument("--fresh", action="store_true", help="forget unfinished work instead of going on with it")
    building.add_argument("--sae-minutes", type=float, help="start the final decay of every SAE within this time")
    status.set_defaults(fresh=False, sae_minutes=None)
    return parser


if __name__ == "__main__":
    sys.exit(main())
