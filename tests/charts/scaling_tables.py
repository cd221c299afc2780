"""Made-up tables of a scaling analysis, in the schemas of `dmcore.results`, for tests of charts. They are no results."""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from dmcore.results import RECORD
from dmcore.results.scaling import TABLES, in_schema

WIDTHS = (16_384, 32_768, 65_536, 131_072, 262_144, 524_288, 1_048_576)
L0S = (11.0, 20.0, 54.0, 110.0, 300.0)
STOPS = 2
"""Index in `L0S` of the set that the tests draw."""
FLOOR, SIZE, EXPONENT = 0.11, 3.1, 0.35


def fvu(width: float, l0: float = 54.0) -> float:
    return (FLOOR + SIZE * width**-EXPONENT) * (l0 / 54) ** -0.3


def nonlinear(width: float, l0: float = 54.0) -> float:
    return (0.128 - 0.002 * math.log2(width / WIDTHS[0])) * (l0 / 54) ** -0.3


def ends(name: str, value: float, half: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def record(width: int, l0: float, layer: int = 20, stream: str = "residual", label: str = "jumprelu") -> dict:
    wobble = 1 + 0.01 * math.sin(width / 999 + l0 + layer)
    extra = {"gated": 1.08, "topk": 0.94, "standard": 1.2}.get(label, 1.0) * {"mlp": 1.5, "attention": 1.2}.get(
        stream, 1
    )
    share = fvu(width, l0) * wobble * extra * (0.7 + 0.015 * layer)
    rest = min(nonlinear(width, l0) * wobble * extra * (0.7 + 0.015 * layer), share * 0.98)
    return {
        "sae": f"scope-9b-{stream}/layer_{layer}/width_{width // 1024}k/{label}/average_l0_{l0:.0f}",
        "site": f"blocks.{layer}.hook_{stream}",
        "stream": stream,
        "layer": layer,
        "label": label,
        "architecture": label,
        "d_sae": width,
        "l0": l0 * (1 + 0.04 * math.sin(width)),
        **ends("fvu", share, 0.004),
        **ends("fvu_nonlinear", rest, 0.003),
        **ends("r2_error", 1 - rest / share, 0.01),
        **ends("r2_error_norm_sq", 0.8 + 0.02 * math.sin(width + l0), 0.02),
    }


def records(rows: list[dict]) -> pl.DataFrame:
    return pl.DataFrame(
        [dict.fromkeys(RECORD) | row for row in rows],
        schema=RECORD,
        infer_schema_length=None,
    )


SITE = records([record(w, l0) for w in WIDTHS for l0 in L0S])
"""Every SAE of a site."""
POINTS = records([record(w, L0S[STOPS]) for w in WIDTHS])
"""The SAEs of one set."""
SELECTED = POINTS["sae"][2]
MEMBERS = in_schema(
    "members",
    pl.DataFrame([{"set": 0, "sae": len(L0S) * k + STOPS, "d_sae": w, "l0": 54.0} for k, w in enumerate(WIDTHS)]),
)


def _law(law: str, metric: str, width: float) -> float:
    if metric == "fvu_nonlinear":
        return {"power": 0.112 + 0.9 * width**-0.42, "power_zero": 0.21 * width**-0.051}.get(law, 0.122)
    return {
        "power": fvu(width),
        "power_zero": 0.66 * width**-0.117,
        "exponential": 0.137 + 0.07 * math.exp(-width / 90_000),
        "constant": 0.155,
    }[law]


def laws_table() -> pl.DataFrame:
    rows = []
    for metric in ("fvu", "fvu_nonlinear"):
        floor = {"fvu": FLOOR, "fvu_nonlinear": 0.112}[metric]
        for law in ("power", "power_zero", "exponential", "constant"):
            c = {"power": ends("c", floor, 0.006), "constant": ends("c", 0.15, 0.004)}.get(law, {})
            out = _law(law, metric, WIDTHS[-1])
            rows.append({"set": 0, "metric": metric, "space": "log", "law": law, "n_widths": len(WIDTHS), **c,
                         **ends("m", EXPONENT, 0.03), **ends("left_out", out, 0.003), "left_out_actual": 0.14})  # fmt: skip
    return _filled("laws", rows)


def _filled(name: str, rows: list[dict]) -> pl.DataFrame:
    return in_schema(name, pl.DataFrame([dict.fromkeys(TABLES[name]) | row for row in rows], infer_schema_length=None))


def curves_table() -> pl.DataFrame:
    rows = []
    for metric in ("fvu", "fvu_nonlinear"):
        for law in ("power", "power_zero", "exponential", "constant"):
            for width in np.geomspace(WIDTHS[0], 16 * WIDTHS[-1], 60):
                value = _law(law, metric, width)
                half = 0.002 + 0.0012 * math.log2(width / WIDTHS[0])
                scatter = {"scatter_low": value - 2.5 * half, "scatter_high": value + 2.5 * half}
                rows.append({"set": 0, "metric": metric, "space": "log", "law": law, "d_sae": width, "value": value,
                             "low": value - half, "high": value + half, **(scatter if law == "power" else {})})  # fmt: skip
    return _filled("curves", rows)


LAWS, CURVES = laws_table(), curves_table()
NO_LAWS, NO_CURVES = LAWS.head(0), CURVES.head(0)


WORDS = [" the", " cat", "\n", " sat", "\u202eevil", "<b>", " &amp", "\tif", " 数学", "a\u200bb", "\ufffd",
         " antidisestablishmentarianism",
         "\u0301x", "ing", ",", " 2024", "\x00", "é", " of", "'"]  # fmt: skip


def tokens_table(length: int = 256) -> pl.DataFrame:
    """Texts and values of the tokens of a context; one has no value, the first is far above the rest."""
    texts = [WORDS[(7 * k + k // 20) % len(WORDS)] for k in range(length)]
    values = [0.2 + 0.15 * math.sin(k / 5) ** 2 + 0.05 * (k % 7) for k in range(length)]
    values[0] = 30.0
    values[5 % length] = None
    return pl.DataFrame({"position": range(length), "text": texts, "value": values})


def norms_table(widths: tuple[int, ...] = WIDTHS, length: int = 64) -> pl.DataFrame:
    """Norms of the parts of the error of each token at each width, over a window that starts at 100."""
    return pl.DataFrame(
        [
            {"position": 100 + k, "token": WORDS[(7 * k) % len(WORDS)], "d_sae": width, "part": part,
             "norm": scale * (1 + 0.4 * math.sin(k * 1.7) + 0.2 * math.cos(k * 5)) * (1 - 0.06 * n * (part != "nonlinear"))}
            for n, width in enumerate(widths)
            for part, scale in (("error", 0.4), ("linear", 0.25), ("nonlinear", 0.32))
            for k in range(length)
        ]
    )  # fmt: skip
