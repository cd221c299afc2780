"""Features of an SAE: seconds and memory to make them and to browse them, beside a plain version on a tenth of the tokens.

Random codes are written as a pass writes them: some latents are active on a tenth of the tokens, most on a few hundred. Making
and browsing run in a process of their own each, whose peak of memory is watched. The plain version holds all codes in a data
frame, and goes through one of 16 groups with a dense vector of activations for each latent: statistics, correlations, examples.

    python benchmarks/features.py [--latents 65536] [--tokens 1000000] [--l0 60] [--d-model 0] [--plain 16] [--folder DIR]

With `--d-model`, decoder rows are random too, and nearest latents (in 16,384) and promoted tokens (of 32,000) are found.
"""

from __future__ import annotations

import argparse
import json
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
import polars as pl

from dmcore.results.features import read_features

LENGTH, SKIP, N_WORDS, CONTEXTS_AT_ONCE, N_BASE = 1000, 16, 50_000, 20, 16_384
N_PROMOTED_FROM = 32_000
PARTS = ("error", "linear", "nonlinear")


def write_inputs(folder: Path, d_sae: int, n_contexts: int, l0: float) -> int:
    """Codes, tokens and the table of tokens; returns how many latents are active in all."""
    from dmcore.analysis.codes import NpyAppender

    g = np.random.default_rng(0)
    frequency = 1.0 / (np.arange(d_sae) + 20.0) ** 0.9
    cumulative = np.cumsum(frequency[g.permutation(d_sae)])
    cumulative /= cumulative[-1]
    (folder / "codes").mkdir()
    out = {
        name: NpyAppender(folder / "codes" / f"{name}.npy", kind, shape)
        for name, kind, shape in (
            ("latents", np.uint16, ()),
            ("values", np.float32, ()),
            ("counts", np.uint16, (1,)),
            ("contexts", np.int64, ()),
        )
    }
    out["contexts"].append(np.zeros(1))
    total = 0
    for _ in range(0, n_contexts, CONTEXTS_AT_ONCE):
        n = CONTEXTS_AT_ONCE * LENGTH
        drawn = np.sort(np.searchsorted(cumulative, g.random((n, round(l0 * 1.06)))), axis=1)
        first = np.ones(drawn.shape, dtype=bool)
        first[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
        counts = first.sum(1)
        out["latents"].append(drawn[first].astype(np.uint16))
        out["values"].append(g.standard_gamma(2.0, int(counts.sum()), dtype=np.float32))
        out["counts"].append(counts[:, None])
        ends = total + np.cumsum(counts)
        out["contexts"].append(ends[LENGTH - 1 :: LENGTH])
        total = int(ends[-1])
    for appender in out.values():
        appender.close()
    np.save(folder / "ids.npy", np.minimum(g.zipf(1.3, (n_contexts, LENGTH)), N_WORDS).astype(np.uint16))
    squares = {f"{part}_sq": g.standard_gamma(2.0, n_contexts * LENGTH, dtype=np.float32) for part in PARTS}
    pl.DataFrame(squares).write_parquet(folder / "tokens.parquet")
    return total


def anonymous_memory() -> int:
    """Bytes of this process that are not pages of a file; as in one_sae_pass, which imports torch."""
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * resource.getpagesize()


def watched(work: Callable[[], None]) -> dict[str, float]:
    """Seconds, and the peaks in bytes: of anonymous memory, and of all that is resident (mapped files too)."""
    peak, stop = [anonymous_memory()], threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            peak[0] = max(peak[0], anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    stop.set()
    watcher.join()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "anonymous": peak[0], "resident": resident}


def build(folder: Path, d_sae: int, d_model: int) -> dict[str, float]:
    """Make the entry in this process."""
    import torch

    from dmcore.analysis.feature_index import DecoderRows, FeatureSources, feature_index
    from dmcore.progress import Progress, Reporter
    from dmcore.sources.contexts import Contexts

    torch.set_num_threads(1)
    given: dict[str, object] = {}
    if d_model:
        rows, base = torch.randn(d_sae, d_model), torch.randn(N_BASE, d_model)
        given = {
            "rows": lambda first, last: rows[first:last],
            "others": {"base": DecoderRows.of(base)},
            "unembedding": torch.randn(d_model, N_PROMOTED_FROM),
        }
    ids = np.load(folder / "ids.npy", mmap_mode="r", allow_pickle=False)
    sources = FeatureSources(folder / "codes", d_sae, Contexts(ids, ""), SKIP, folder / "tokens.parquet", **given)
    (folder / "features").mkdir()
    began: dict[str, float] = {}

    def sink(progress: Progress) -> None:
        began.setdefault(progress.stage, time.perf_counter())

    found = watched(lambda: feature_index(sources, folder / "features", Reporter(sink)))
    ends = [*list(began.values())[1:], time.perf_counter()]
    return {**found, **{name: end - start for (name, start), end in zip(began.items(), ends, strict=True)}}


def browse(folder: Path, d_sae: int) -> dict[str, float]:
    """Seconds of what a page asks, each in milliseconds; nothing here imports torch."""
    times: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object], repeats: int = 5) -> None:
        taken = []
        for _ in range(repeats):
            started = time.perf_counter()
            work()
            taken.append(1000 * (time.perf_counter() - started))
        times[f"{name}, first"], times[name] = taken[0], statistics.median(taken)

    g = np.random.default_rng(1)

    def views() -> None:
        features = read_features(folder / "features")
        wanted = ["latent", "frequency", "error_r", "token"]
        by = pl.col("nonlinear_r").is_not_null()
        timed("table by correlation", lambda: features.latents.filter(by).sort("nonlinear_r").head(100).collect())
        timed("four columns of all", lambda: features.latents.select(wanted).collect())
        timed("search", lambda: features.search("#123").collect())
        timed(
            "card", lambda: (features.latent(n := int(g.integers(d_sae))), features.histogram(n), features.examples(n))
        )
        timed("examples", lambda: features.examples(int(g.integers(d_sae))), 300)

    found = watched(views)
    assert "torch" not in sys.modules
    return {**found, **times}


def plain(folder: Path, n_contexts: int, every: int) -> float:
    """Seconds of statistics and examples of every so many latents over the first contexts, written as one would first."""
    import pandas as pd

    starts = np.load(folder / "codes" / "contexts.npy", allow_pickle=False)
    stop, n = int(starts[n_contexts]), n_contexts * LENGTH
    read = {
        name: np.load(folder / "codes" / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in ("latents", "values", "counts")
    }
    ids = np.load(folder / "ids.npy", allow_pickle=False)[:n_contexts].ravel()
    norms = np.sqrt(pl.read_parquet(folder / "tokens.parquet")[:n].to_numpy().astype(np.float64))
    high = norms > np.quantile(norms, 0.9, axis=0)
    started = time.perf_counter()
    tokens = np.repeat(np.arange(n), read["counts"][:n, 0])
    frame = pd.DataFrame({"latent": read["latents"][:stop], "token": tokens, "value": read["values"][:stop]})
    found = []
    for latent, group in frame[frame["latent"] % every == 0].groupby("latent"):
        dense = np.zeros(n)
        dense[group["token"]] = group["value"]
        row = {"latent": latent, "n": len(group), "mean": group["value"].mean(), "max": group["value"].max()}
        row["token"] = pd.Series(ids[group["token"]]).mode()[0]
        for part in range(len(PARTS)):
            row[f"r{part}"] = np.corrcoef(dense, norms[:, part])[0, 1]
            row[f"share{part}"] = dense[high[:, part]].sum() / dense.sum()
        decile = pd.qcut(group["value"].rank(method="first"), 10, labels=False) if len(group) >= 10 else None
        shown = [group.nlargest(20, "value")]
        if decile is not None:
            shown += [group[decile == d].sample(3, replace=True, random_state=0) for d in range(9)]
        for token in pd.concat(shown)["token"]:
            context = token // LENGTH * LENGTH
            first, last = max(context, token - 24), min(context + LENGTH, token + 9)
            row.setdefault("windows", []).append((ids[first:last], dense[first:last]))
        found.append(row)
    assert found
    return time.perf_counter() - started


def report(folder: Path, arguments: argparse.Namespace) -> None:
    """Write the inputs, run both processes, and say what they took."""
    n_contexts = arguments.tokens // LENGTH // CONTEXTS_AT_ONCE * CONTEXTS_AT_ONCE
    total = write_inputs(folder, arguments.latents, n_contexts, arguments.l0)
    print(
        f"{arguments.latents:,} latents, {n_contexts * LENGTH:,} tokens, L0 {total / n_contexts / LENGTH:.1f}",
        flush=True,
    )

    def child(what: str, folder: Path) -> dict[str, float]:
        command = [sys.executable, __file__, "--do", what, str(folder), "--latents", str(arguments.latents)]
        command += ["--d-model", str(arguments.d_model)]
        return json.loads(
            subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        )

    made = child("build", folder)
    sizes = {path.name: path.stat().st_size for path in sorted((folder / "features").iterdir())}
    size = sum(sizes.values())
    memory = "{:.0f} MiB anonymous, {:.0f} MiB resident"
    print(
        f"make: {made.pop('seconds'):.1f} s, peak {memory.format(made.pop('anonymous') / 2**20, made.pop('resident') / 2**20)}"
    )
    print("   " + "; ".join(f"{name} {seconds:.1f} s" for name, seconds in made.items()))
    print(f"size: {size / 2**20:.0f} MiB, {size / arguments.latents:,.0f} bytes a latent")
    print("   " + "; ".join(f"{name} {of / 2**20:.1f} MiB" for name, of in sizes.items()), flush=True)
    seen = child("browse", folder)
    seen.pop("seconds")
    print(f"browse: peak {memory.format(seen.pop('anonymous') / 2**20, seen.pop('resident') / 2**20)}")
    print("   " + "; ".join(f"{name} {taken:.1f} ms" for name, taken in seen.items()), flush=True)
    if arguments.plain:
        tenth, n_contexts = folder / "tenth", max(CONTEXTS_AT_ONCE, n_contexts // 10)
        tenth.mkdir()
        write_inputs(tenth, arguments.latents, n_contexts, arguments.l0)
        taken = arguments.plain * plain(tenth, n_contexts, arguments.plain)
        arguments.d_model = 0
        own = child("build", tenth)["seconds"]
        print(
            f"{n_contexts * LENGTH:,} tokens: plain {taken:.0f} s (from one latent of {arguments.plain}), ours {own:.1f} s"
        )
        print(f"ratio: {taken / own:.0f}")


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=65_536)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--l0", type=float, default=60)
    parser.add_argument("--d-model", type=int, default=0)
    parser.add_argument("--plain", type=int, default=16, help="go through one latent of so many; 0: leave it out")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--do", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.do:
        what, folder = arguments.do[0], Path(arguments.do[1])
        found = (
            browse(folder, arguments.latents)
            if what == "browse"
            else build(folder, arguments.latents, arguments.d_model)
        )
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        report(Path(name), arguments)


if __name__ == "__main__":
    main()
