"""Made-up entries of *Error reduction* and *Downstream* in a cache folder, for tests of those pages. They are no results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from dmcore.results import DOWNSTREAM, REDUCTION, DownstreamSettings, downstream_spec, reduction_spec
from dmcore.results.downstream import DOWNSTREAM_TABLES, Downstream
from dmcore.results.earlier import earlier_saes
from dmcore.results.reduction import REDUCTION_TABLES, Reduction
from dmcore.store.published import open_published
from dmcore.store.store import Store
from tests.charts import reduction_tables as fake
from tests.charts.inspector_tables import filled
from tests.pages.fake_scaling import HOSTILE

REMARK = "The study has no SAE with results at <b>somewhere</b>: add one and sweep it to compare."
ABOUT: dict[str, Any] = {
    "d_model": fake.D_MODEL, "d_sae": 1024, "n_tokens": 70_000, "n_contexts": 300, "n_folds": 5, "skip_positions": 8, "seed": 0,
    "ridge": 0.0, "fit_bias": True, "loss_contexts": 16,
}  # fmt: skip
COST_ABOUT: dict[str, Any] = {
    "sae": "one", "hook": "blocks.2.hook_resid_post", "d_sae": 1024, "l0": 16.0, "n_tokens": 65_000, "n_contexts": 300,
    "dose_contexts": 64, "context_numbers": list(fake.CONTEXTS), "skip_positions": 8, "n_folds": 5, "seed": 0,
    "exact_gap": 6e-6, "r2_error": 0.2, "r2_error_low": 0.19, "r2_error_high": 0.21,
}  # fmt: skip


def reduction_tables() -> dict[str, pl.DataFrame]:
    components = [{"role": "mlp", "sae": HOSTILE[0], "site": "blocks.2.hook_mlp_out", "d_sae": 1024, "l0": 16.0}]
    return {
        "methods": fake.methods().filter(pl.col("kind") != "wider"), "ranks": fake.ranks(), "regressions": fake.regressions(),
        "tasks": fake.tasks(),
        "components": filled(REDUCTION_TABLES["components"], components),
        "remarks": filled(REDUCTION_TABLES["remarks"], [{"topic": "earlier", "text": REMARK}]),
    }  # fmt: skip


def downstream_tables() -> dict[str, pl.DataFrame]:
    texts = [{"token": k, "text": text, "kind": "word"} for k, text in enumerate((*HOSTILE, " word", "\n"))]
    return {
        "variants": fake.variants(), "parts": fake.parts(), "doses": fake.doses(), "kinds": fake.kinds(), "sums": fake.sums(),
        "remarks": filled(DOWNSTREAM_TABLES["remarks"], []), "tokens": fake.tokens(len(texts)),
        "vocabulary": filled(DOWNSTREAM_TABLES["vocabulary"], texts),
    }  # fmt: skip


def write_fake_reduction(root: Path, summary_key: str, **tables: pl.DataFrame) -> None:
    """Write the entry of the SAE with this summary, as `python -m dmcore reduce` would."""
    store = Store(root)
    earlier, _ = earlier_saes(open_published("demo", store).records, summary_key)
    spec = reduction_spec(summary_key, list(earlier.items()))
    store.replace(REDUCTION, spec, lambda folder: Reduction.write(folder, ABOUT, reduction_tables() | tables))


def write_fake_downstream(
    root: Path, summary_key: str, about: Mapping[str, Any] | None = None, **tables: pl.DataFrame
) -> None:
    """Write the entry of the SAE with this summary, as `python -m dmcore downstream` would."""
    Store(root).replace(
        DOWNSTREAM,
        downstream_spec(summary_key, DownstreamSettings()),
        lambda folder: Downstream.write(folder, COST_ABOUT | dict(about or {}), downstream_tables() | tables),
    )
