"""Results in which the number of one of the paper's statements is known: made up, with an interval of a known width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dmcore.results.claim_tests import ClaimInputs
from dmcore.results.downstream import DOWNSTREAM_TABLES, Downstream
from dmcore.results.parts import PARTS_TABLES, Parts
from dmcore.results.reduction import REDUCTION_TABLES, Reduction
from dmcore.results.sae import METRICS, RECORD
from dmcore.results.scaling import TABLES as SCALING_TABLES
from dmcore.results.scaling import Scaling

SITE = "blocks.2.hook_resid_post"
WIDTHS = (256, 512, 1024)
N_REPLICATES = 401


def filled(schema: dict[str, Any], rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame([{column: row.get(column) for column in schema} for row in rows], schema=schema)


def record(key: str, **more: Any) -> dict[str, Any]:
    own = {"sae": key, "site": SITE, "stream": "residual", "layer": 2, "architecture": "topk", "label": "topk", "d_model": 16,
           "d_sae": 256, "l0": 16.0, "n_contexts": 100, "n_tokens": 4000, "summary_key": key}  # fmt: skip
    return own | dict.fromkeys(METRICS, 0.5) | more


def records_of(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return filled(RECORD, rows)


def spread(value: float, half: float) -> np.ndarray:
    """Replicates of which 2.5 % are below `value - half`, and as many above `value + half`."""
    return value + half / 0.95 * np.linspace(-1, 1, N_REPLICATES)


def ends(name: str, value: float, half: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def replicates_of(**columns: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame({metric: columns.get(metric, np.full(N_REPLICATES, 0.5)) for metric in METRICS})


def scaling_of(keys: list[str], **tables: list[dict[str, Any]]) -> Scaling:
    filled_tables = {name: filled(schema, tables.get(name, [])) for name, schema in SCALING_TABLES.items()}
    return Scaling({"summaries": keys}, Path("nowhere"), filled_tables)


def planted(claim: str, value: float, half: float) -> ClaimInputs:
    """Results in which the statement's number is `value`, with an interval of `half` to either side."""
    one = records_of([record("a")])
    metrics = {"half_vector": "r2_error_mean_dims", "norm_07": "r2_error_norm_sq", "norm_09": "r2_error_norm_sq"}
    if claim in metrics:
        rows = records_of([record("a", **{metrics[claim]: value})])
        if claim == "norm_07":  # of middle layers alone: what the others have must not count
            at = [(f"blocks.{layer}.hook_resid_post", layer) for layer in (0, 2, 4)]
            rows = records_of([record(f"{layer}", site=site, layer=layer, r2_error_norm_sq=value if layer == 2 else -9.0)
                               for site, layer in at])  # fmt: skip
            draws = {f"{k}": replicates_of(r2_error_norm_sq=spread(value if k == 2 else -9.0, half)) for k in (0, 2, 4)}
            return ClaimInputs(rows, "demo", draws)
        return ClaimInputs(rows, "demo", {"a": replicates_of(**{metrics[claim]: spread(value, half)})})
    if claim == "half_norm":
        rows = records_of([record("a", fvu=0.2, fvu_nonlinear=0.2 * (1 - value))])
        fvu = np.full(N_REPLICATES, 0.2)
        return ClaimInputs(rows, "demo", {"a": replicates_of(fvu=fvu, fvu_nonlinear=fvu * (1 - spread(value, half)))})
    if claim in ("constant_width", "slower_width"):
        return _widths(value, half, 0.0 if claim == "constant_width" else -0.3)
    if claim == "same_tokens":
        rows = records_of([record(key, d_sae=width) for key, width in zip("abc", WIDTHS, strict=True)])
        pairs = [
            {"source": s, "target": t, **ends("r2", value if s < t else -9.0, half)} for s in range(3) for t in range(3)
        ]
        return ClaimInputs(rows, "demo", scaling={SITE: scaling_of(["a", "b", "c"], pairs=pairs)})
    if claim == "norm_order":
        tests = [{"sae": 0, "quantity": part, "predictor": "x", **ends("r2", r2, half / 2)}
                 for part, r2 in (("linear", 0.4 + value), ("nonlinear", 0.4))]  # fmt: skip
        return ClaimInputs(one, "demo", scaling={SITE: scaling_of(["a"], norm_tests=tests)})
    two = records_of([record("a"), record("b")]) if claim == "parts_order" else one
    return ClaimInputs(two, "demo", **_looks(claim, value, half))


def _widths(value: float, half: float, slope_fvu: float) -> ClaimInputs:
    doublings = np.log2(WIDTHS)
    slope = value + slope_fvu
    rows = [record(f"{key}{l0}", d_sae=width, l0=l0, fvu=np.exp(slope_fvu * k), fvu_nonlinear=0.1 * np.exp(slope * k))
            for key, width, k in zip("abc", WIDTHS, doublings, strict=True) for l0 in (8.0, 32.0)]  # fmt: skip
    draws = {row["sae"]: replicates_of(fvu=np.full(N_REPLICATES, np.exp(slope_fvu * k)),
                                       fvu_nonlinear=0.1 * np.exp(spread(slope, half) * k))
             for row in rows for k in [np.log2(row["d_sae"])]}  # fmt: skip
    return ClaimInputs(records_of(rows), "demo", draws)


def _looks(claim: str, value: float, half: float) -> dict[str, Any]:
    nowhere = Path("nowhere")
    if claim == "parts_order":
        rows = [{"part": "nonlinear", "other": "linear", **ends("difference", value, half)},
                {"part": "linear", "other": "nonlinear", **ends("difference", -value, half)}]  # fmt: skip
        return {
            "parts": {
                key: Parts({}, nowhere, {"differences": filled(PARTS_TABLES["differences"], rows)}) for key in "ab"
            }
        }
    if claim.startswith("loss_"):
        mine = claim.removeprefix("loss_")
        rows = [{"part": part, **ends("per_norm_sq", value if part == mine else -9.0, half)}
                for part in ("linear", "nonlinear", "both")]  # fmt: skip
        return {"downstream": {"a": Downstream({}, nowhere, {"parts": filled(DOWNSTREAM_TABLES["parts"], rows)})}}
    if claim == "earlier":
        inputs = {"mlp": -9.0, "previous+mlp+attention": value, "previous+mlp+attention+x": 9.0}
        rows = [{"inputs": name, "target": target, **ends("r2", r2 if target == "nonlinear" else -9.0, half)}
                for name, r2 in inputs.items() for target in ("error", "linear", "nonlinear")]  # fmt: skip
        tables = {"regressions": filled(REDUCTION_TABLES["regressions"], rows)}
    else:
        column = "nonlinear_removed" if claim == "pursuit_nonlinear" else "error_removed"
        rows = [{"method": "gradient_pursuit", **ends(column, value, half)},
                {"method": "matching_pursuit", **ends(column, -9.0, half)}]  # fmt: skip
        tables = {"methods": filled(REDUCTION_TABLES["methods"], rows)}
    return {"reduction": {"a": Reduction({}, nowhere, tables)}}
