"""Made-up comparisons of the SAEs of a made-up study, for tests of the page *Scaling*: no results, but in their schemas."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dmcore.results import SCALING, Scaling, over_widths, scaling_spec
from dmcore.results.scaling import NORMS, QUANTITIES, SURFACE_METRICS, TABLES, TOKENS
from dmcore.store.published import open_published
from dmcore.store.store import Store

TEXTS = ("<bos>", " the", " cat", "\n", " def", " self", "(", ")", "ing", " 12")
HOSTILE = (
    "<script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "\u202eevil\u202c",
    "a\x00b\x1b[31m",
    "![x](http://a.example/y)",
    "$$\\href{javascript:window.hacked=1}{x}$$",
)
LENGTH, SKIP = 40, 8
BROWSED = (3, 7)
LAWS = ("power", "power_zero", "exponential", "constant")
MOST = 4
"""Widths that a law needs."""


def write_fake_scaling(
    root: Path, study_id: str = "demo", texts: Sequence[str] = TEXTS, sites: int | None = None
) -> None:
    """Write a comparison of each site of a study that is in the cache folder (see `write_fake_study`).

    Args:
        root: the cache folder.
        study_id: name of the study.
        texts: of the tokens, in turn.
        sites: how many of the study's sites get one; all by default.
    """
    store = Store(root)
    records = open_published(study_id, store).records
    for site in records["site"].unique(maintain_order=True)[:sites]:
        here = records.filter(site=site)
        store.replace(SCALING, scaling_spec(site, records), lambda folder, r=here, s=site: _write(folder, s, r, texts))


def _write(folder: Path, site: str, records: pl.DataFrame, texts: Sequence[str]) -> None:
    about = {"site": site, "saes": records["sae"].to_list(), "summaries": records["summary_key"].to_list(),
             "n_tokens": 74_400, "n_contexts": 300, "length": LENGTH, "skip_positions": SKIP, "n_folds": 5, "seed": 0,
             "act_scale": 3.0, "browsed": list(BROWSED)}  # fmt: skip
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    _sets(rows, records)
    _surfaces(rows, records)
    _of_saes(rows, records, texts)
    rows["vocabulary"] = [{"token": k, "text": text, "kind": "word part"} for k, text in enumerate(texts)]
    tables = {name: pl.DataFrame([dict.fromkeys(schema) | row for row in rows[name]], schema=schema, strict=False)
              for name, schema in TABLES.items()}  # fmt: skip
    Scaling.write(folder, about, tables)
    position = np.arange(LENGTH)[None, :, None, None]
    part, sae = np.array([1.0, 0.5, 0.8]), np.arange(len(records))[None, None, :, None]
    norms = part * (0.4 + 0.2 * np.sin(position * 1.3 + 0.1 * sae)) * np.ones((len(BROWSED), 1, 1, 1))
    np.save(folder / NORMS, norms.astype(np.float16))
    np.save(
        folder / TOKENS, (np.arange(len(BROWSED) * LENGTH) % len(texts)).reshape(len(BROWSED), LENGTH).astype(np.int32)
    )
    assert json.loads((folder / "about.json").read_text(encoding="utf-8"))["site"] == site


def ends(name: str, value: float, share: float = 0.02) -> dict[str, float]:
    return {name: value, f"{name}_low": value - share * abs(value), f"{name}_high": value + share * abs(value)}


def _sets(rows: dict[str, list[dict[str, Any]]], records: pl.DataFrame) -> None:
    """Sets, laws, curves, constancy and remarks."""
    numbers = {key: number for number, key in enumerate(records["summary_key"])}
    found: dict[tuple[int, ...], int] = {}
    for record in records.to_dicts():
        points = over_widths(records, record)
        saes = tuple(numbers[key] for key in points["summary_key"])
        if saes not in found:
            found[saes] = len(found)
            for sae, point in zip(saes, points.to_dicts(), strict=True):
                rows["members"].append({"set": found[saes], "sae": sae, "d_sae": point["d_sae"], "l0": point["l0"]})
            _laws(rows, found[saes], points)
        rows["targets"].append({"sae": numbers[record["summary_key"]], "set": found[saes]})


def _laws(rows: dict[str, list[dict[str, Any]]], number: int, points: pl.DataFrame) -> None:
    widths = points["d_sae"].to_numpy().astype(float)
    for metric in ("fvu", "fvu_nonlinear"):
        values = points[metric].to_numpy()
        if len(widths) > 1:
            slope = math.log(values[-1] / values[0]) / math.log2(widths[-1] / widths[0])
            rows["constancy"].append({"set": number, "metric": metric, "n_widths": len(widths), **ends("slope", slope),
                                      **ends("ratio", values[-1] / values[0]), "wald": 90.0, "dof": len(widths) - 1,
                                      "p": 1e-9})  # fmt: skip
        if len(widths) < MOST:
            text = f"{len(widths)} width{'s' if len(widths) > 1 else ''}: no law with a floor can be fitted to fewer than 4."
            rows["remarks"].append({"set": number, "metric": metric, "topic": "law", "text": text})
            continue
        floor = 0.6 * values[-1]
        for space in ("log", "linear"):
            for k, law in enumerate(LAWS):
                scatter = {f"{name}_scatter_{end}": v for name, v0 in (("c", floor), ("a", 2.0), ("m", 0.4))
                           for end, v in (("low", 0.5 * v0), ("high", 1.5 * v0))} if law == "power" else {}  # fmt: skip
                rows["laws"].append({"set": number, "metric": metric, "space": space, "law": law, "n_widths": len(widths),
                                     "n_params": 3, **ends("c", floor), **ends("a", 2.0), **ends("m", 0.4), **scatter,
                                     "rss": 1e-4, "aic": -40.0 + 5 * k, "at_bound": "",
                                     **ends("left_out", values[-1] * 1.01), "left_out_actual": values[-1]})  # fmt: skip
                for width in np.geomspace(widths[0], 16 * widths[-1], 30):
                    value = floor + (values[0] - floor) * (width / widths[0]) ** -0.5
                    rows["curves"].append({"set": number, "metric": metric, "space": space, "law": law, "d_sae": width,
                                           **ends("value", value), "low": 0.98 * value, "high": 1.02 * value,
                                           "scatter_low": 0.9 * value, "scatter_high": 1.1 * value})  # fmt: skip


def _surfaces(rows: dict[str, list[dict[str, Any]]], records: pl.DataFrame) -> None:
    """A coarse surface of each label with several widths and L0s, else a remark."""
    for label in records["label"].unique(maintain_order=True):
        own = records.filter(label=label)
        if own["d_sae"].n_unique() < 2 or own["l0"].n_unique() < 2:
            text = f"{len(own)} SAEs of {label}: a surface needs 3 or more."
            rows["remarks"].append({"label": label, "topic": "surface", "text": text})
            continue
        widths = np.geomspace(own["d_sae"].min(), own["d_sae"].max(), 9)  # type: ignore[arg-type]
        l0s = np.geomspace(own["l0"].min(), own["l0"].max(), 9)  # type: ignore[arg-type]
        for metric in SURFACE_METRICS:
            for i in range(8):
                for j in range(8):
                    rows["surfaces"].append({"label": label, "metric": metric, "width_low": widths[i], "l0_low": l0s[j],
                                             "width_high": widths[i + 1], "l0_high": l0s[j + 1],
                                             "value": 0.3 - 0.01 * (i + j)})  # fmt: skip
            for order, width in enumerate(widths):
                rows["isolines"].append({"label": label, "metric": metric, "level": 0.2, "line": 0, "order": order,
                                         "width": width, "l0": l0s[8 - order]})  # fmt: skip
        for metric in ("fvu", "fvu_nonlinear"):
            rows["joint"].append({"label": label, "metric": metric, "n_saes": len(own), **ends("c", 0.05), **ends("a", 2.0),
                                  **ends("m", 0.4), **ends("n", 0.5), "aic": -50.0, "aic_separate": -60.0,
                                  "left_out_error": 0.12})  # fmt: skip


def _of_saes(rows: dict[str, list[dict[str, Any]]], records: pl.DataFrame, texts: Sequence[str]) -> None:
    """Pairs, worst tokens, slices, tests of norms and latents of each SAE; the last worst token's text is not kept."""
    n = len(records)
    for source in range(n):
        for target in range(n):
            r2 = 1 - 0.03 * abs(source - target)
            rows["pairs"].append({"source": source, "target": target, **ends("r2", r2), **ends("spearman", r2),
                                  **ends("r2_both", r2), **ends("closed", 0.01), "f": 12.0, "p": 1e-4, "z": -4.0})  # fmt: skip
    for sae in range(n):
        for part in ("error", "linear", "nonlinear"):
            for rank, (context, position) in enumerate(((3, 20), (7, 30), (3, 11), (99, 5))):
                rows["worst"].append({"sae": sae, "part": part, "rank": rank, "context": context, "position": position,
                                      "token": rank % len(texts), "norm": 0.9 - 0.1 * rank, "share": 1e-4,
                                      "before": [0, 1, 2], "after": [len(texts) - 1, 0]})  # fmt: skip
        for order, group in enumerate(("word start", "word part", "newline")):
            numbers = {
                k: v for name in ("error_ratio", "linear_ratio", "nonlinear_ratio") for k, v in ends(name, 1.0).items()
            }
            rows["slices"].append({"sae": sae, "by": "class", "group": group, "order": order, "n_tokens": 1000, **numbers,
                                   **ends("nonlinear_share", 0.7)})  # fmt: skip
        for quantity in QUANTITIES:
            for predictor in ("x", "itself"):
                rows["norm_tests"].append({"sae": sae, "quantity": quantity, "predictor": predictor, **ends("r2", 0.8)})
        rows["latent_checks"].append({"sae": sae, "n_latents": 900, "pearson": 0.3, "spearman": 0.25, "probe_r2": 0.7})
        for latent in range(40):
            rows["latents"].append({"sae": sae, "latent": latent, "frequency": 0.001 * (latent + 1),
                                    "mean_active": 1 + 0.1 * latent, "probe": 0.8 + 0.1 * latent})  # fmt: skip
