"""Every figure of docs/benchmarks.md, on one device, as JSON: speed and memory, each beside a plain version in the same run.

    python benchmarks/all.py --device cuda --out docs/benchmarks/h200.json      # about 5 minutes; --full: more tokens
    python benchmarks/all.py --device cpu --out docs/benchmarks/cpu.json        # scaled down
    python benchmarks/page.py                                                   # writes docs/benchmarks.md from what is there

1. *Pass*: codes and moments of one SAE with random weights, from activations on disk to files on disk, over its floor: the bare
   product of activations and encoder in the same precision, nothing kept. Beside it, the plain version: dense codes, dense
   decode, products in float64.
2. *Growth*: the same pass at several numbers of tokens; a sweep at several numbers of SAEs and, on a CPU, of processes.
3. *Sweep*: the passes and splits of 60 SAEs of one site.
4. *Pursuit*: gradient pursuit beside a plain version of it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks import sizes as chosen
from benchmarks.one_sae_pass import anonymous_memory
from benchmarks.plain_pass import bare_product, floor_weights, plain_pass
from benchmarks.random_sae import RandomSae, random_rows, write_activations
from benchmarks.sizes import Sizes
from dmcore.analysis.activations import Activations
from dmcore.analysis.encode import decoded, encoded, error_moments, site_moments
from dmcore.analysis.partition import Partition
from dmcore.analysis.split_pass import SplitInputs, split_pass
from dmcore.math.device_memory import sae_memory
from dmcore.math.moments import InputMoments, product_dtype
from dmcore.progress import Reporter
from dmcore.specs import Settings

SETTINGS = Settings(skip_positions=0, compare_skips=())
QUIET = Reporter()


class Clock:
    """Times work on a device, and the memory that it takes at most."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def seconds(self, work: Callable[[], object]) -> float:
        """How long it takes until the device has done it; on a CPU processor time, which others' work does not change."""
        started = self.now()
        work()
        return self.now() - started

    def now(self) -> float:
        """The time, once the device has done what it was given."""
        self._wait()
        return time.perf_counter() if self.device.type == "cuda" else time.process_time()

    def median(self, works: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
        """Seconds of each repeat of each work, interleaved; one run before is not counted."""
        for work in works.values():
            work()
        found: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(repeats):
            for name, work in works.items():
                found[name].append(self.seconds(work))
        return found

    def peak(self, work: Callable[[], object]) -> int:
        """Most bytes that were taken on the device while it ran (on a CPU: of this process, pages of files aside)."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            work()
            self._wait()
            return torch.cuda.max_memory_allocated(self.device)
        give_back()
        most, stop = [anonymous_memory()], threading.Event()

        def watch() -> None:
            while not stop.wait(0.002):
                most[0] = max(most[0], anonymous_memory())

        watcher = threading.Thread(target=watch)
        watcher.start()
        work()
        stop.set()
        watcher.join()
        return most[0]

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def give_back() -> None:
    """Return the memory of what is gone to the system, which else counts as this process's for as long as it likes."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


class Bench:
    """The measurements on one device; rows go to `rows` as they are made."""

    def __init__(self, device: torch.device, sizes: Sizes, length: int, folder: Path, out: Path | None = None) -> None:
        self.device, self.sizes, self.length, self.folder, self.out = device, sizes, length, folder, out
        self.about = about(device, sizes)
        self.clock, self.rows = Clock(device), list[dict[str, Any]]()

    def say(self, section: str, **row: Any) -> None:
        """Keep a row, write what there is, and show it."""
        self.rows.append({"section": section, **row})
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.out.write_text(json.dumps({"about": self.about, "rows": self.rows}, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(self.rows[-1]), flush=True)

    def acts(self, n_tokens: int) -> tuple[Activations, Partition, InputMoments]:
        """Random activations on disk, with the moments of the site."""
        place = self.folder / f"acts_{n_tokens}"
        if not place.exists():
            place.mkdir()
            write_activations(place, n_tokens, self.sizes.d_model, self.length)
        acts = Activations(place)
        partition = Partition.of(SETTINGS, acts.n_contexts, acts.length, 0)
        return acts, partition, site_moments(acts, partition, self.device, QUIET, "site")

    def encode(self, given: tuple[Activations, Partition, InputMoments], sae: RandomSae) -> object:
        """Codes and moments: the pass."""
        acts, partition, inputs = given
        errors = encoded(acts, sae, self.folder, self.device)
        return error_moments(errors, inputs, partition, QUIET, "sae", acts.n_tokens)

    def passes(self) -> None:
        """Every width in every precision."""
        for d_sae, n_tokens in self.sizes.passes:
            given, rows = self.acts(n_tokens), random_rows(d_sae, self.sizes.d_model, self.device)
            for precision in self.sizes.precisions:
                self._pass(given, rows, precision)
            del rows

    def _pass(self, given: tuple[Activations, Partition, InputMoments], rows: torch.Tensor, precision: str) -> None:
        sae, acts = RandomSae(rows, self.sizes.l0, precision), given[0]
        weights = [floor_weights(rows, precision)]
        works: dict[str, Callable[[], object]] = {
            "floor": lambda: bare_product(acts, weights[0], self.device, precision),
            "pass": lambda: self.encode(given, sae),
        }
        seconds = self.clock.median(works, self.sizes.repeats)
        plain = self.clock.seconds(lambda: plain_pass(acts, sae, self.folder, self.device))
        weights.clear()
        before = torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0
        peak = self.clock.peak(works["pass"])
        estimate = sae_memory(
            self.sizes.d_model, len(rows), self.device, precision=precision, n_cells=5, n_maps=0, length=self.length
        )
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        self.say(
            "pass", d_model=self.sizes.d_model, d_sae=len(rows), tokens=acts.n_tokens, l0=sae.measured_l0(acts, self.device),
            precision=precision, encoder=type(sae.encoder).__name__, seconds=seconds, floor_s=medians["floor"],
            pass_s=medians["pass"], plain_s=plain, over_floor=medians["pass"] / medians["floor"],
            plain_over_pass=plain / medians["pass"], peak_bytes=peak, before_bytes=before, estimate_bytes=estimate.total,
        )  # fmt: skip

    def growth(self) -> None:
        """More tokens: time and memory of the pass at the first width."""
        rows = random_rows(self.sizes.passes[0][0], self.sizes.d_model, self.device)
        sae = RandomSae(rows, self.sizes.l0, "float32")
        for n_tokens in self.sizes.growth:
            given = self.acts(n_tokens)
            self.encode(given, sae)
            seconds = self.clock.seconds(lambda given=given: self.encode(given, sae))
            peak = self.clock.peak(lambda given=given: self.encode(given, sae))
            self.say("growth, tokens", d_sae=len(rows), tokens=given[0].n_tokens, seconds=seconds, peak_bytes=peak)

    def sweep(self) -> None:
        """The SAEs of one site, one after the other: loading left out, split included; at a quarter, half, and all of them."""
        widths, n_each, n_tokens = self.sizes.sweep
        given, started, done = self.acts(n_tokens), self.clock.now(), 0
        total = len(widths) * n_each
        for _ in range(n_each):
            for width in widths:
                sae = RandomSae(random_rows(width, self.sizes.d_model, self.device), self.sizes.l0, "float32")
                self._whole(given, sae)
                done += 1
                if done in {max(1, total // 4), total // 2, total}:
                    spent = self.clock.now() - started
                    self.say("sweep", saes=done, tokens=given[0].n_tokens, d_model=self.sizes.d_model, widths=widths,
                             seconds=spent)  # fmt: skip

    def _whole(self, given: tuple[Activations, Partition, InputMoments], sae: RandomSae) -> None:
        acts, partition, inputs = given
        targets = self.encode(given, sae)
        work = SplitInputs(inputs, targets, partition, SETTINGS, 0, sae.d_sae, acts.n_tokens)
        split_pass(decoded(acts, sae, self.folder, self.device), work, self.folder, QUIET, "sae")

    def workers(self) -> None:
        """The same number of SAEs by one process and by two, each with a core: a CPU only."""
        widths, _, n_tokens = self.sizes.sweep
        seconds = {}
        for n_workers in (1, 2):
            command = [sys.executable, __file__, "--worker", f"{len(widths) // n_workers}"]
            command += ["--tokens", str(n_tokens), "--d-model", str(self.sizes.d_model), "--width", str(widths[-1])]
            command += ["--length", str(self.length)]
            with ThreadPoolExecutor(n_workers) as pool:
                runs = [pool.submit(subprocess.run, command, capture_output=True, text=True, check=True,
                                    env={**os.environ, "OMP_NUM_THREADS": "1"}) for _ in range(n_workers)]  # fmt: skip
                seconds[n_workers] = max(float(run.result().stdout.split()[-1]) for run in runs)
            self.say("growth, workers", workers=n_workers, saes=len(widths) // n_workers * n_workers,
                     seconds=seconds[n_workers], efficiency=seconds[1] / seconds[n_workers] / n_workers)  # fmt: skip

    def pursuit(self) -> None:
        """Gradient pursuit."""
        from benchmarks.pursuit import plain, problem
        from dmcore.math.pursuit import gradient_pursuit

        d_model, latents, l0, tokens = self.sizes.pursuit
        asked = argparse.Namespace(d_model=d_model, latents=latents, l0=l0, tokens=tokens, device=str(self.device))
        x, rows = problem(asked)
        seconds = self.clock.median(
            {"this": lambda: gradient_pursuit(x, rows, l0), "plain": lambda: plain(x, rows, l0)}, self.sizes.repeats
        )
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        self.say("pursuit", d_model=d_model, d_sae=latents, l0=l0, tokens=tokens, seconds=seconds, pass_s=medians["this"],
                 plain_s=medians["plain"], plain_over_pass=medians["plain"] / medians["this"])  # fmt: skip


def about(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """What was measured on, with what, when."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False,
                            cwd=Path(__file__).parents[1]).stdout.strip()  # fmt: skip
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else processor(),
        "kind": device.type,
        "memory_bytes": torch.cuda.get_device_properties(device).total_memory if on_gpu else None,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "moments": str(product_dtype(device)).removeprefix("torch."),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda},
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "commit": commit or "unknown",
        "sizes": vars(sizes),
    }


def processor() -> str:
    """What the CPU calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def worker(arguments: argparse.Namespace) -> None:
    """Some passes in this process; prints the seconds of all but the first."""
    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as name:
        sizes = Sizes(arguments.d_model, 8, (), (), (), ((), 0, 0), (0, 0, 0, 0), 1)
        bench = Bench(device, sizes, arguments.length, Path(name))
        given, sae = bench.acts(arguments.tokens), RandomSae(random_rows(arguments.width, arguments.d_model, device), 8)
        bench._whole(given, sae)
        started = time.perf_counter()
        for _ in range(arguments.worker):
            bench._whole(given, sae)
        print(time.perf_counter() - started)


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("results.json"))
    parser.add_argument("--full", action="store_true", help="on a GPU: all precisions, and all tokens in the sweep")
    parser.add_argument("--trial", action="store_true", help="sizes of no meaning: whether the benchmark works")
    sections = ("passes", "growth", "sweep", "workers", "pursuit")
    parser.add_argument("--only", nargs="+", choices=sections, default=sections)
    for name in ("worker", "tokens", "d-model", "width", "length"):
        parser.add_argument(f"--{name}", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments)
        return
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    sizes = (
        chosen.TRIAL
        if arguments.trial
        else (chosen.GPU_FULL if arguments.full else chosen.GPU)
        if on_gpu
        else chosen.CPU
    )
    with tempfile.TemporaryDirectory() as folder:
        length = chosen.LENGTH if arguments.trial or not on_gpu else 1024
        bench = Bench(device, sizes, length, Path(folder), arguments.out)
        for section in arguments.only:
            if not (section == "workers" and on_gpu):
                getattr(bench, section)()


if __name__ == "__main__":
    main()
