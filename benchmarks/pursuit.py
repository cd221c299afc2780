"""Gradient pursuit against plain ones, in the same run: seconds, ratios of medians, and whether the codes agree.

- *plain*: what one would write first, a batch of tokens at a time: all inner products, masked, in one (tokens x latents)
  array a step; gradient and values on the support alone, gathered.
- *published*: the paper's own way, with values and gradients as (tokens x latents) arrays and three dense products a step.

    python benchmarks/pursuit.py [--d-model 768] [--latents 16384] [--l0 40] [--tokens 512] [--repeats 5] [--device cpu]

On a busy machine compare with OMP_NUM_THREADS=1, which adds the ratio of processor times: threads that share a core with
others' work wait for each other at every step, and the many small steps here wait more often than a few large products.
`--latents 131072` needs 2 GiB for the plain arrays. `--memory` says what each takes at its peak, in processes of their own.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from dmcore.math.atoms import Atoms
from dmcore.math.best_atom import best_atom_scan
from dmcore.math.pursuit import gradient_pursuit
from dmcore.math.sparse_codes import SparseCodes


def plain(x: torch.Tensor, rows: torch.Tensor, l0: int) -> torch.Tensor:
    """Dense inner products, masked; sparse supports. Returns dense codes."""
    everyone = torch.arange(len(x), device=x.device)
    chosen = torch.zeros(len(x), len(rows), dtype=torch.bool, device=x.device)
    atoms = torch.zeros(len(x), l0, dtype=torch.int64, device=x.device)
    values = x.new_zeros(len(x), l0)
    residual = x.clone()
    for step in range(l0):
        products = residual @ rows.T
        best = products.masked_fill(chosen, -torch.inf).argmax(1)
        atoms[:, step] = best
        chosen[everyone, best] = True
        support = atoms[:, : step + 1]
        gradient = products.gather(1, support) * ((values[:, : step + 1] > 0) | (support == best[:, None]))
        some = rows[support]
        along = torch.bmm(gradient[:, None], some).squeeze(1)
        size = gradient.square().sum(1) / along.square().sum(1)
        values[:, : step + 1] = (values[:, : step + 1] + size[:, None] * gradient).clamp_min(0)
        left = values[:, : step + 1] == 0
        chosen[everyone[:, None].expand_as(support)[left], support[left]] = False
        residual = x - torch.bmm(values[:, None, : step + 1], some).squeeze(1)
    return x.new_zeros(chosen.shape).scatter_add_(1, atoms, values)


def published(x: torch.Tensor, rows: torch.Tensor, l0: int) -> torch.Tensor:
    """Everything dense. Returns dense codes."""
    everyone = torch.arange(len(x), device=x.device)
    weights = x.new_zeros(len(x), len(rows))
    for _ in range(l0):
        residual = x - weights @ rows
        products = residual @ rows.T
        chosen = weights != 0
        chosen[everyone, products.argmax(1)] = True
        gradient = products * chosen
        along = gradient @ rows
        size = (along * residual).sum(1) / along.square().sum(1)
        weights = (weights + size[:, None] * gradient).clamp_min(0)
    return weights


def problem(arguments: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations that are sparse in a dictionary, with noise; and the dictionary, of rows near norm 1."""
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(arguments.latents, arguments.d_model, generator=g)
    rows *= (0.9 + 0.2 * torch.rand(len(rows), 1, generator=g)) / rows.norm(dim=1, keepdim=True)
    true = torch.randint(0, len(rows), (arguments.tokens, arguments.l0), generator=g)
    values = 0.2 + torch.rand(true.shape, generator=g)
    x = torch.bmm(values[:, None], rows[true]).squeeze(1)
    x += 0.3 * x.norm(dim=1).mean() / arguments.d_model**0.5 * torch.randn(x.shape, generator=g)
    return x.to(arguments.device), rows.to(arguments.device)


def dense(codes: SparseCodes, d_sae: int) -> torch.Tensor:
    """(n_tokens, d_sae) values."""
    out = codes.values.new_zeros(len(codes.offsets) - 1, d_sae)
    tokens = torch.repeat_interleave(torch.arange(len(out), device=out.device), codes.l0)
    out[tokens, codes.latents.long()] = codes.values
    return out


def timed(run: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds, and seconds of processor time."""
    if device != "cpu":
        torch.cuda.synchronize()
    started, worked = time.perf_counter(), time.process_time()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started, time.process_time() - worked


def compare(arguments: argparse.Namespace) -> None:
    """Time them, interleaved, and print the ratios."""
    x, rows = problem(arguments)
    atoms = Atoms(rows, x)
    runs: dict[str, Callable[[], object]] = {
        "this": lambda: gradient_pursuit(x, atoms, arguments.l0),
        "plain": lambda: plain(x, rows, arguments.l0),
        "published": lambda: published(x, rows, arguments.l0),
    }
    mine, theirs = gradient_pursuit(x, atoms, arguments.l0), plain(x, rows, arguments.l0)
    found = dense(mine, arguments.latents)
    same = ((found > 0) == (theirs > 0)).all(1)
    print(f"tokens with the plain one's support: {float(same.double().mean()):.4%}")
    fvus = [float((x - codes @ rows).square().sum() / (x - x.mean(0)).square().sum()) for codes in (found, theirs)]
    print(f"FVU {fvus[0]:.6f}, plain {fvus[1]:.6f}; L0 {float(mine.l0.double().mean()):.2f}")
    del theirs, found
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    worked: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.repeats):
        for name, run in runs.items():
            wall, processor = timed(run, arguments.device)
            seconds[name].append(wall)
            worked[name].append(processor)
    for name, values in seconds.items():
        print(f"{name:<10} {statistics.median(values):7.2f} s   ({', '.join(f'{v:.2f}' for v in values)})")
    for name in ("plain", "published"):
        ratios = [theirs / own for theirs, own in zip(seconds[name], seconds["this"], strict=True)]
        print(f"{name} / this: median {statistics.median(ratios):.1f}, least {min(ratios):.1f}  (asked: at least 4)")
        if torch.get_num_threads() == 1:  # threads that wait for each other count as work
            ratios = [theirs / own for theirs, own in zip(worked[name], worked["this"], strict=True)]
            print(f"  in processor time: median {statistics.median(ratios):.1f}, least {min(ratios):.1f}")
    print(f"threads: {torch.get_num_threads()}, scan: {type(best_atom_scan(atoms, x)).__name__}")


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-model", type=int, default=768)
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--l0", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--only", choices=["this", "plain", "published", "nothing"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        x, rows = problem(arguments)
        methods = {"this": gradient_pursuit, "plain": plain, "published": published, "nothing": lambda *_: None}
        methods[arguments.only](x, rows, arguments.l0)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    elif arguments.memory:
        shape = [
            f"--{name}={getattr(arguments, name.replace('-', '_'))}" for name in ("d-model", "latents", "l0", "tokens")
        ]
        for name in ("nothing", "this", "plain", "published"):
            command = [sys.executable, __file__, *shape, "--only", name]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            print(f"{name:<10} peak {int(said):,} MiB")
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
