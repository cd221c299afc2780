"""`show`: the numbers of a study."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from dmcore.errors import StoreError
from dmcore.run.commands.shared import add_precision, records_table, resolve_study, say
from dmcore.store.store import Store


def register(commands: Any) -> None:
    """Add the command."""
    show = commands.add_parser("show", help="print the numbers of a study, one record per SAE")
    show.add_argument("study", help="a study file, or: demo")
    add_precision(show)
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(run=_show)


def _show(arguments: argparse.Namespace) -> int:
    from dmcore.run.pipeline import finished_records
    from dmcore.run.plan import make_plan

    study, store = resolve_study(arguments.study).with_precision(arguments.precision), Store()
    # By the keys of the files as they are now: results of an SAE that has been replaced since are not shown.
    records = finished_records(make_plan(study, store), store)
    if not records:
        raise StoreError(
            f"Nothing has been computed for {arguments.study}: run `python -m dmcore sweep {arguments.study}`."
        )
    say(json.dumps(records, indent=1) if arguments.json else records_table(records))
    if len(records) < len(study.saes):
        missing = len(study.saes) - len(records)
        sys.stderr.write(f"{missing} of {len(study.saes)} SAEs have no result yet: sweep the study to compute them.\n")
    return 0
