"""The queue and the worker at the demo's size.

1. 20 sessions in 4 processes ask for 5 studies at once: jobs made, and seconds a session waits for an answer.
2. A sweep of the demo with an empty cache is cancelled in each of its stages: seconds from the request until the job's process
   is gone, with the job cancelled.

Run: `python benchmarks/jobs.py [--cancels 10]`. Ends with status 1 if there are not 5 jobs, or a cancel takes over 2 s.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from dmcore.run.jobs.queue import Queue  # noqa: E402
from dmcore.run.jobs.worker import cancel  # noqa: E402
from tests.run.jobs.test_queue import write_study  # noqa: E402
from tests.run.jobs_seen import children_of, finished, start_worker, wait_for  # noqa: E402

DEMO = ROOT / "dmcore" / "demo" / "artifacts" / "study.toml"
LIMIT = 2.0
SESSIONS = """
import sys, threading, time
from pathlib import Path
from dmcore.run.jobs.queue import Queue  # noqa: E402
start = threading.Barrier(5)
def session():
    start.wait()
    for path in sys.argv[2:]:
        began = time.perf_counter()
        job = Queue(Path(sys.argv[1])).submit("sweep", Path(path), "cpu")
        sys.stdout.write(f"{job.id} {time.perf_counter() - began}\\n")
threads = [threading.Thread(target=session) for _ in range(5)]
[t.start() for t in threads]
[t.join() for t in threads]
"""


def ask_at_once(folder: Path) -> int:
    """Jobs that 20 sessions made of 5 studies."""
    paths = [str(write_study(folder, f"study-{i}")) for i in range(5)]
    command = [sys.executable, "-c", SESSIONS, str(folder / "cache"), *paths]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    waits = sorted(float(line.split()[1]) for p in processes for line in p.communicate()[0].splitlines())
    n_jobs = len(Queue(folder / "cache").jobs())
    print(f"20 sessions, 5 studies: {n_jobs} jobs; an answer took {waits[len(waits) // 2] * 1e3:.0f} ms, at most "
          f"{waits[-1] * 1e3:.0f} ms")  # fmt: skip
    return n_jobs


def time_cancels(root: Path, n: int) -> list[float]:
    """Seconds each of `n` cancels took; each goes on from where the one before it stopped."""
    queue, chance, times = Queue(root), random.Random(0), []
    job = queue.submit("sweep", DEMO, "cpu")
    worker = start_worker(root)
    try:
        for i in range(n):
            wait_for(lambda: queue.job(job.id).state == "running")
            if i:  # the first is cancelled while it loads libraries
                wait_for(lambda: queue.job(job.id).stage not in {"start", "load libraries"})
            time.sleep(chance.uniform(0, 12))
            stage = queue.job(job.id).stage
            child, began = children_of(worker.pid)[0], time.perf_counter()
            cancel(queue, job.id)
            state = wait_for(lambda: (seen := queue.job(job.id)).state != "running" and seen.state)
            said = time.perf_counter() - began
            wait_for(lambda child=child: child not in children_of(worker.pid))
            times.append(time.perf_counter() - began)
            print(f"in {stage!r}: {state} after {said:.2f} s, process gone after {times[-1]:.2f} s, "
                  f"{len(finished(root))} entries kept")  # fmt: skip
            queue.retry(job.id)
        queue.cancel(job.id)
    finally:
        worker.terminate()
        worker.wait()
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cancels", type=int, default=10, help="how often to cancel (10)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dmcore-jobs-") as folder:
        n_jobs = ask_at_once(Path(folder) / "asked")
        times = sorted(time_cancels(Path(folder) / "demo", arguments.cancels))
    print(f"{len(times)} cancels: median {times[len(times) // 2]:.2f} s, at most {times[-1]:.2f} s (limit {LIMIT} s)")
    return int(n_jobs != 5 or times[-1] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
