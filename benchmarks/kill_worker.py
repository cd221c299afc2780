"""Kill the worker with SIGKILL at random points of a sweep, start it again, and compare with a sweep that nobody disturbed.

1. Sweep a small study (15 SAEs of five architectures at three sites) undisturbed, and time it.
2. For each of `--kills` points, in a cache of its own: start the job, kill the worker up to 0.15 s after a random number of the
   entries has been finished (0: while it loads), start a worker again, wait for the end.
3. Compare every table and record bit for bit; look for entries that were finished before the kill and made again, and for
   files that stay behind.

Run: `python benchmarks/kill_worker.py [--kills 20] [--seed 0]`. Ends with status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from dmcore.run.jobs.files import worker_alive
from dmcore.run.jobs.queue import Queue
from tests.builders import build_study
from tests.run.jobs_seen import finished, litter, results, run_worker_once, start_worker, wait_for


def one_kill(root: Path, study: Path, after: int, delay: float, expected: dict[str, object]) -> list[str]:
    """What went wrong with a sweep whose worker was killed `delay` seconds after `after` entries; prints a line about it."""
    queue = Queue(root)
    job = queue.submit("sweep", study, "cpu")
    worker = start_worker(root, "--once")
    wait_for(lambda: queue.job(job.id).state == "running")
    wait_for(lambda: len(finished(root)) >= after)
    time.sleep(delay)
    stage = queue.job(job.id).stage
    worker.kill()
    worker.wait()
    worker.stdout.close()
    made = finished(root)
    wait_for(lambda: not worker_alive(root, "cpu"))
    run_worker_once(root)
    ended, now = queue.job(job.id), finished(root)
    wrong = [] if ended.state == "done" else [f"the job is {ended.state}: {ended.error}"]
    wrong += ["the results differ"] if results(root) != expected else []
    wrong += [f"{name} was made again" for name, mark in made.items() if now.get(name) != mark]
    wrong += [f"{path.relative_to(root)} stays behind" for path in litter(root)]
    print(f"killed in {stage!r}, {len(made)} of {len(now)} entries finished: {wrong or 'identical'}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="points at which to kill (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the points (0)")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="dmcore-kill-") as folder:
        study = build_study(Path(folder) / "study")
        calm = Path(folder) / "calm"
        job = Queue(calm).submit("sweep", study, "cpu")
        run_worker_once(calm)
        ended = Queue(calm).job(job.id)
        took, expected = ended.ended - ended.started, results(calm)
        print(f"undisturbed: {took:.1f} s, {len(finished(calm))} entries, {len(expected)} files compared")
        n = len(finished(calm))
        points = [(chance.randrange(n), chance.uniform(0, 0.15)) for _ in range(arguments.kills)]
        wrong = [one_kill(Path(folder) / f"kill-{i}", study, *point, expected) for i, point in enumerate(points)]
    bad = sum(map(bool, wrong))
    print(f"{len(points)} kills: {len(points) - bad} identical, nothing made again, nothing left; {bad} not.")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
