"""A made-up study in the schemas of `dmcore.results`, for tests of pages that must not wait for a real computation.

The numbers have the shape of the demo's: FVU falls with width, nonlinear FVU falls more slowly. They are not results.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl

from dmcore.results import METRICS, RECORD, TABLES, Summary, write_summary
from dmcore.store.fingerprint import content_key
from dmcore.store.published import SUMMARY, publish
from dmcore.store.store import Store

D_MODEL = 192
N_CONTEXTS = 300
N_POSITIONS = 256
SKIP = 8
N_REPLICATES = 400


@dataclass(frozen=True)
class FakePublished:
    """Stands for `dmcore.store.published.Published`."""

    records: pl.DataFrame
    summaries: dict[str, Summary] = field(repr=False)
    study_id: str = "demo"
    title: str = "Made-up results for tests"
    model: str = "fake-llama"
    computed: str = "2026-01-01T00:00:00+00:00"

    def summary(self, summary_key: str) -> Summary:
        return self.summaries[summary_key]


def sae_points() -> list[tuple[str, int, int, float, str]]:
    """(stream, layer, width, L0, label) of every SAE of the made-up study."""
    points = [("residual", layer, width, 16.0, "topk") for layer in range(5) for width in (256, 1024, 4096)]
    for width in (256, 512, 1024, 2048, 4096):
        points += [("residual", 2, width, l0, "topk") for l0 in (4.0, 8.0, 16.0, 32.0)]
    points += [(stream, 2, width, 16.0, "topk") for stream in ("mlp", "attention") for width in (256, 1024, 4096)]
    points += [
        ("residual", 2, 1024, l0, label)
        for label, l0 in (("standard", 17.2), ("batchtopk", 15.9), ("jumprelu", 15.4), ("gated", 16.3))
    ]
    return list(dict.fromkeys(points))


def _metrics(stream: str, layer: int, width: int, l0: float, label: str) -> dict[str, float]:
    octaves = math.log2(width / 256)
    fvu = (0.115 + 0.053 * 2 ** (-0.55 * octaves)) * (l0 / 16) ** -0.35 * (0.8 + 0.1 * layer)
    fvu *= {"mlp": 1.4, "attention": 1.2}.get(stream, 1.0) * {"standard": 1.25, "gated": 1.1}.get(label, 1.0)
    nonlinear = fvu * (0.64 + 0.035 * octaves)
    r2 = 1 - nonlinear / fvu
    return {
        "fvu": fvu,
        "fvu_nonlinear": nonlinear,
        "r2_error": r2 - 0.002,
        "r2_error_mean_dims": r2 - 0.03,
        "r2_error_norm_sq": 0.40 + 0.05 * layer,
    }


def _with_intervals(values: dict[str, float], replicates: dict[str, np.ndarray]) -> dict[str, float]:
    out = {}
    for name, value in values.items():
        low, high = np.percentile(replicates[name], [2.5, 97.5])
        out |= {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}
    return out


def _replicates(values: dict[str, float], rng: np.random.Generator) -> dict[str, np.ndarray]:
    shared = np.random.default_rng(0).normal(size=N_REPLICATES)  # the same contexts for every SAE
    return {
        name: value * (1 + 0.012 * shared + 0.003 * rng.normal(size=N_REPLICATES)) for name, value in values.items()
    }


def _density(rng: np.random.Generator) -> pl.DataFrame:
    frames = []
    for panel, spread, noise in (("norm_sq", 0.22, 0.16), ("vector", 0.6, 0.8)):
        predicted = rng.normal(0, spread, 60_000)
        actual = predicted + rng.normal(0, noise, 60_000)
        edges = np.linspace(-1.0, 1.0, 61) if panel == "norm_sq" else np.linspace(-4, 4, 61)
        counts, _, _ = np.histogram2d(np.clip(predicted, edges[0], edges[-1]), actual, bins=(edges, edges))
        rows, columns = np.nonzero(counts)
        frames.append(
            pl.DataFrame(
                {
                    "panel": [panel] * rows.size,
                    "actual_low": edges[columns],
                    "actual_high": edges[columns + 1],
                    "predicted_low": edges[rows],
                    "predicted_high": edges[rows + 1],
                    "count": counts[rows, columns],
                }
            )
        )
    return pl.concat(frames)


def _ridge(values: dict[str, float], rng: np.random.Generator) -> pl.DataFrame:
    rows = []
    for ridge_relative in (0.0, *(10.0**k for k in range(-8, 3))):
        penalty = 0.35 * ridge_relative / (1 + ridge_relative)
        for fold in range(5):
            wobble = np.random.default_rng(fold).normal(0, 0.008)
            rows.append(
                {
                    "ridge": ridge_relative * 37.0,
                    "ridge_relative": ridge_relative,
                    "fold": fold,
                    "r2_error": values["r2_error"] - penalty * values["r2_error"] + wobble,
                    "r2_error_norm_sq": values["r2_error_norm_sq"] * (1 - penalty) + wobble + rng.normal(0, 0.001),
                }
            )
    return pl.DataFrame(rows)


def _variants(values: dict[str, float], replicates: dict[str, np.ndarray]) -> pl.DataFrame:
    rows = []
    for skip in (0, 1, SKIP, 32):
        for bias in (True, False):
            shift = (0.12 if skip == 0 else 0.0) - (0.01 if not bias else 0.0)
            moved = {name: value * (1 - shift) for name, value in values.items()}
            scaled = {name: column * (1 - shift) for name, column in replicates.items()}
            n_tokens = N_CONTEXTS * (N_POSITIONS - skip)
            rows.append(
                {"skip_positions": skip, "fit_bias": bias, "n_tokens": n_tokens} | _with_intervals(moved, scaled)
            )
    return pl.DataFrame(rows)


def _tables(values: dict[str, float], replicates: dict[str, np.ndarray], seed: int) -> dict[str, pl.DataFrame]:
    rng = np.random.default_rng(seed)
    position = np.arange(N_POSITIONS)
    sink = np.where(position == 0, 220.0, 1.0)
    error = 90.0 * values["fvu"] * sink**0.8 * (1 + 0.3 * np.exp(-position / 10))
    share = values["fvu_nonlinear"] / values["fvu"]
    dims = np.sort(rng.beta(4, 6, D_MODEL))
    predictors = {"x": values["r2_error_norm_sq"], "norm": 0.33, "loss": 0.07, "entropy": 0.11, "token": 0.24,
                  "position": 0.012, "l0": 0.001}  # fmt: skip
    n_units = np.full(N_CONTEXTS, float(N_POSITIONS - SKIP))
    tables = {
        "replicates": pl.DataFrame(replicates),
        "dims": pl.DataFrame(
            {
                "dimension": np.arange(D_MODEL),
                "r2": [None if k == 7 else float(v) for k, v in enumerate(rng.permutation(dims))],
                "error_variance": rng.lognormal(0, 0.8, D_MODEL),
                "act_variance": rng.lognormal(2, 0.8, D_MODEL),
            }
        ),
        "ridge": _ridge(values, rng),
        "variants": _variants(values, replicates),
        "baselines": pl.DataFrame(
            [{"predictor": k, "r2": v, "r2_low": v - 0.012, "r2_high": v + 0.013} for k, v in predictors.items()]
        ),
        "density": _density(rng),
        "positions": pl.DataFrame(
            {
                "position": position,
                "n_tokens": np.full(N_POSITIONS, N_CONTEXTS),
                "act_norm_sq": 100.0 * sink * np.exp(rng.normal(0, 0.03, N_POSITIONS)),
                "error_sq": error,
                "linear_sq": error * (1 - share),
                "nonlinear_sq": error * share,
            }
        ),
        "contexts": pl.DataFrame(
            {"unit": np.arange(N_CONTEXTS), "n_tokens": n_units} | dict.fromkeys(list(TABLES["contexts"])[2:], n_units)
        ),
    }
    return {name: frame.cast(TABLES[name], strict=False) for name, frame in tables.items()}


def fake_sae(point: tuple[str, int, int, float, str], seed: int) -> Summary:
    """One SAE of the made-up study, with every table filled."""
    stream, layer, width, l0, label = point
    hook = {"residual": "hook_resid_post", "mlp": "hook_mlp_out", "attention": "attn.hook_z"}[stream]
    values = _metrics(*point)
    replicates = _replicates(values, np.random.default_rng(1000 + seed))
    record: dict[str, Any] = {
        "sae": f"saes/layer_{layer}_{stream}/width_{width}_{label}_l0_{l0:g}",
        "site": f"blocks.{layer}.{hook}",
        "stream": stream,
        "layer": layer,
        "architecture": "jumprelu" if label == "batchtopk" else label,
        "label": label,
        "d_model": D_MODEL,
        "d_sae": width,
        "l0": l0 - 0.02,
        "dead_share": 0.01 * math.log2(width / 128),
        **_with_intervals(values, replicates),
        "shrinkage": 0.04,
        "n_tokens": N_CONTEXTS * (N_POSITIONS - SKIP),
        "n_contexts": N_CONTEXTS,
        "skip_positions": SKIP,
        "n_folds": 5,
        "ridge": 0.0,
        "fit_bias": True,
        "seed": 0,
        "summary_key": f"key{seed:03d}",
        "computed": "2026-01-01T00:00:00+00:00",
    }
    return Summary(record, **_tables(values, replicates, seed))


@cache
def fake_published(n_saes: int | None = None) -> FakePublished:
    """The made-up study, or its first `n_saes` SAEs."""
    summaries = [fake_sae(point, seed) for seed, point in enumerate(sae_points()[:n_saes])]
    records = pl.DataFrame([summary.record for summary in summaries], schema=RECORD)
    assert set(METRICS) <= set(records.columns)
    return FakePublished(records, {summary.record["summary_key"]: summary for summary in summaries})


def write_fake_study(
    root: Path,
    study_id: str = "demo",
    n_saes: int | None = None,
    *,
    emptied: tuple[str, ...] = (),
    title: str | None = None,
    model: str | None = None,
    label: str | None = None,
) -> None:
    """Write the made-up study to a cache folder, as a sweep would.

    Args:
        root: the cache folder.
        study_id: name of the study.
        n_saes: how many of its SAEs; all of them by default.
        emptied: tables that get no rows.
        title, model, label: other words than the made-up study's.
    """
    store, published = Store(root), fake_published(n_saes)
    records = []
    for record in published.records.to_dicts():
        record["label"] = label or record["label"]
        summary = published.summaries[record["summary_key"]]
        tables = {name: getattr(summary, name).filter(name not in emptied) for name in TABLES}
        spec = {"made_up": record["sae"], "study": study_id, "emptied": list(emptied)}
        key = content_key(spec)
        record["summary_key"] = key
        store.replace(SUMMARY, spec, lambda folder, r=record, t=tables: write_summary(folder, r, t))
        records.append(record)
    study: Any = SimpleNamespace(
        name=study_id,
        title=title or published.title,
        model=SimpleNamespace(described=model or published.model),
        saes=records,
        to_dict=lambda: {"name": study_id, "title": title or published.title},
    )
    publish(store, study, records)
