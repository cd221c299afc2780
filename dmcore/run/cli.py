"""`python -m dmcore COMMAND`: compute studies, show their numbers, look after the cache."""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmcore.errors import Cancelled, DarkMatterError, StoreError
from dmcore.progress import Reporter, terminal_sink
from dmcore.specs import Study, load_study
from dmcore.store.manifest import damage
from dmcore.store.store import Entry, Store

DEMO = Path(__file__).parents[1] / "demo" / "artifacts" / "study.toml"


def say(text: str) -> None:
    """Write a line of the command's own output."""
    sys.stdout.write(text + "\n")


def resolve_study(name: str) -> Study:
    """A study by the path of its file; `demo` is the embedded one."""
    return load_study(DEMO if name == "demo" else Path(name))


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(prog="python -m dmcore", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sweep = commands.add_parser("sweep", help="compute everything that a study asks for")
    sweep.add_argument("study", help="a study file, or: demo")
    sweep.add_argument("--workers", type=int, default=1, help="processes that share the SAEs (1)")
    sweep.add_argument("--engine", choices=["local"], default="local", help="where the work runs (local)")
    sweep.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    sweep.add_argument("--recompute", action="store_true", help="compute anew beside the cache, and compare with it")
    sweep.add_argument("--json", action="store_true", help="print the records as JSON")
    sweep.add_argument("--part", default="", help=argparse.SUPPRESS)
    sweep.set_defaults(run=_sweep)

    show = commands.add_parser("show", help="print the numbers of a study, one record per SAE")
    show.add_argument("study", help="a study file, or: demo")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(run=_show)

    cache = commands.add_parser("cache", help="list, check or delete what has been computed")
    actions = cache.add_subparsers(dest="action", required=True, metavar="ACTION")
    ls = actions.add_parser("ls", help="list the entries with their sizes")
    verify = actions.add_parser("verify", help="compare every file with its checksum; damaged entries are moved aside")
    remove = actions.add_parser("rm", help="delete entries by key, stage, or all that can be made again")
    remove.add_argument("what", nargs="+", help="keys (or their first digits), stages, or: damaged")
    for action, run in ((ls, _cache_ls), (verify, _cache_verify), (remove, _cache_rm)):
        action.add_argument("--json", action="store_true", help="print JSON")
        action.set_defaults(run=run)
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


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DarkMatterError(f"There is no device {name!r} here: use --device cpu, or leave it out.") from error
    return device


def _sweep(arguments: argparse.Namespace) -> int:
    study = resolve_study(arguments.study)
    if arguments.workers < 1:
        raise DarkMatterError(f"--workers is {arguments.workers}: give a whole number, 1 or above.")
    if arguments.recompute:
        from dmcore.run.recompute import recompute

        return recompute(study, _device(arguments.device), Reporter(terminal_sink()), say)
    if arguments.workers > 1:
        _run_workers(arguments)
    from dmcore.run.pipeline import Pipeline

    part, parts = (int(n) for n in arguments.part.split("/")) if arguments.part else (0, 1)
    pipeline = Pipeline(Store(), _device(arguments.device), Reporter(terminal_sink()))
    outcome = pipeline.sweep(study, only=lambda index: index % parts == part)
    if arguments.json:
        say(json.dumps(outcome.records, indent=1))
    elif not arguments.part:
        say(_table(outcome.records))
        cached = len(outcome.records) - outcome.computed
        say(f"{len(outcome.records)} of {len(study.saes)} SAEs: {outcome.computed} computed, {cached} from the cache.")
    for name, reason in outcome.failures.items():
        sys.stderr.write(f"error: {name}: {reason}\n")
    return 1 if outcome.failures else 0


def _run_workers(arguments: argparse.Namespace) -> None:
    """Share the SAEs among processes; what two of them need is made once, by the locks of the store."""
    command = [sys.executable, "-m", "dmcore", "sweep", arguments.study, "--device", arguments.device]
    # Threads that outnumber the cores wait for each other most of the time.
    threads = str(max(1, (os.cpu_count() or 1) // arguments.workers))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    workers = [
        subprocess.Popen([*command, "--part", f"{part}/{arguments.workers}"], env=environment)
        for part in range(arguments.workers)
    ]
    try:
        for worker in workers:
            worker.wait()
    finally:
        for worker in workers:
            worker.terminate()


def _show(arguments: argparse.Namespace) -> int:
    from dmcore.run.pipeline import finished_records
    from dmcore.run.plan import make_plan

    study, store = resolve_study(arguments.study), Store()
    # By the keys of the files as they are now: results of an SAE that has been replaced since are not shown.
    records = finished_records(make_plan(study, store), store)
    if not records:
        raise StoreError(
            f"Nothing has been computed for {arguments.study}: run `python -m dmcore sweep {arguments.study}`."
        )
    say(json.dumps(records, indent=1) if arguments.json else _table(records))
    if len(records) < len(study.saes):
        missing = len(study.saes) - len(records)
        sys.stderr.write(f"{missing} of {len(study.saes)} SAEs have no result yet: sweep the study to compute them.\n")
    return 0


COLUMNS = ("sae", "d_sae", "l0", "label", "fvu", "fvu_nonlinear", "r2_error", "r2_error_mean_dims", "r2_error_norm_sq")


def _table(records: list[dict[str, Any]]) -> str:
    """Records as aligned text."""

    def text(value: Any) -> str:
        return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    rows = [list(COLUMNS), *([text(record[column]) for column in COLUMNS] for record in records)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _cache_ls(arguments: argparse.Namespace) -> int:
    entries = [entry.manifest for entry in Store().entries() if isinstance(entry, Entry)]
    if arguments.json:
        say(
            json.dumps(
                [{"stage": m.stage, "key": m.key, "bytes": m.size, "created": m.created} for m in entries], indent=1
            )
        )
        return 0
    for m in entries:
        say(f"{m.stage:<12} {m.key}  {m.size / 2**20:>10.2f} MiB  {m.created}")
    say(f"{len(entries)} entries, {sum(m.size for m in entries) / 2**20:,.1f} MiB")
    return 0


def _cache_verify(arguments: argparse.Namespace) -> int:
    store = Store()
    sound, damaged = 0, []
    for entry in list(store.entries()):
        folder = entry.path if isinstance(entry, Entry) else entry
        reason = (
            damage(folder, entry.manifest, checksums=True)
            if isinstance(entry, Entry)
            else "the manifest cannot be read"
        )
        if reason is None:
            sound += 1
        else:
            store.find(folder.parent.name, folder.name)  # moves it aside
            damaged.append({"stage": folder.parent.name, "key": folder.name, "reason": reason})
    gone = store.sweep_partial()
    if arguments.json:
        say(json.dumps({"sound": sound, "damaged": damaged, "leftovers_deleted": len(gone)}, indent=1))
    else:
        for one in damaged:
            say(f"damaged: {one['stage']} {one['key']}: {one['reason']} (moved aside; the next sweep makes it again)")
        say(f"{sound} entries are sound, {len(damaged)} damaged, {len(gone)} leftovers of killed processes deleted.")
    return 1 if damaged else 0


def _cache_rm(arguments: argparse.Namespace) -> int:
    import shutil

    store = Store()
    entries = [entry for entry in store.entries() if isinstance(entry, Entry)]
    chosen: dict[Path, Entry] = {}
    for what in arguments.what:
        found = [e for e in entries if e.manifest.stage == what or e.key.startswith(what)]
        if not found and what != "damaged":
            raise StoreError(
                f"No entry has the stage or key {what!r}, so nothing was deleted: `python -m dmcore cache ls` lists them."
            )
        chosen |= {entry.path: entry for entry in found}
    for entry in chosen.values():
        store.remove(entry)
    if "damaged" in arguments.what:
        shutil.rmtree(store.root / "damaged", ignore_errors=True)
    freed = sum(entry.manifest.size for entry in chosen.values())
    if arguments.json:
        say(json.dumps({"removed": len(chosen), "bytes": freed}))
    else:
        say(f"{len(chosen)} entries removed, {freed / 2**20:.1f} MiB freed.")
    return 0
