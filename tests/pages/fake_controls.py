"""A made-up entry of *Controls* in a cache folder, for tests of that page. It is no result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from dmcore.results import CONTROLS, Controls, controls_spec
from dmcore.results.controls import CONTROL_TABLES
from dmcore.store.store import Store
from tests.charts import controls_tables as fake
from tests.charts.inspector_tables import filled

REMARK = "There is no copy of the model: <b>it</b> takes 900 GB."
ABOUT: dict[str, Any] = {
    "sae": "one", "hook": "blocks.2.hook_resid_post", "d_model": fake.D_MODEL, "d_sae": 1024, "l0": 16.0, "n_tokens": 70_000,
    "n_contexts": 300, "all_contexts": 300, "n_train": fake.N_TRAIN, "n_folds": 5, "skip_positions": 8, "seed": 0, "ridge": 0.0,
    "fit_bias": True, "draws": 20,
}  # fmt: skip


def controls_tables() -> dict[str, pl.DataFrame]:
    return {
        "controls": fake.controls(), "dictionaries": fake.dictionaries(), "curve": fake.curve(),
        "asymptotes": fake.asymptotes(), "spectra": fake.spectra(),
        "draws": filled(CONTROL_TABLES["draws"], []), "seeds": filled(CONTROL_TABLES["seeds"], []),
        "remarks": filled(CONTROL_TABLES["remarks"], [{"topic": "model", "text": REMARK}]),
    }  # fmt: skip


def write_fake_controls(root: Path, summary_key: str, **tables: pl.DataFrame) -> None:
    """Write the entry of the SAE with this summary, as `python -m dmcore controls` would."""
    content = controls_tables() | tables
    about = ABOUT | {"verdicts": fake.counts(content["controls"])}
    Store(root).replace(CONTROLS, controls_spec(summary_key), lambda folder: Controls.write(folder, about, content))
