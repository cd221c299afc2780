"""`jobs`: ask for studies to be computed by the worker, watch them, stop them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from dmcore.places import DEMO
from dmcore.progress import Progress, terminal_sink
from dmcore.run.commands.shared import resolve_study, say
from dmcore.run.jobs.files import tail
from dmcore.run.jobs.job import DONE, OF_ONE_SAE, RUNNING, Job
from dmcore.run.jobs.queue import Queue

WATCH_SECONDS = 0.5


def register(commands: Any) -> None:
    """Add the command."""
    jobs = commands.add_parser("jobs", help="ask for studies to be computed by the worker, watch and stop them")
    actions = jobs.add_subparsers(dest="action", required=True, metavar="ACTION")
    submit = actions.add_parser("submit", help="ask for a study to be swept; starts a worker if there is none")
    submit.add_argument("study", help="a study file, or: demo")
    submit.add_argument("--train", action="store_true", help="train the study's SAEs instead")
    one = submit.add_mutually_exclusive_group()
    for kind in OF_ONE_SAE:
        one.add_argument(f"--{kind}", default="", metavar="SAE", help=f"do what `{kind}` does for one SAE instead")
    submit.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    submit.add_argument("--no-worker", action="store_true", help="leave it to a worker that you start yourself")
    submit.set_defaults(run=_submit)
    ls = actions.add_parser("ls", help="list the jobs, the newest first")
    ls.set_defaults(run=_ls)
    for name, run, text in (
        ("show", _show, "print one job, with the last lines of its log"),
        ("cancel", _cancel, "stop a job; what it has finished is kept"),
        ("retry", _retry, "go on with a job that was cancelled or has failed"),
        ("watch", _watch, "follow a job until it has ended; status 0 if it is done"),
        ("rm", _rm, "forget a job that has ended; what it computed is kept"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("job", help="the job's id")
        action.set_defaults(run=run)
    for action in (submit, ls, actions.choices["show"], actions.choices["cancel"], actions.choices["retry"]):
        action.add_argument("--json", action="store_true", help="print JSON")


def _submit(arguments: argparse.Namespace) -> int:
    queue = Queue()
    resolve_study(arguments.study)  # says which file was meant where there is none
    path = DEMO if arguments.study == "demo" else Path(arguments.study)
    kind, target = "train-saes" if arguments.train else "sweep", ""
    for one in OF_ONE_SAE:
        if sae := getattr(arguments, one):
            kind, target = one, sae
    job = queue.submit(kind, path, arguments.device, target)
    if not arguments.no_worker:
        _attend(queue)
    return _say_job(job, arguments.json)


def _ls(arguments: argparse.Namespace) -> int:
    from dmcore.run.jobs.worker import release_orphans

    queue = Queue()
    for lane in {job.lane for job in queue.jobs() if job.state == RUNNING}:
        release_orphans(queue, lane)
    jobs = queue.jobs()
    if arguments.json:
        say(json.dumps([job.to_dict() for job in jobs], indent=1))
        return 0
    for job in jobs:
        say(line_of(job))
    if not jobs:
        say("No jobs: `python -m dmcore jobs submit STUDY` asks for one.")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    queue = Queue()
    job = queue.job(arguments.job)
    lines = tail(queue.log_path(job.id))
    if arguments.json:
        say(json.dumps({**job.to_dict(), "log": lines}, indent=1))
        return 0
    say(line_of(job))
    say("\n".join(lines) if lines else "(no log yet)")
    return 0


def _cancel(arguments: argparse.Namespace) -> int:
    from dmcore.run.jobs.worker import cancel

    return _say_job(cancel(Queue(), arguments.job), arguments.json)


def _retry(arguments: argparse.Namespace) -> int:
    queue = Queue()
    job = queue.retry(arguments.job)
    _attend(queue)
    return _say_job(job, arguments.json)


def _rm(arguments: argparse.Namespace) -> int:
    Queue().remove(arguments.job)
    say(f"{arguments.job} removed; what it computed is kept.")
    return 0


def _watch(arguments: argparse.Namespace) -> int:
    queue, sink, shown = Queue(), terminal_sink(), None
    while (job := queue.job(arguments.job)).active:
        if job.stage and job.updated != shown:
            shown = job.updated
            sink(Progress(job.stage, job.done, job.total, job.unit or "steps", job.rate, job.seconds_left))
        _attend(queue)
        time.sleep(WATCH_SECONDS)
    sys.stderr.write("\n")
    say(line_of(job))
    return 0 if job.state == DONE else 1


def _attend(queue: Queue) -> None:
    from dmcore.run.jobs.worker import attend

    attend(queue)


def _say_job(job: Job, as_json: bool) -> int:
    say(json.dumps(job.to_dict(), indent=1) if as_json else line_of(job))
    return 0


def line_of(job: Job) -> str:
    """A job on one line: `0123456789ab  running      sweep       demo  encode topk_1024_16 12 %`."""
    share = f" {job.done / job.total:.0%}" if job.total and job.state == RUNNING else ""
    saes = f" ({job.saes_done} of {job.saes_total} SAEs)" if job.saes_total else ""
    where = f"{job.stage}{share}" if job.state == RUNNING else job.error or job.note
    target = f" {job.target}" if job.target else ""
    return f"{job.id}  {job.state:<11}  {job.kind:<10}  {job.study}{target}{saes}  {where}".rstrip()
