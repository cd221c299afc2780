"""Made-up tables of the pages *Error reduction* and *Downstream*, in the schemas of `dmcore.results`. They are no results."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from dmcore.charts.shares import SHARES
from dmcore.results.downstream import DOSES, DOWNSTREAM_TABLES, EXACT, KIND_VARIANTS, PARTS, VARIANTS
from dmcore.results.reduction import CODING, JOINED, REDUCTION_TABLES
from tests.charts.inspector_tables import filled
from tests.charts.scaling_tables import WORDS, ends

D_MODEL = 192
FVU, NONLINEAR = 0.12, 0.08
SKIP_MOST = 1 - NONLINEAR / FVU
"""What the full affine skip removes."""
REMOVED = dict(zip(CODING, (0.20, 0.21, -0.15, 0.25, 0.05), strict=True))
"""Share of the nonlinear error that each coding method removes."""
INPUTS = ("previous", "mlp", "attention", "previous+mlp", "previous+attention", "mlp+attention", "previous+mlp+attention",
          "previous+mlp+attention+x")  # fmt: skip
RANKS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 192)


def skip_share(rank: int) -> float:
    """Share of the error that the skip of a rank removes."""
    return SKIP_MOST * (0.03 + 0.97 * math.log1p(rank) / math.log1p(D_MODEL))


def method(name: str, kind: str, title: str, fvu: float, nonlinear: float, **more: Any) -> dict[str, Any]:
    """A row of the table of methods."""
    return {
        "method": name, "kind": kind, "title": title, "source": "somebody 2024", "l0": 16.0, "extra_l0": 0.0,
        "parameters_added": 0, "n_tokens": 11_520 if kind == "coding" else 70_000, **ends("fvu", fvu, 0.002),
        **ends("fvu_nonlinear", nonlinear, 0.0015),
        **ends("error_removed", 1 - fvu / FVU, 0.004), **ends("nonlinear_removed", 1 - nonlinear / NONLINEAR, 0.003),
        **ends("r2_error", 1 - nonlinear / fvu, 0.005), **ends("r2_error_norm_sq", 0.6, 0.01), **more,
    }  # fmt: skip


def methods(l0: float = 16.0, scale: float = 1.0) -> pl.DataFrame:
    """The SAE as it is, and every kind of method; `scale`: of all errors."""
    rows = [
        method("encoder", "encoder", "The SAE as it is", FVU, NONLINEAR),
        method("shrinkage_scalar", "shrinkage", "Rescaled by one number", FVU * 0.99, NONLINEAR * 0.99, parameters_added=1),
        *(
            method(f"skip_{rank}", "skip", "Affine skip, full rank" if rank == D_MODEL else f"Affine skip, rank {rank}",
                   FVU * (1 - skip_share(rank)), NONLINEAR, rank=rank, parameters_added=D_MODEL + 2 * rank * D_MODEL)
            for rank in RANKS if rank
        ),
        *(
            method(f"earlier_{inputs}", "earlier", f"Regression on {inputs}", FVU * (1 - 0.06 * n), NONLINEAR * (1 - 0.02 * n),
                   inputs=inputs, extra_l0=16.0 * n, parameters_added=n * D_MODEL**2)
            for inputs in INPUTS for n in [inputs.count(JOINED) + 1]
        ),
        *(
            method(name, "coding", name.replace("_", " ").capitalize(), FVU * (1 - share), NONLINEAR * (1 - share),
                   seconds_per_1000=0.1)
            for name, share in REMOVED.items()
        ),
        method("wider_4096", "wider", "4,096 latents in place of 1,024", FVU * 0.7, NONLINEAR * 0.74,
               parameters_added=3_000_000),
    ]  # fmt: skip
    scaled = [f"{name}{end}" for name in ("fvu", "fvu_nonlinear") for end in ("", "_low", "_high")]
    return filled(REDUCTION_TABLES["methods"], rows).with_columns(pl.col(scaled) * scale, l0=pl.lit(l0))


TASKS = {"all": (-1, 3800, 0.5), "word start": (0, 1500, 0.4), "punctuation": (3, 900, 0.7), "newline": (6, 20, 0.8)}
"""Order, tokens, and share that the clean model predicts rightly."""


def tasks() -> pl.DataFrame:
    lost = {"clean": 0.0, "encoder": 0.04, "skip_64": 0.03, "gradient_pursuit": 0.02, "nnls_on_support": 0.05}
    return filled(REDUCTION_TABLES["tasks"], [
        {"method": method, "kind": kind, "order": order, "n_tokens": n, **ends("accuracy", right - share, 0.01),
         **ends("accuracy_delta", -share, 0.005)}
        for method, share in lost.items() for kind, (order, n, right) in TASKS.items()
    ])  # fmt: skip


def ranks() -> pl.DataFrame:
    return filled(REDUCTION_TABLES["ranks"], [
        {"rank": r, "parameters_added": D_MODEL + 2 * r * D_MODEL, **ends("fvu", FVU * (1 - skip_share(r)), 0.002),
         **ends("error_removed", skip_share(r), 0.004)}
        for r in RANKS
    ])  # fmt: skip


R2 = {"error": 0.07, "linear": 0.28, "nonlinear": 0.03}


def regressions() -> pl.DataFrame:
    return filled(REDUCTION_TABLES["regressions"], [
        {"inputs": inputs, "target": target,
         **ends("r2", 1.0 if target == "linear" and inputs.endswith("x") else r2 * (inputs.count(JOINED) + 1), 0.002)}
        for inputs in INPUTS for target, r2 in R2.items()
    ])  # fmt: skip


CLEAN = 2.6
DELTA = {"clean": 0.0, "sae": 0.2, "sae_linear": 0.14, "sae_nonlinear": 0.04, "sae_random": 0.38, "sae_shuffled": 0.37,
         "x_random": 0.15, "zero": 6.4, "mean": 5.2}  # fmt: skip


def costs(delta: float, n: int) -> dict[str, Any]:
    half = 0.05 * delta
    return {"n_tokens": n, **ends("ce", CLEAN + delta, 0.05), **ends("delta", delta, half), **ends("kl", delta, half),
            **ends("top1", math.exp(-delta), 0.01 * (delta > 0))}  # fmt: skip


def variants() -> pl.DataFrame:
    assert set(DELTA) == set(VARIANTS)
    return filled(DOWNSTREAM_TABLES["variants"], [
        {"variant": name, **costs(delta, 65_000), **ends("accuracy", 0.48 * math.exp(-delta), 0.01),
         **ends("recovered_zero", 1 - delta / DELTA["zero"], 0.002), **ends("recovered_mean", 1 - delta / DELTA["mean"], 0.002),
         **ends("recovered_sae", 1 - delta / DELTA["sae"], 0.02)}
        for name, delta in ((name, DELTA[name]) for name in VARIANTS)
    ])  # fmt: skip


def sums() -> pl.DataFrame:
    return filled(DOWNSTREAM_TABLES["sums"], [
        {"panel": "doses", "variant": name, "unit": unit, "n_tokens": 200, "ce": 200 * CLEAN + (1e-5 if name == EXACT else 0),
         "kl": 0.0, "top1": 200, "correct": 96}
        for name in ("clean", EXACT) for unit in range(4)
    ])  # fmt: skip


NORM_SQ = {"linear": 0.21, "nonlinear": 0.8}


def parts() -> pl.DataFrame:
    recovered = {part: 1 - DELTA[f"sae_{part}"] / DELTA["sae"] for part in PARTS}
    rows = [
        {"part": part, **ends("norm_sq_share", NORM_SQ[part], 0.002), **ends("norm_share", NORM_SQ[part] ** 0.5, 0.002),
         **ends("recovered", recovered[part], 0.013), **ends("kl_recovered", recovered[part], 0.01),
         **ends("per_norm_sq", recovered[part] / NORM_SQ[part], 0.05)}
        for part in PARTS
    ]  # fmt: skip
    both = sum(recovered.values())
    rows.append({"part": "both", **ends("norm_sq_share", 1.01, 0.002), **ends("norm_share", 1.3, 0.002),
                 **ends("recovered", both, 0.01), **ends("kl_recovered", both, 0.01),
                 **ends("per_norm_sq", both, 0.01)})  # fmt: skip
    return filled(DOWNSTREAM_TABLES["parts"], rows)


def doses() -> pl.DataFrame:
    return filled(DOWNSTREAM_TABLES["doses"], [
        {"part": part, "dose": dose, **costs(DELTA["sae"] + (DELTA[f"sae_{part}"] - DELTA["sae"]) * (2 * dose - dose**2), 15_000)}
        for part in PARTS for dose in sorted((0.0, 1.0, *DOSES))
    ])  # fmt: skip


KINDS = {"word start": 17_000, "word part": 20_000, "number": 1700, "newline": 5600, "bytes": 4}


def kinds() -> pl.DataFrame:
    rows = []
    for variant in KIND_VARIANTS:
        for order, (kind, n) in enumerate(KINDS.items()):
            lost = 0.1 * DELTA[variant] * (order + 1)
            rows.append({"variant": variant, "kind": kind, "order": order, "n_tokens": n,
                         **ends("accuracy", 0.5 - lost, 1 / n**0.5),
                         **ends("accuracy_delta", -lost, 0.3 / n**0.5), **ends("ce", CLEAN, 0.1),
                         **ends("delta", DELTA[variant], 0.01)})  # fmt: skip
    return filled(DOWNSTREAM_TABLES["kinds"], rows)


CONTEXTS, LENGTH, SKIP = (3, 7), 40, 8


def tokens(n_texts: int = len(WORDS)) -> pl.DataFrame:
    """Tokens of two contexts; the worst of all is at position 20 of context 7."""
    rows = []
    for context in CONTEXTS:
        for position in range(SKIP, LENGTH):
            delta = 4.0 if (context, position) == (7, 20) else 0.3 * math.sin(context + position)
            rows.append({"context": context, "position": position, "token": (context + 3 * position) % n_texts,
                         "target": (context + 3 * position + 3) % n_texts, "ce": 2.0, "delta_sae": delta,
                         "delta_sae_linear": 0.7 * delta, "delta_sae_nonlinear": 0.2 * delta,
                         "delta_sae_random": 2 * delta})  # fmt: skip
    return filled(DOWNSTREAM_TABLES["tokens"], rows)


def shares(n: int = 6) -> pl.DataFrame:
    rows = []
    for k in range(n):
        for part in PARTS:
            size = NORM_SQ[part] + 0.02 * k * (-1 if part == "linear" else 0.5)
            rows.append({"sae": f"saes/{k}", "layer": 2, "d_sae": 256 * 2**k, "l0": 16.0, "part": part,
                         **ends("norm_sq_share", size, 0.004), **ends("norm_share", size**0.5, 0.004),
                         **ends("r2_share", size, 0.004), **ends("recovered", min(size * 1.2, 0.98), 0.03),
                         **ends("kl_recovered", size, 0.03)})  # fmt: skip
    return filled(SHARES, rows)
