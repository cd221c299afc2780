"""Made-up tables of the page *Nonlinear error*, in the schemas of `dmcore.results`, for tests of charts. They are no results."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl

from dmcore.results.features import LATENTS, TOP, Example
from dmcore.results.learned import COMPONENTS, NOT_LEARNED
from dmcore.results.parts import PARTS_TABLES
from dmcore.results.structure import STRUCTURE_TABLES
from tests.charts.scaling_tables import WORDS, ends

PARTS = ("x", "error", "linear", "nonlinear")
SEEDS = (0, 1, 2)
LEVELS = {"x": 0.21, "error": 0.62, "linear": 0.34, "nonlinear": 0.71}
D_MODEL = 768


def filled(schema: dict[str, Any], rows: list[dict]) -> pl.DataFrame:
    """A table in a schema; columns that rows lack are null."""
    return pl.DataFrame([dict.fromkeys(schema) | row for row in rows], schema=schema, orient="row", strict=False)


def saes(seeds: tuple[int, ...] = SEEDS) -> pl.DataFrame:
    return filled(PARTS_TABLES["saes"], [
        {"part": part, "seed": seed, "sae": f"parts/{part}/{seed}", **ends("fvu", level + 0.012 * math.sin(3 * seed), 0.008),
         "l0": 32.0, "dead_share": 0.04 + 0.3 * level * (1 + 0.2 * seed), "d_sae": 4096, "variance_share": level / 5,
         "train_tokens": 10_000_000, "train_fvu": level}
        for part, level in LEVELS.items() for seed in seeds
    ])  # fmt: skip


def means() -> pl.DataFrame:
    return filled(PARTS_TABLES["means"], [
        {"part": part, "n_seeds": 3, **ends("fvu", level, 0.006), "seed_sd": 0.01} for part, level in LEVELS.items()
    ])  # fmt: skip


def differences() -> pl.DataFrame:
    return filled(PARTS_TABLES["differences"], [
        {"part": part, "other": other, **ends("difference", LEVELS[part] - LEVELS[other], 0.01)}
        for k, part in enumerate(PARTS) for other in PARTS[:k]
    ])  # fmt: skip


def curves(seeds: tuple[int, ...] = SEEDS) -> pl.DataFrame:
    return filled(PARTS_TABLES["curves"], [
        {"part": part, "seed": seed, "tokens": tokens, "fvu": level + 0.6 * (1 + 0.05 * seed) * (max(tokens, 1e4) / 2e4) ** -0.5,
         "l0": 32.0, "dead_share": 0.1}
        for part, level in LEVELS.items() for seed in seeds
        for tokens in (0, *(round(v) for v in np.geomspace(1e5, 1e7, 14)))
    ])  # fmt: skip


def stability(seeds: tuple[int, ...] = SEEDS) -> pl.DataFrame:
    pairs = [(a, b) for a in seeds for b in seeds if a < b]
    rows = []
    for part, level in LEVELS.items():
        for a, b in pairs:
            mean = 0.95 - 0.8 * level + 0.01 * (a + b)
            kinds = {"": mean, "random_": 0.12, "shaped_": 0.2 + 0.1 * level}
            rows.append(
                {"part": part, "first": a, "second": b, "n_first": 3900, "n_second": 3800, "n_pairs": 3800,
                 "method": "assignment",
                 **{f"{k}mean_cosine": v for k, v in kinds.items()},
                 **{f"{k}share_above_07": max(0.0, v * 1.2 - 0.3) for k, v in kinds.items()},
                 **{f"{k}share_above_09": max(0.0, v * 1.1 - 0.4) for k, v in kinds.items()}}
            )  # fmt: skip
    return filled(PARTS_TABLES["stability"], rows)


EDGES = np.linspace(0.0, 7.3, 21)
COUNTS = np.array([round(4000 * math.exp(-k / 2.2)) for k in range(20)])


def latents(n: int = 3000) -> pl.DataFrame:
    """Latents of an SAE; the last is never active."""
    rng = np.random.default_rng(0)
    frequency = 10 ** rng.normal(-3, 0.6, n)
    mean = np.exp(rng.normal(0.4, 0.35, n)) * frequency**-0.08
    rows = [{"latent": k, "frequency": float(f), "n_active": round(f * 1e6), "mean_active": float(m)}
            for k, (f, m) in enumerate(zip(frequency, mean, strict=True))]  # fmt: skip
    rows[-1] |= {"frequency": 0.0, "n_active": 0, "mean_active": None}
    return filled(LATENTS, rows)


TEXTS = dict(enumerate(WORDS))


def examples(n_top: int = 20, n_per_decile: int = 3, n_before: int = 24) -> list[Example]:
    """Windows of one latent, the largest activations first; some start at the first token of their context."""
    rng = np.random.default_rng(1)
    found = []
    for group, n in ((TOP, n_top), *((k, n_per_decile) for k in range(8, -1, -1))):
        for k in range(n):
            at = n_before if k % 4 else min(2, n_before)
            tokens = rng.integers(0, len(WORDS), at + 9)
            activations = np.where(rng.random(at + 9) < 0.12, rng.random(at + 9), 0).astype(np.float32)
            activation = 7.3 - 0.1 * k if group == TOP else 0.6 * (group + 1) - 0.05 * k
            activations[at] = activation
            decile = None if group == TOP else group
            found.append(Example(decile, 17 * k + group, at, activation, at, tokens, activations))
    return found


def not_learned(n: int = 800, parts: tuple[str, ...] = PARTS[1:]) -> pl.DataFrame:
    """Largest cosines of the latents of part SAEs with those of other dictionaries, with the part of each."""
    rng = np.random.default_rng(2)
    tables = []
    for against, base, gain in (("base", 0.22, 0.0), ("scope/layer_12/width_131k", 0.27, 0.2), (COMPONENTS, 0.1, -0.1)):
        for part in parts:
            level = 0.85 - 0.7 * LEVELS[part] + gain
            cosine = np.clip(rng.beta(6 * max(level, 0.08), 6 * (1 - level), n), base * 0.6, 0.999)
            rows = [{"latent": k, "against": against, "nearest": 3 * k, "cosine": float(c), "baseline_mean": base * 0.8,
                     "baseline_95": base} for k, c in enumerate(cosine)]  # fmt: skip
            rows[0]["cosine"] = rows[0]["nearest"] = None
            tables.append(filled(NOT_LEARNED, rows).with_columns(part=pl.lit(part)))
    return pl.concat(tables)


DECAYS = {"x": 1.5, "error": 0.75, "linear": 1.0, "nonlinear": 0.55}


def structure_parts() -> pl.DataFrame:
    rows = []
    for part, decay in DECAYS.items():
        shares = np.arange(1, D_MODEL + 1) ** -decay
        shares /= shares.sum()
        rank = float(np.exp(-(shares * np.log(shares)).sum()))
        rows.append({"part": part, "variance_share": 0.1, "rank": D_MODEL, **ends("effective_rank", rank, 0.03 * rank)})
    return filled(STRUCTURE_TABLES["parts"], rows)


def spectra() -> pl.DataFrame:
    rows = []
    for part, decay in DECAYS.items():
        shares = np.arange(1, D_MODEL + 1) ** -decay
        shares /= shares.sum()
        rows += [
            {"part": part, "direction": k + 1, **ends("share", float(s), 0.01 * float(s))} for k, s in enumerate(shares)
        ]
    return filled(STRUCTURE_TABLES["spectra"], rows)


def overlaps() -> pl.DataFrame:
    rows = []
    for part, decay in DECAYS.items():
        for k in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
            chance = k / D_MODEL
            overlap = chance + (1 - chance) * (0.6 + 0.25 * decay) * math.exp(-k / (300 * decay))
            overlap = min(overlap, 0.999)
            rows.append({"part": part, "k": k, "n_splits": 5, "overlap": overlap, "overlap_least": overlap - 0.03,
                         "overlap_most": min(overlap + 0.02, 1.0), "chance": chance})  # fmt: skip
    return filled(STRUCTURE_TABLES["stability"], rows)


def silhouettes() -> pl.DataFrame:
    rows = []
    for part, level in (("error", 0.19), ("nonlinear", 0.09)):
        for k in range(2, 13):
            value = level - 0.01 * abs(k - 6)
            rows.append({"part": part, "k": k, "silhouette": value, "null_mean": 0.07 - 0.002 * k,
                         "null_most": 0.085 - 0.002 * k, "null_sd": 0.006, "chosen": part == "error" and k == 6})  # fmt: skip
    return filled(STRUCTURE_TABLES["silhouettes"], rows)


SIZES = (812, 440, 391, 120, 58, 9)


def clusters() -> pl.DataFrame:
    return filled(STRUCTURE_TABLES["clusters"], [
        {"part": "error", "cluster": k, "n_tokens": n, "n_contexts": n // 3 + 1, "mean_position": 400.0 / (k + 1),
         "decoder_latent": 31 * k, "decoder_cosine": 0.7 - 0.1 * k}
        for k, n in enumerate(SIZES)
    ])  # fmt: skip


def cluster_tokens() -> pl.DataFrame:
    return filled(STRUCTURE_TABLES["cluster_tokens"], [
        {"part": "error", "cluster": k, "rank": r, "token": (5 * k + r) % len(WORDS), "count": 90 - 9 * r,
         "share": 0.3 - 0.05 * r, "lift": 8.0 - r}
        for k in range(len(SIZES)) for r in range(5)
    ])  # fmt: skip


def vocabulary() -> pl.DataFrame:
    return filled(STRUCTURE_TABLES["vocabulary"], [{"token": k, "text": t, "kind": "word"} for k, t in TEXTS.items()])


def lifted(n: int = 30) -> pl.DataFrame:
    rows = []
    for side, sign in (("largest", 1), ("smallest", -1)):
        for rank in range(n):
            lift = (6.0 * 0.93**rank) ** sign
            rows.append({"side": side, "rank": rank, "latent": 977 * rank % 4096 + (sign > 0), "n_active": 5000 // (rank + 1),
                         "n_high": 900 // (rank + 1), "n_contexts": 80, "lift": lift, "lift_low": lift / 1.15,
                         "lift_high": lift * 1.2, "p": 1e-6, "adjusted_p": 1e-4})  # fmt: skip
    return filled(STRUCTURE_TABLES["latents"], rows)


def groups() -> pl.DataFrame:
    names = (
        "word start",
        "word part",
        "digits",
        "punctuation",
        "a class whose name is longer than a label may well be",
    )
    rows = [{"by": "class", "group": name, "order": k, "n_active": 90_000 // (k + 1), "n_high": 4000, "n_contexts": 900,
             **ends("lift", 0.5 * 1.5**k, 0.06), "p": 0.01} for k, name in enumerate(names)]  # fmt: skip
    rows[2] |= {"lift": 0.0, "lift_low": 0.0, "lift_high": 0.1}
    rows.append(
        {"by": "position", "group": "1 to 15", "order": 0, "n_active": 10, "n_high": 3, **ends("lift", 1.3, 0.4)}
    )
    return filled(STRUCTURE_TABLES["groups"], rows)
