"""A sweep on two local Ray nodes beside the local engine's, and the lost-node test many times.

    python benchmarks/ray_nodes.py                  # time of both, after start-up, on a cut of the demo's sweep
    python benchmarks/ray_nodes.py --saes 42        # on all of it
    python benchmarks/ray_nodes.py --lost 20        # a node is killed in the middle, 20 times; numbers must be equal

Both have the same processors: the local engine works in two processes of one thread each (`sweep --workers 2`), Ray on two
nodes of one processor each. Start-up (the cluster, and each process's import of the libraries) is not counted on either side:
each is run on one SAE of every site first, into another cache. Needs `pip install -r requirements-ray.txt`.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import os
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))


from dmcore.places import DEMO
from dmcore.progress import Progress, Reporter
from dmcore.results import METRICS
from dmcore.run.cluster.engine import RayPipeline
from dmcore.run.cluster.shards import Cut
from dmcore.run.pipeline import Outcome, Pipeline
from dmcore.specs import Study, load_study
from dmcore.store.store import Store
from tests.run.ray_cluster import two_nodes

TOLERANCE = 1e-9


def demo(n_saes: int) -> Study:
    """The demo with some of its SAEs, of as many sites as possible; without the SAEs on the parts."""
    study = load_study(DEMO)
    by_site = [[sae for sae in study.saes if sae.hook == hook] for hook in study.hooks]
    dealt = [group[i] for i in range(max(map(len, by_site))) for group in by_site if i < len(group)]
    chosen = set(map(id, dealt[:n_saes]))
    return replace(study, saes=tuple(sae for sae in study.saes if id(sae) in chosen), parts=None)


def _share(root: str, n_saes: int, part: int) -> None:
    Pipeline(Store(Path(root))).sweep(demo(n_saes), only=lambda index: index % 2 == part)


def _workers(pool: concurrent.futures.Executor, root: Path, n_saes: int) -> Outcome:
    """`sweep --workers 2`, with processes that have imported everything already."""
    list(pool.map(_share, [str(root)] * 2, [n_saes] * 2, [0, 1]))
    return Pipeline(Store(root)).sweep(demo(n_saes))


def worst(found: Outcome, wanted: Outcome) -> float:
    """The largest relative difference of any number of any record."""
    assert not found.failures, found.failures
    assert not found.unscaled, found.unscaled
    assert [r["sae"] for r in found.records] == [r["sae"] for r in wanted.records]
    pairs = [
        (mine[f"{metric}{end}"], other[f"{metric}{end}"])
        for mine, other in zip(found.records, wanted.records, strict=True)
        for metric in METRICS
        for end in ("", "_low", "_high")
    ]
    return max(abs(a - b) / max(abs(b), 1e-12) for a, b in pairs if a is not None and b is not None)


def overhead(n_saes: int, repeats: int) -> None:
    """Print the time of both engines, taken in turn."""
    times: dict[str, list[float]] = {"local": [], "ray": []}
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        two_nodes() as nodes,
        concurrent.futures.ProcessPoolExecutor(2, mp_context=spawn) as pool,
    ):
        root = Path(folder)
        warm = len(demo(10**6).hooks)
        _workers(pool, root / "warm-local", warm)
        RayPipeline(Store(root / "warm-ray"), nodes.address).sweep(demo(warm))
        for i in range(repeats):
            began = time.perf_counter()
            local = _workers(pool, root / f"local-{i}", n_saes)
            times["local"].append(time.perf_counter() - began)
            began = time.perf_counter()
            ours = RayPipeline(Store(root / f"ray-{i}"), nodes.address).sweep(demo(n_saes))
            times["ray"].append(time.perf_counter() - began)
            print(
                f"{n_saes} SAEs: local, 2 processes {times['local'][-1]:.1f} s; Ray, 2 nodes {times['ray'][-1]:.1f} s; "
                f"overhead {times['ray'][-1] / times['local'][-1] - 1:+.1%}; "
                f"largest relative difference {worst(ours, local):.1e}",
                flush=True,
            )
    best = min(times["ray"]) / min(times["local"]) - 1
    print(
        f"the best of {repeats} each: overhead {best:+.1%}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    )


def lost(times: int, n_saes: int) -> int:
    """Kill a node at a random moment, many times; the number of times that went wrong."""
    bad = 0
    moments = random.Random(0)
    cut = Cut(least_tokens=2**13, contexts_per_run=16)
    with tempfile.TemporaryDirectory() as folder, two_nodes() as nodes:
        wanted = Pipeline(Store(Path(folder) / "local")).sweep(demo(n_saes))
        for i in range(times):
            share, shown = moments.random(), [""]
            stages = ("run the model", "encode and split") if i % 2 else ("encode and split",)
            chosen = moments.choice(stages)

            def sink(p: Progress, chosen: str = chosen, share: float = share, shown: list[str] = shown) -> None:
                if p.stage.startswith(chosen) and p.total and p.done >= share * p.total and nodes.second is not None:
                    shown[0] = f"{p.stage.partition(' on ')[0]} at {p.done / p.total:.0%}"
                    nodes.lose_second()

            began = time.perf_counter()
            try:
                found = RayPipeline(Store(Path(folder) / f"ray-{i}"), nodes.address, reporter=Reporter(sink), cut=cut)
                difference = worst(found.sweep(demo(n_saes)), wanted)
                fine = difference <= TOLERANCE and nodes.second is None
                said = f"largest relative difference {difference:.1e}"
            except Exception as error:
                fine, said = False, f"{type(error).__name__}: {error}"
            bad += not fine
            took = time.perf_counter() - began
            print(
                f"{i + 1:>2} of {times}: {'passed' if fine else 'FAILED'}, killed in {shown[0]}, {took:.0f} s, {said}",
                flush=True,
            )
            if nodes.second is None:
                nodes.add_second()
    print(f"{times - bad} of {times} passed")
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saes", type=int, default=14, help="SAEs of the demo's 42 (14)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each engine (3)")
    parser.add_argument("--lost", type=int, default=0, help="run the lost-node test so many times instead")
    arguments = parser.parse_args()
    if arguments.lost:
        return 1 if lost(arguments.lost, min(arguments.saes, 4)) else 0
    overhead(arguments.saes, arguments.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
