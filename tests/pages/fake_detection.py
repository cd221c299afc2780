"""Made-up detection scores, as `python -m dmcore detect` would write them. They are no results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dmcore.explain.score_table import Outcome, failed, score_table
from dmcore.results.detection import DETECTION, OFFLINE, PATTERNS, Detection, detection_spec
from dmcore.run.looks.detection import summary_table
from dmcore.store.store import Store

PARTS = ("x", "error", "linear", "nonlinear")
SEEDS = (0, 1, 2)
LEVELS = {None: 0.86, "x": 0.84, "error": 0.68, "linear": 0.82, "nonlinear": 0.66}
HOSTILE = "<script>alert(1)</script> `` ` `` [x](javascript:alert(1)) ![i](http://x/y.png) $x$ \u202eevil\nsecond"
N = 30


def key_of(part: str, seed: int) -> str:
    """Key of the entry of an SAE on a part."""
    return f"entry-{part}-{seed}"


def scores(level: float, seed: int, n: int = N, scorer: str = PATTERNS) -> pl.DataFrame:
    """Of latents that are told about as often as a level says; the last has failed."""
    generator = np.random.default_rng([seed, round(1000 * level)])
    outcomes = []
    for latent in range(n - 1):
        shares = np.clip(level + np.linspace(-0.2, 0.1, 11), 0, 1)
        right = [int(generator.binomial(5, share)) for share in shares[:-1]] + [int(generator.binomial(50, level))]
        auc = level + 0.05 if scorer == PATTERNS else None
        outcomes.append(Outcome(latent, HOSTILE, tuple(right), (*[5] * 10, 50), auc))
    outcomes.append(failed(n - 1, "It is active in fewer than two contexts: give more texts."))
    table = score_table(outcomes)
    patterns = [name for name in OFFLINE if name not in table.columns]
    value = 0.7 if scorer == PATTERNS else None
    return table.with_columns(pl.lit(value, pl.Float64).alias(name) for name in patterns)


def detection_of(
    folder: Path, part: str | None = None, seed: int | None = None, scorer: str = PATTERNS, table: Any = None
) -> Detection:
    """Write one in a folder and read it."""
    folder.mkdir(parents=True, exist_ok=True)
    found = scores(LEVELS[part], seed or 0, scorer=scorer) if table is None else table
    n_failed = len(found) - found["failure"].null_count()
    about = {
        "sae": "saes/a" if part is None else f"parts/{part}/{seed}",
        "site": "blocks.2.hook_resid_post",
        "part": None if part is None or seed is None else key_of(part, seed),
        "part_name": part,
        "train_seed": seed,
        "scorer": scorer,
        "n_asked": len(found),
        "n_scored": len(found) - n_failed,
        "n_failed": n_failed,
        "n_unanswered": 0,
        "protocol": "5 test windows of each decile and 50 silent ones",
    }
    Detection.write(folder, about, {"scores": found, "summary": summary_table(found, 0)})
    return Detection.read(folder)


def parts_detections(root: Path, seeds: tuple[int, ...] = SEEDS) -> list[Detection]:
    """Of SAEs on all parts, in their order."""
    return [detection_of(root / key_of(part, seed), part, seed) for part in PARTS for seed in seeds]


def write_fake_detection(root: Path, summary_key: str, scorer: str = PATTERNS, table: Any = None) -> None:
    """Write the entry of the SAE with this summary."""
    spec = detection_spec(summary_key, None, {scorer: 1}, N, {})
    Store(root).replace(DETECTION, spec, lambda folder: detection_of(folder, scorer=scorer, table=table))
