"""A made-up structure of an SAE's error in a cache folder, for tests of the page *Nonlinear error*. It is no result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from dmcore.results.structure import (
    BASES,
    SPECTRUM_PARTS,
    STRUCTURE,
    STRUCTURE_TABLES,
    Structure,
    structure_spec,
)
from dmcore.store.store import Store
from tests.charts import inspector_tables as fake
from tests.charts.scaling_tables import ends
from tests.pages.fake_scaling import HOSTILE

DIRECTIONS = {"x": 210.0, "error": 540.0, "linear": 230.0, "nonlinear": 560.25}
ABOUT: dict[str, Any] = {
    "d_model": fake.D_MODEL, "d_sae": 4096, "n_tokens": 70_000, "n_contexts": 300, "n_groups": 20, "n_folds": 5,
    "skip_positions": 8, "seed": 0, "n_shared": 70_000, "n_high": 7000, "least_share": 1.012, "n_tested": 3000,
    "n_significant": 60, "least_active": 20, "clustered": {"error": 1830, "nonlinear": 1830},
}  # fmt: skip
CONTENTS = ("clusters", "cluster_tokens", "cluster_kinds", "examples")
"""Tables that have rows where there are clusters."""
REMARK = "No clusters beyond chance among the 1,830 tokens with the largest nonlinear norm."


def structure_tables() -> dict[str, pl.DataFrame]:
    """All tables; the error has clusters, the nonlinear part none. Texts of tokens are hostile ones among others."""
    parts = fake.structure_parts().with_columns(
        pl.Series(name, [ends("d", DIRECTIONS[part], 4.0)[end] for part in SPECTRUM_PARTS])
        for name, end in (("directions_90", "d"), ("directions_90_low", "d_low"), ("directions_90_high", "d_high"))
    )
    shares = [
        {"part": part, "basis": basis, "k": k, **ends("share", 0.2 + 0.001 * k, 0.01), "chance": k / fake.D_MODEL}
        for part in SPECTRUM_PARTS for basis in BASES for k in (1, 2, 4, 8, 16, 32, 64, 128, 256)
    ]  # fmt: skip
    kinds = [{"part": "error", "cluster": k, "kind": "word start", "count": n, "share": 0.5, "lift": 1.5}
             for k, n in enumerate(fake.SIZES)]  # fmt: skip
    examples = [
        {"part": "error", "cluster": k, "rank": r, "context": 7 * r, "position": 10 + r, "token": k, "cosine": 0.8 - 0.1 * r,
         "before": [1, 2, 3], "after": [4, 5]}
        for k in range(len(fake.SIZES)) for r in range(3)
    ]  # fmt: skip
    texts = dict(fake.TEXTS) | dict(enumerate(HOSTILE))
    made = {"parts": parts, "spectra": fake.spectra(), "stability": fake.overlaps(), "silhouettes": fake.silhouettes(),
            "clusters": fake.clusters(), "cluster_tokens": fake.cluster_tokens(), "latents": fake.lifted(),
            "groups": fake.groups().with_columns(pl.col("n_active").clip(20))}  # fmt: skip
    rows = {"alignment": shares, "cluster_kinds": kinds, "examples": examples,
            "remarks": [{"topic": "clusters", "part": "nonlinear", "text": REMARK}],
            "vocabulary": [{"token": k, "text": t, "kind": "word"} for k, t in texts.items()]}  # fmt: skip
    return made | {name: fake.filled(STRUCTURE_TABLES[name], of) for name, of in rows.items()}


def build_structure(folder: Path, about: dict[str, Any] | None = None, **tables: pl.DataFrame) -> Structure:
    """A structure in a folder of its own; `about` and `tables` replace what is made up."""
    folder.mkdir(exist_ok=True)
    Structure.write(folder, ABOUT | (about or {}), structure_tables() | tables)
    return Structure.read(folder)


def write_fake_structure(root: Path, summary_key: str, **tables: pl.DataFrame) -> None:
    """Write the entry of the SAE with this summary, as `python -m dmcore structure` would."""
    Store(root).replace(
        STRUCTURE,
        structure_spec(summary_key),
        lambda folder: Structure.write(folder, ABOUT, structure_tables() | tables),
    )
