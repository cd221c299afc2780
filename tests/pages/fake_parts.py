"""Made-up SAEs on the parts of an error, with features and what a wider SAE has of them. They are no results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from dmcore.analysis.feature_index import feature_index
from dmcore.progress import Reporter
from dmcore.results import (
    FEATURES,
    LEARNED,
    PARTS_STAGE,
    dictionaries_of,
    features_spec,
    learned_spec,
    widest_of,
)
from dmcore.results.learned import COMPONENTS, LEARNED_LATENTS, write_learned
from dmcore.results.parts import PARTS_TABLES, Parts, parts_spec
from dmcore.store.published import open_published
from dmcore.store.store import Store
from tests.analysis.test_feature_index import build_sources
from tests.charts import inspector_tables as fake
from tests.pages.fake_scaling import HOSTILE

ENTRIES = [f"{number:032x}" for number in range(12)]
"""Keys of the `part` entries, in the order of parts and seeds."""
ABOUT = {
    "base": "b", "site": "s", "parts": list(fake.PARTS), "seeds": [0, 1, 2], "width": 1024, "l0": 16, "architecture": "topk",
    "engine": "lean", "tokens": 6_000_000, "batch_tokens": 4096, "n_tokens": 65_280, "n_contexts": 272, "skip_positions": 16,
    "n_folds": 5, "seed": 0, "d_model": 768, "entries": ENTRIES, "note": "A note on how they were measured.",
}  # fmt: skip


def base_key(root: Path) -> str:
    """Key of the summary of the SAE that has SAEs on its parts: the study's first."""
    return open_published("demo", Store(root)).records["summary_key"][0]


def write_fake_parts(root: Path) -> None:
    """Write everything that the page shows of the first SAE of the made-up study and of those on its parts."""
    store, key = Store(root), base_key(root)
    tables = {
        "saes": fake.saes(), "means": fake.means(), "differences": fake.differences(), "curves": fake.curves(),
        "stability": fake.stability(), "replicates": pl.DataFrame(schema=PARTS_TABLES["replicates"]),
    }  # fmt: skip
    parts = store.replace(
        PARTS_STAGE, parts_spec(key, {}, ENTRIES), lambda folder: Parts.write(folder, ABOUT | {"summary": key}, tables)
    )
    records = open_published("demo", store).records
    write_fake_learned(store, parts.key, dictionaries_of(records, key), records)
    widest = widest_of(records, key)
    for entry in (None, ENTRIES[-1]):
        store.replace(FEATURES, features_spec(key, widest, entry), _features)


def write_fake_learned(store: Store, parts: str, keys: list[str], records: pl.DataFrame) -> None:
    names = [records.filter(summary_key=key)["sae"][0] for key in keys]
    rows = [
        {
            "part": part, "seed": seed, "latent": latent, "against": against, "nearest": 0, "baseline_mean": 0.3,
            "baseline_95": 0.35, "cosine": 0.95 if latent < n_same else 0.2,
        }
        for against in [*names, COMPONENTS]
        for part, n_same in (("x", 50), ("linear", 20), ("nonlinear", 3))
        for seed in (0, 1)
        for latent in range(100)
    ]  # fmt: skip
    widths = {name: int(records.filter(sae=name)["d_sae"][0]) for name in names}
    about = {"base": names[0], "against": names, "widths": widths, "n_components": 32, "d_model": 768}
    table = pl.DataFrame(rows, schema=LEARNED_LATENTS)
    store.replace(LEARNED, learned_spec(parts, keys), lambda folder: write_learned(folder, about, table))


def _features(folder: Path) -> None:
    def vocabulary(ids: Iterable[int]) -> pl.DataFrame:
        numbers = sorted(set(ids))
        texts = [HOSTILE[i // 3 % len(HOSTILE)] if i % 3 == 0 else f" word{i}" for i in numbers]
        table = {"token": numbers, "text": texts, "kind": ["word start"] * len(numbers)}
        return pl.DataFrame(table, schema_overrides={"token": pl.Int32})

    with TemporaryDirectory() as inputs:
        sources = build_sources(Path(inputs), vocabulary=vocabulary, public="gpt2-small/8-res-jb")
        feature_index(sources, folder, Reporter())
