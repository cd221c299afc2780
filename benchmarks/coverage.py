"""Coverage: in what share of simulated studies does each 95 % interval hold the planted truth?

1. A study is contexts of tokens with a topic of their own: activations, noise and its size all have a part that a whole context
   shares, so that intervals which draw tokens are too short. The SAE's error is a linear map of x, plus noise whose size depends
   on x beyond any line, times a factor of the context.
2. `dmcore.decompose` takes each study apart, with its own folds and bootstrap.
3. The truth is the value that a held-out number has on endless text for maps fitted on as many contexts as a fold's map is:
   the mean over many training sets of that size, each judged by the moments of one very large sample. So the truth has the
   price of the fit in it, and no study's luck.
4. The share of studies whose interval holds it, with its 95 % (Wilson) interval; also for intervals that draw tokens, for maps
   without a bias, and for noise with heavy tails (Student's t, `HEAVY` degrees of freedom a token).

    python benchmarks/coverage.py [--studies 400] [--contexts 60 100 200] [--d-model 16] [--json]

How far intervals can be trusted, with 16 dimensions and 60 to 200 contexts: as wanted for every number, with a bias or without,
and for heavy tails too, but for the R2 of |e|^2, which is of fourth moments:

- noise of t(10): 95 to 98 %; of t(6), whose eighth moments are infinite: 92 % with 200 contexts, and less in fewer dimensions,
  where tails do not average out (78 % of 200 studies in 8). The misses are too high: what lowers this R2 are rare tokens.
- maps without a bias of activations about 0 (rows `centred`): 86 %. No line through 0 predicts a size, so this R2 is below 0,
  about -(mean |e|^2)^2 / (variance of |e|^2), and hangs on one skew variance, whose luck no numerator shares. The truth is
  defined as everywhere, and the influence of the fit exact (tests/math/test_fit_noise.py): the interval is at fault. In 8
  dimensions, where it covers 82 %, BCa intervals of the same replicates cover 87 %, bootstrap-t intervals 89 %: no cure. Give
  maps a bias.

Ends with status 1 if a number of `decompose` is covered in fewer than 92 or more than 98 % of the studies of any size, in the
rows `contexts` and `no bias`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

import dmcore
from dmcore.explain.wilson import wilson
from dmcore.results import METRICS

Array = np.ndarray
LENGTH = 40
"""Tokens in a context."""
TRUTH_CONTEXTS = 20_000
"""Contexts of the sample that stands for all text."""
TRUTH_FITS = 300
"""Training sets whose maps are judged on it."""
WANTED = (0.92, 0.98)
HEAVY = (10.0, 6.0)
"""Degrees of freedom of heavy-tailed noise. The R2 of |e|^2 is of fourth moments, which exist above 4; how well they can be
estimated depends on eighth moments, which exist above 8."""


@dataclass(frozen=True)
class World:
    """What studies are drawn from."""

    mixing: Array
    """(d_model, d_model): activations are independent sources times this; their variances fall as a power."""
    weight: Array
    """(d_model, d_model): the linear part of the error is `x @ weight`."""
    mean: float = 0.5
    """Of each dimension of the activations."""
    freedom: float = math.inf
    """Degrees of freedom of Student's t, of which the noise of a token is; infinite: Gaussian. The variance is the same."""

    @classmethod
    def make(cls, d_model: int, seed: int = 0, **more: float) -> World:
        """One world for each dimension and seed."""
        g = np.random.default_rng(seed)
        rotation, _ = np.linalg.qr(g.standard_normal((d_model, d_model)))
        mixing = rotation * (np.arange(1, d_model + 1) ** -0.5)[:, None]
        weight = 0.12 * g.standard_normal((d_model, d_model)) / np.sqrt(d_model) + 0.2 * np.eye(d_model)
        return cls(mixing, weight, **more)

    def draw(self, n_contexts: int, g: np.random.Generator) -> tuple[Array, Array]:
        """Activations and errors, (n_contexts * LENGTH, d_model) each, context by context."""
        acts, known, noise, factor = self._ingredients(n_contexts, g)
        return acts, known + factor * noise

    def _ingredients(self, n_contexts: int, g: np.random.Generator) -> tuple[Array, Array, Array, Array]:
        """Activations, what of the error is no noise, Gaussian noise, and (n_tokens, 1) what the noise of a token is times."""
        d_model = len(self.mixing)
        shape = (n_contexts, LENGTH, d_model)
        topic = g.standard_normal((n_contexts, 1, d_model))
        acts = (np.sqrt(0.3) * topic + np.sqrt(0.7) * g.standard_normal(shape)) @ self.mixing + self.mean
        hard = np.exp(0.3 * g.standard_normal((n_contexts, 1, 1)))
        size = np.exp(0.5 * np.tanh(acts[..., :1])) + 0.3 * np.abs(acts[..., 1:2])
        shared = g.standard_normal((n_contexts, 1, d_model))
        noise = np.sqrt(0.1) * shared + np.sqrt(0.9) * g.standard_normal(shape)
        known = acts @ self.weight + 0.05 * acts[..., [0]] ** 2
        factor = np.ones((n_contexts * LENGTH, 1))
        if math.isfinite(self.freedom):
            factor = np.sqrt((self.freedom - 2) / g.chisquare(self.freedom, factor.shape))
        rows = (part.reshape(-1, d_model) for part in (acts, known, 0.12 * hard * size * noise))
        return *rows, factor

    def truth(
        self,
        n_train: int,
        g: np.random.Generator,
        n_contexts: int = TRUTH_CONTEXTS,
        n_fits: int = TRUTH_FITS,
        *,
        fit_bias: bool = True,
    ) -> dict[str, float]:
        """The value of each number on all text, for maps fitted on `n_train` contexts."""
        acts, known, noise, factor = self._ingredients(n_contexts, g)
        gram, cross, total_sq = _moments(acts, known + factor * noise)
        if math.isfinite(self.freedom):
            total_sq[-1] = self._fourth(known, noise)
        n = gram[-1, -1]
        scatter = total_sq - cross[-1] ** 2 / n
        act_scatter = (np.diag(gram)[:-1] - gram[-1, :-1] ** 2 / n).sum()
        residual = np.zeros_like(scatter)
        for _ in range(n_fits):
            train_gram, train_cross, _ = _moments(*self.draw(n_train, g))
            fitted = np.zeros_like(train_cross)
            used = slice(None) if fit_bias else slice(-1)
            fitted[used] = np.linalg.solve(train_gram[used, used], train_cross[used])
            residual += total_sq - 2 * (fitted * cross).sum(0) + (fitted * (gram @ fitted)).sum(0)
        residual /= n_fits
        r2 = 1 - residual / scatter
        return {
            "fvu": total_sq[:-1].sum() / act_scatter,
            "fvu_nonlinear": residual[:-1].sum() / act_scatter,
            "r2_error": 1 - residual[:-1].sum() / scatter[:-1].sum(),
            "r2_error_mean_dims": r2[:-1].mean(),
            "r2_error_norm_sq": r2[-1],
        }

    def _fourth(self, known: Array, noise: Array) -> float:
        """`sum |e|^4` with its expectation over the factors of the tokens, as their sample's is far off where tails are heavy."""
        square = (self.freedom - 2) / (
            self.freedom - 4
        )  # mean of factor^4; that of factor^2 is 1, and odd powers cancel
        own, other, both = (known**2).sum(1), (noise**2).sum(1), (known * noise).sum(1)
        return float((own**2 + 4 * both**2 + 2 * own * other + square * other**2).sum())


def _moments(acts: Array, errors: Array) -> tuple[Array, Array, Array]:
    """`[x, 1]^T [x, 1]`, `[x, 1]^T [e, |e|^2]` and sums of squares of `[e, |e|^2]`."""
    inputs = np.concatenate([acts, np.ones((len(acts), 1))], axis=1)
    targets = np.concatenate([errors, (errors**2).sum(1, keepdims=True)], axis=1)
    return inputs.T @ inputs, inputs.T @ targets, (targets**2).sum(0)


def simulate(
    world: World, n_contexts: int, n_studies: int, *, draw_tokens: bool = False, fit_bias: bool = True
) -> list[dict[str, dmcore.Estimate]]:
    """The headline numbers of studies of this size, each with its own seed.

    Args:
        draw_tokens: bootstrap single tokens in place of contexts, though folds would have to be of contexts too: to see
            what that does to intervals.
        fit_bias: whether maps have a bias.
    """
    contexts = np.repeat(np.arange(n_contexts), LENGTH)
    studies = []
    for study in range(n_studies):
        acts, errors = world.draw(n_contexts, np.random.default_rng([n_contexts, study]))
        groups = None if draw_tokens else contexts
        split = dmcore.decompose(acts, acts - errors, groups=groups, seed=study, fit_bias=fit_bias)
        studies.append({metric: getattr(split, metric) for metric in METRICS})
    return studies


def covered(studies: list[dict[str, dmcore.Estimate]], truth: dict[str, float], metric: str) -> dmcore.Estimate:
    """The share of studies whose interval holds the truth, with its own 95 % interval."""
    return wilson(sum(study[metric].low <= truth[metric] <= study[metric].high for study in studies), len(studies))


def rows_of(
    d_model: int, n_contexts: int, n_studies: int, n_folds: int = 5
) -> Iterator[dict[str, float | int | str | bool]]:
    """The coverage of every number at one size: by contexts and by tokens, without a bias, and of heavy-tailed noise."""
    n_train = n_contexts - round(n_contexts / n_folds)
    usual = World.make(d_model)
    kinds: list[tuple[str, World, dict[str, bool]]] = [
        ("contexts", usual, {}),
        ("tokens", usual, {"draw_tokens": True}),
        ("no bias", usual, {"fit_bias": False}),
        ("centred", World.make(d_model, mean=0.0), {"fit_bias": False}),
        *((f"t({freedom:g})", World.make(d_model, freedom=freedom), {}) for freedom in HEAVY),
    ]
    for kind, world, how in kinds:
        truth = world.truth(n_train, np.random.default_rng(99), fit_bias=how.get("fit_bias", True))
        studies = simulate(world, n_contexts, n_studies, **how)
        for metric in METRICS:
            share = covered(studies, truth, metric)
            values = np.array([study[metric].value for study in studies])
            widths = np.array([study[metric].high - study[metric].low for study in studies])
            yield {
                "n_contexts": n_contexts,
                "kind": kind,
                "metric": metric,
                "truth": float(truth[metric]),
                "mean": float(values.mean()),
                "sd": float(values.std(ddof=1)),
                "mean_width_as_sd": float(widths.mean() / 3.92),
                "coverage": share.value,
                "coverage_low": share.low,
                "coverage_high": share.high,
                "n_studies": n_studies,
                "as_wanted": WANTED[0] <= share <= WANTED[1],
            }


def main() -> int:
    """Print the table; 1 if an interval over contexts covers too seldom or too often."""
    parser = argparse.ArgumentParser(description="What share of simulated studies does each 95 %% interval cover?")
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--contexts", type=int, nargs="+", default=[60, 100, 200])
    parser.add_argument("--d-model", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)  # thousands of small products: more threads only wait for one another
    began, found = time.perf_counter(), []
    if not args.json:
        print("contexts  kind      number               truth    mean     sd       width/3.92  covered (95 %)")
    for r in chain.from_iterable(rows_of(args.d_model, n, args.studies) for n in args.contexts):
        found.append(r)
        if not args.json:
            print(f"{r['n_contexts']:8d}  {r['kind']:8s}  {r['metric']:19s} {r['truth']:8.4f} {r['mean']:8.4f} {r['sd']:8.4f} "
                  f"{r['mean_width_as_sd']:8.4f}    {r['coverage']:.3f} ({r['coverage_low']:.3f} to {r['coverage_high']:.3f})"
                  f"{'' if r['as_wanted'] else '  not in 0.92 to 0.98'}", flush=True)  # fmt: skip
    print(json.dumps(found, indent=1) if args.json
          else f"{args.studies} studies of each size, {time.perf_counter() - began:.0f} s")  # fmt: skip
    return 0 if all(r["as_wanted"] for r in found if r["kind"] in ("contexts", "no bias")) else 1


if __name__ == "__main__":
    sys.exit(main())
