"""A program: what a lab does with a study of ids and releases while the hub is up, gated, cut off, silent and gone.

It runs by itself because the hub's libraries read their address when they are imported. Prints one line of JSON a step.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any


def say(step: str, **content: Any) -> None:
    """One line of the report."""
    sys.stdout.write(json.dumps({"step": step, **content}) + "\n")
    sys.stdout.flush()


def hub(state: str) -> None:
    """Change what the hub does, and forget what was known of it."""
    from dmcore.sources import hub as own

    urllib.request.urlopen(f"{os.environ['HF_ENDPOINT']}/_state/{state}").close()
    own._known.clear()


def attempt(step: str, study: str, cache: Path) -> None:
    """A sweep that may fail with a sentence."""
    from dmcore.errors import DarkMatterError
    from dmcore.progress import Reporter
    from dmcore.run.engines import Engine, open_pipeline
    from dmcore.specs import load_study

    began = time.monotonic()
    try:
        outcome = open_pipeline(Engine(), "cpu", Reporter(), root=cache).sweep(load_study(Path(study)))
    except DarkMatterError as error:
        say(step, error=str(error), seconds=time.monotonic() - began)
        return
    say(step, records=outcome.records, failures=outcome.failures, seconds=time.monotonic() - began)


def forget(cache: Path) -> None:
    """Take all results but the contexts out of the cache of results, so that they are made again."""
    from dmcore.store.store import Entry, Store

    store = Store(cache)
    for entry in list(store.entries()):
        if isinstance(entry, Entry) and entry.manifest.stage != "contexts":
            store.remove(entry)


def main(study: str, cache: Path, token: str) -> None:
    """All steps."""
    attempt("gated", study, cache)
    os.environ["HF_TOKEN"] = token
    hub("cut")
    attempt("cut", study, cache)
    hub("up")
    attempt("up", study, cache)
    for state in ("up", "silent", "busy"):
        hub(state)
        forget(cache)
        attempt(f"again {state}", study, cache)
    hub("silent")
    attempt("new silent", study, cache.with_name("new"))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
