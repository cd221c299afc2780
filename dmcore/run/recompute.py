"""Compute a study anew in a folder of its own, and compare the numbers with those in the cache."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dmcore.errors import StoreError
from dmcore.progress import Reporter
from dmcore.results import METRICS
from dmcore.run.pipeline import Pipeline, finished_records
from dmcore.run.plan import make_plan
from dmcore.specs import Study
from dmcore.store.store import Store

TOLERANCE = 1e-5
"""Largest difference, in any of the metrics, at which two runs count as the same: other processors round differently."""


def recompute(study: Study, device: torch.device, reporter: Reporter, say: Callable[[str], None]) -> int:
    """Compute from the model and the SAEs, compare, and say the largest difference of each metric; 0 if all agree."""
    store = Store()
    published = {record["sae"]: record for record in finished_records(make_plan(study, store), store)}
    if not published:
        raise StoreError("There is nothing in the cache to compare with: sweep the study without --recompute first.")
    with tempfile.TemporaryDirectory(prefix="dmcore-recompute-") as folder:
        outcome = Pipeline(Store(Path(folder)), device, reporter).sweep(study, scale=False)
    pairs = [(published[r["sae"]], r) for r in outcome.records if r["sae"] in published]
    worst = 0.0
    for metric in METRICS:
        difference = max((_difference(old[metric], new[metric]) for old, new in pairs), default=0.0)
        worst = max(worst, difference)
        say(f"{metric}: largest difference {difference:.2e} over {len(pairs)} SAEs")
    complete = len(pairs) == len(study.saes) and not outcome.failures
    agree = worst <= TOLERANCE and complete
    say("The cache agrees." if agree else f"The cache does NOT agree (more than {TOLERANCE:g}, or SAEs are missing).")
    return 0 if agree else 1


def _difference(old: Any, new: Any) -> float:
    if old is None or new is None:
        return 0.0 if old == new else float("inf")
    return abs(old - new)
