"""One SAE pass against a plain version of it, and against the bare product `acts @ W_enc`, in the same run.

The pass: sparse codes, decode, moments, fold maps, out-of-fold parts with their sums and estimates; from activations on
disk to codes, table of tokens and numbers on disk. The plain version: dense encode and decode, stored errors, `nonzero`,
two `lstsq`. The bare product is written as one call.

    python benchmarks/one_sae_pass.py [--tokens 24000] [--d-model 768] [--d-sae 16384] [--l0 60] [--repeats 3] [--memory]

`--memory` measures the peak memory of the pass alone (mapped file pages aside) at TOKENS and at 8 times as many.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import psutil
import torch

from dmcore.analysis.activations import Activations, ActivationWriter, Chunk
from dmcore.analysis.encode import decoded, encoded, error_moments, site_moments
from dmcore.analysis.partition import Partition
from dmcore.analysis.split_pass import SplitInputs, split_pass
from dmcore.analysis.summarise import write_split
from dmcore.math.screened import threshold_encoder
from dmcore.math.sparse_codes import SparseCodes, decode
from dmcore.progress import Reporter
from dmcore.specs import Settings

LENGTH = 1000
CPU = torch.device("cpu")
SETTINGS = Settings(skip_positions=0, compare_skips=())


class RandomJumpReLU:
    """A JumpReLU SAE with random weights, at a threshold that leaves L0 latents active on random activations."""

    tokens_at_once = 1

    def __init__(self, d_model: int, d_sae: int, l0: float) -> None:
        g = torch.Generator().manual_seed(0)
        self.d_sae = d_sae
        self.W_enc = torch.randn(d_model, d_sae, generator=g) / math.sqrt(d_model)
        self.W_dec = self.W_enc.T.contiguous()
        self.b_enc, self.b_dec = torch.zeros(d_sae), torch.zeros(d_model)
        quantile = math.sqrt(2) * float(torch.erfinv(torch.tensor(1 - 2 * l0 / d_sae, dtype=torch.float64)))
        self.threshold = torch.full((d_sae,), quantile)
        self.encoder = threshold_encoder(self.W_enc, self.b_enc, self.threshold)

    def encode(self, x: torch.Tensor) -> SparseCodes:
        """Sparse codes."""
        return self.encoder.encode(x)

    def decode(self, codes: SparseCodes, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Reconstruction."""
        return decode(codes, self.W_dec, self.b_dec)


def write_activations(folder: Path, n_tokens: int, d_model: int) -> Activations:
    """Random activations on disk, a few contexts at a time."""
    g = torch.Generator().manual_seed(1)
    n_contexts = n_tokens // LENGTH
    writer = ActivationWriter(folder, n_contexts, LENGTH)
    for context in range(n_contexts):
        writer.write(context, torch.randn(1, LENGTH, d_model, generator=g))
    writer.finish()
    return Activations(folder)


def one_pass(acts: Activations, sae: RandomJumpReLU, folder: Path) -> dict[str, float]:
    """The pass, as the pipeline runs it; returns its numbers."""
    partition = Partition.of(SETTINGS, acts.n_contexts, acts.length, 0)
    reporter = Reporter()
    inputs = site_moments(acts, partition, CPU, reporter, "site")
    targets = error_moments(encoded(acts, sae, folder, CPU), inputs, partition, reporter, "sae", acts.n_tokens)
    given = SplitInputs(inputs, targets, partition, SETTINGS, 0, sae.d_sae, acts.n_tokens)
    found = split_pass(decoded(acts, sae, folder, CPU), given, folder, reporter, "sae")
    write_split(found, inputs, partition, SETTINGS, folder)
    return {name: value.value for name, value in found.main.values.items()}


def plain_pass(x: torch.Tensor, sae: RandomJumpReLU, folder: Path) -> dict[str, float]:
    """What one would write first: everything dense and in memory, a random half of the tokens as training set."""
    pre = x @ sae.W_enc + sae.b_enc
    acts = pre.relu() * (pre > sae.threshold)
    where = acts.nonzero()
    np.savez(folder / "codes.npz", where=where.numpy(), values=acts[where[:, 0], where[:, 1]].numpy())
    error = x - (acts @ sae.W_dec + sae.b_dec)
    np.save(folder / "errors.npy", error.numpy())
    half = len(x) * 6 // 10
    design = torch.cat([x, torch.ones(len(x), 1)], 1)
    vector = torch.linalg.lstsq(design[:half], error[:half]).solution
    norm_sq = error.square().sum(1, keepdim=True)
    norm = torch.linalg.lstsq(design[:half], norm_sq[:half]).solution
    nonlinear = error[half:] - design[half:] @ vector
    scatter = (x - x.mean(0)).square().sum()
    residual = (norm_sq[half:] - design[half:] @ norm).square().sum()
    return {
        "fvu": float(error.square().sum() / scatter),
        "fvu_nonlinear": float(nonlinear.square().sum() / (x[half:] - x.mean(0)).square().sum()),
        "r2_error_norm_sq": float(1 - residual / (norm_sq[half:] - norm_sq[half:].mean()).square().sum()),
    }


def timed(run: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each repeat."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return seconds


def compare(arguments: argparse.Namespace) -> None:
    """Time the three, interleaved, and print the ratios of their medians."""
    sae = RandomJumpReLU(arguments.d_model, arguments.d_sae, arguments.l0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "acts").mkdir()
        acts = write_activations(folder / "acts", arguments.tokens, arguments.d_model)
        x = acts.read(Chunk(0, acts.n_contexts, acts.length), CPU)
        runs: dict[str, Callable[[], object]] = {
            "bare product": lambda: (x @ sae.W_enc, None)[1],
            "this pass": lambda: one_pass(acts, sae, folder),
            "plain pass": lambda: plain_pass(x, sae, folder),
        }
        for run in list(runs.values())[:2]:
            run()
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(arguments.repeats):
            for label, run in runs.items():
                seconds[label] += timed(run, 1)
        medians = {label: statistics.median(values) for label, values in seconds.items()}
        codes = [folder / f"{part}.npy" for part in ("latents", "values", "counts", "contexts")]
        size = sum(path.stat().st_size for path in [*codes, folder / "tokens.parquet"]) / arguments.tokens
        counts = np.load(folder / "counts.npy").sum() / arguments.tokens
    for label, values in seconds.items():
        print(f"{label:<14} {medians[label]:7.2f} s   ({', '.join(f'{v:.2f}' for v in values)})")
    print(f"this pass / bare product: {medians['this pass'] / medians['bare product']:.2f}  (asked: at most 1.1)")
    print(f"plain pass / this pass:   {medians['plain pass'] / medians['this pass']:.2f}  (asked: at least 3)")
    print(f"bytes a token on disk: {size:.1f} at L0 {counts:.1f}  (asked: at most {6 * counts + 64:.1f})")
    print(f"threads: {torch.get_num_threads()}, encoder: {type(sae.encoder).__name__}")


def anonymous_memory() -> int:
    """Bytes of this process that are not pages of a file."""
    try:
        resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
        return (int(resident) - int(shared)) * resource.getpagesize()
    except OSError:  # not Linux
        return psutil.Process().memory_info().rss


def measure_memory(arguments: argparse.Namespace) -> None:
    """Run the pass in this process and print its peak of anonymous memory."""
    peak, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.001):
            peak[0] = max(peak[0], anonymous_memory())

    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "acts").mkdir()
        acts = write_activations(Path(name) / "acts", arguments.tokens, arguments.d_model)
        sae = RandomJumpReLU(arguments.d_model, arguments.d_sae, arguments.l0)
        watcher = threading.Thread(target=watch)
        watcher.start()
        one_pass(acts, sae, Path(name))
        stop.set()
        watcher.join()
    print(json.dumps({"tokens": arguments.tokens, "peak": peak[0]}))


def compare_memory(arguments: argparse.Namespace) -> None:
    """The peak at TOKENS and at 8 times as many, each in a process of its own."""
    peaks = []
    for tokens in (arguments.tokens, 8 * arguments.tokens):
        shape = ["--d-model", str(arguments.d_model), "--d-sae", str(arguments.d_sae), "--l0", str(arguments.l0)]
        command = [sys.executable, __file__, "--measure-memory", "--tokens", str(tokens), *shape]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        peaks.append(json.loads(said.strip().splitlines()[-1])["peak"])
        print(f"peak at {tokens:,} tokens: {peaks[-1] / 2**20:,.0f} MiB")
    print(f"8 times the tokens, {peaks[1] / peaks[0]:.3f} times the memory  (asked: at most 1.05)")


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=24_000)
    parser.add_argument("--d-model", type=int, default=768)
    parser.add_argument("--d-sae", type=int, default=16_384)
    parser.add_argument("--l0", type=float, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--measure-memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure_memory:
        measure_memory(arguments)
    elif arguments.memory:
        compare_memory(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
