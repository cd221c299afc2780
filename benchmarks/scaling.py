"""The comparison of SAEs: the demo's as a whole, and its two heavy parts against plain versions in the same run.

1. `python -m dmcore scaling demo` in a cache that holds what the sweep left, but no tests of norms and no comparison.
2. Pairs: held-out R2 and its share closed, Spearman, F test for every pair of SAEs of the demo's largest site, with bootstrap
   intervals; plain: scikit-learn, SciPy and statsmodels pair by pair, without any interval.
3. Laws: a power law with both its intervals; plain: SciPy's least squares from 8 starts, refitted on 1,000 replicates.

Run: `python benchmarks/scaling.py [--pairs 20] [--repeats 3]`. It needs the demo swept in `$DMCORE_CACHE` or `cache/`. The
plain pairs are made of `--pairs` pairs and scaled up. Ends with status 1 if the whole takes a minute or more.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import polars as pl
import statsmodels.api as sm
from scipy.optimize import least_squares
from scipy.stats import spearmanr
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from dmcore import fit_power_law
from dmcore.analysis.token_kinds import unnamed_vocabulary
from dmcore.analysis.token_scaling import TokenSources, token_tables
from dmcore.progress import Reporter
from dmcore.run.commands.shared import resolve_study
from dmcore.run.pipeline import Pipeline
from dmcore.run.plan import Plan, make_plan
from dmcore.store.fingerprint import content_key
from dmcore.store.store import Entry, Store

LIMIT = 60.0
LEFT_BY_SWEEP = ("activations", "losses", "inputs", "codes", "targets", "split", "summary", "index")


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median time of some runs."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def time_whole(store: Store) -> float:
    """Seconds of the demo's comparison, from what the sweep left; files are linked, not copied."""
    with tempfile.TemporaryDirectory(dir=store.root.parent) as folder:
        for entry in store.entries():
            if isinstance(entry, Entry) and entry.manifest.stage in LEFT_BY_SWEEP:
                place = Path(folder) / entry.path.relative_to(store.root)
                place.mkdir(parents=True)
                for file in entry.path.iterdir():
                    (place / file.name).hardlink_to(file)
        study, copy = resolve_study("demo"), Store(Path(folder))
        return seconds(lambda: Pipeline(copy).scale(study), 1)


def largest_site(plan: Plan, store: Store) -> tuple[TokenSources, list[pl.DataFrame]]:
    """The site with most SAEs, for our way, and its tables of tokens, for the plain one."""
    hook = max(plan.study.hooks, key=lambda h: sum(p.sae.hook == h for p in plan.saes))
    saes = [p for p in plan.saes if p.sae.hook == hook]
    entries = [store.find("split", content_key(p.split)) for p in saes]
    if None in entries:
        sys.exit("The demo's splits are not in this cache: run `python -m dmcore sweep demo` in an empty one first.")
    paths = [entry.path / "tokens.parquet" for entry in entries if entry is not None]
    sources = TokenSources(
        tables=paths,
        names=[p.sae.name for p in saes],
        contexts=plan.contexts,
        partition=plan.partition,
        skip_positions=plan.study.settings.skip_positions,
        seed=0,
        act_scale=1.0,
        vocabulary=unnamed_vocabulary,
    )
    kept = np.tile(np.arange(plan.contexts.length) >= sources.skip_positions, plan.contexts.n_contexts)
    return sources, [pl.read_parquet(path, columns=["error_sq", "nonlinear_sq"]).filter(kept) for path in paths]


def plain_pair(source: pl.DataFrame, target: pl.DataFrame, folds: np.ndarray) -> tuple[float, ...]:
    """One pair, with the usual libraries."""
    y, z, wanted = (
        np.sqrt(t.to_numpy().astype(np.float64))
        for t in (source["error_sq"], source["nonlinear_sq"], target["error_sq"])
    )
    one, both = y[:, None], np.stack([y, z], 1)
    held_out = []
    for columns in (one, both):
        predicted = np.empty(len(wanted))
        for fold in range(int(folds.max()) + 1):
            test = folds == fold
            predicted[test] = LinearRegression().fit(columns[~test], wanted[~test]).predict(columns[test])
        held_out.append(float(r2_score(wanted, predicted)))
    f = sm.OLS(wanted, sm.add_constant(both)).fit().compare_f_test(sm.OLS(wanted, sm.add_constant(one)).fit())[0]
    return (*held_out, float(spearmanr(y, wanted).statistic), float(f))


def time_pairs(plan: Plan, store: Store, n_pairs: int, repeats: int) -> tuple[float, float, int]:
    """Seconds of all pairs our way (with worst tokens, slices, contexts), and of as many the plain way; how many."""
    sources, tables = largest_site(plan, store)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            token_tables(sources, Path(folder), Reporter())

    kept = plan.contexts.length - sources.skip_positions
    folds = np.repeat(plan.partition.folds, kept)
    every = list(itertools.permutations(range(len(tables)), 2))
    some = every[:: max(1, len(every) // n_pairs)][:n_pairs]
    plain = seconds(lambda: [plain_pair(tables[i], tables[j], folds) for i, j in some], 1)
    return seconds(ours, repeats), plain * len(every) / len(some), len(every)


def time_law(repeats: int) -> tuple[float, float]:
    """Seconds of one fit with its intervals, ours and plain."""
    g = np.random.default_rng(0)
    widths = 2.0 ** np.arange(8, 13)
    values = (0.04 + 2.8 * widths**-0.58) * np.exp(0.01 * g.standard_normal(5))
    replicates = values * np.exp(0.01 * g.standard_normal((1000, 5)))
    starts = [(c, a, m) for c in (0.001, 0.03) for a in (1.0, 5.0) for m in (0.3, 0.9)]

    def plain_fit(wanted: np.ndarray) -> np.ndarray:
        fits = [
            least_squares(
                lambda p: np.log(p[0] + p[1] * widths ** -p[2]) - np.log(wanted), start, bounds=([0, 0, 0], [1, 1e6, 4])
            )
            for start in starts
        ]
        return min(fits, key=lambda fit: fit.cost).x

    def ours() -> None:
        fit = fit_power_law(widths, values, replicates=replicates)
        assert all(np.isfinite(x.low) for x in (fit.c, fit.a, fit.m, fit.scatter_c, fit.scatter_a, fit.scatter_m))

    plain = seconds(lambda: [plain_fit(row) for row in replicates[:50]], 1) * len(replicates) / 50
    return seconds(ours, repeats), plain


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20, help="pairs of the plain version (20)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median is taken (3)")
    arguments = parser.parse_args()
    store = Store()
    plan = make_plan(resolve_study("demo"), store)
    pairs, plain_pairs, n = time_pairs(plan, store, arguments.pairs, arguments.repeats)
    law, plain_law = time_law(arguments.repeats)
    whole = time_whole(store)
    print(
        f"{n} pairs: {pairs:.2f} s with intervals; plain {plain_pairs:.1f} s without: {plain_pairs / pairs:.0f} times"
    )
    print(f"a law with both intervals: {1000 * law:.0f} ms; plain {plain_law:.1f} s: {plain_law / law:.0f} times")
    what = f"the demo's {len(plan.saes)} SAEs at {len(plan.study.hooks)} sites, tests of norms included"
    print(f"{what}: {whole:.1f} s (limit {LIMIT:.0f} s)")
    return int(whole >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
