"""Thousands of inputs that nobody meant, for all that takes input; each must give a result or one of our sentences.

Study files (values, text), links (the functions that read them, and the pages themselves), names of entries and jobs, files
of the cache, arrays for the public functions, folders of tokens and of SAEs, command lines: `tests/fuzz` says how they are
made and what they are held to. A file that comes, goes or changes outside the cache folder is a failure, and so is no answer
in 30 s of work.

Run: `python benchmarks/fuzz.py [--cases 10000] [--seed 0] [--only links]`. Ends with status 1 if a case failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import hypothesis  # noqa: E402

from tests.fuzz.oracle import Sandbox, Verdict, judged  # noqa: E402
from tests.fuzz.targets import Target, all_targets, place  # noqa: E402
from tests.pages.fake_results import write_fake_study  # noqa: E402


def fuzz(target: Target, n_cases: int, seed: int, sandbox: Sandbox) -> tuple[Counter[str], dict[str, list[Any]]]:
    """What came of so many cases, and the cases that failed, by where they did; the first is the smallest."""
    outcomes: Counter[str] = Counter()
    failed: dict[str, list[Any]] = defaultdict(list)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=n_cases,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(target.cases)
    def one(case: Any) -> None:
        verdict: Verdict = judged(target.take, case)
        outcomes[verdict.outcome] += 1
        if verdict.failure is not None:
            failed[f"{verdict.place}: {str(verdict.failure)[:160]!r}"].append(case)

    with sandbox.watched():
        one()
    for cases in failed.values():
        cases.sort(key=lambda case: len(repr(case)))
    return outcomes, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="in all (default 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one kind alone, with all of the cases")
    options = parser.parse_args()
    bad, n = 0, Counter()
    with tempfile.TemporaryDirectory() as scratch, place(Path(scratch)) as sandbox:
        sound = Path(scratch) / "sound"
        write_fake_study(sound)
        targets = all_targets(sandbox, sound)
        if options.only:
            targets = {options.only: targets[options.only]}
        for name, target in targets.items():
            share = options.cases if options.only else round(options.cases * target.share)
            started = time.monotonic()
            outcomes, failed = fuzz(target, share, options.seed, sandbox)
            n.update(outcomes)
            bad += sum(map(len, failed.values()))
            counts = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
            print(
                f"{name:14} {sum(outcomes.values()):6,} cases in {time.monotonic() - started:5.0f} s: {counts}",
                flush=True,
            )
            for where, cases in failed.items():
                print(f"    {len(cases)} x {where}\n        {str(cases[0])[:600]!r}", flush=True)
    print(f"{sum(n.values()):,} cases, seed {options.seed}: {bad} failed; no file outside the cache folder changed.")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
