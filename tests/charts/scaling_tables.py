"""Made-up tables of a scaling analysis, in the schemas of `dmcore.results`, for tests of charts. They are no results."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import polars as pl

from dmcore.results import RECORD
from dmcore.results.scaling import TABLES, Scaling

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
MEMBERS = Scaling.in_schema(
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
    return Scaling.in_schema(
        name, pl.DataFrame([dict.fromkeys(TABLES[name]) | row for row in rows], infer_schema_length=None)
    )


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


def surface_tables(steps: int = 24) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Cells and lines of equal value of FVU over width and L0."""
    widths, l0s = np.geomspace(WIDTHS[0], WIDTHS[-1], steps + 1), np.geomspace(L0S[0], L0S[-1], steps + 1)
    cells = [
        {"label": "jumprelu", "metric": "fvu", "width_low": a, "width_high": b, "l0_low": c, "l0_high": d,
         "value": fvu((a * b) ** 0.5, (c * d) ** 0.5)}
        for a, b in pairwise(widths)
        for c, d in pairwise(l0s)
    ]  # fmt: skip
    lines = [
        {"label": "jumprelu", "metric": "fvu", "level": level, "line": 0, "order": k, "width": width, "l0": l0}
        for level in (0.1, 0.15, 0.2, 0.25)
        for k, width in enumerate(widths)
        if L0S[0] <= (l0 := 54 * (fvu(width) / level) ** (1 / 0.3)) <= L0S[-1]
    ]
    return _filled("surfaces", cells), _filled("isolines", lines)


CELLS, ISOLINES = surface_tables()


def pairs_table() -> pl.DataFrame:
    """Every ordered pair of the SAEs of the site, better the nearer their widths."""
    rows = []
    for source in range(SITE.height):
        for target in range(SITE.height):
            if source != target:
                far = abs(source - target) / SITE.height
                rows.append({"source": source, "target": target, **ends("r2", 0.97 - 0.4 * far, 0.01),
                             **ends("spearman", 0.98 - 0.3 * far, 0.01), **ends("closed", 0.02 + 0.3 * far, 0.02)})  # fmt: skip
    return _filled("pairs", rows)


def slices_table() -> pl.DataFrame:
    """Groups of tokens of SAE 0; one has no numbers, one has a long name."""
    names = [
        "word start",
        "word part",
        "digits",
        "punctuation",
        "line breaks",
        "a class whose name is longer than a label may be",
    ]
    rows = []
    for k, name in enumerate(names):
        ratio = 0.4 * 1.6**k
        numbers = {
            **ends("error_ratio", ratio, 0.05 * ratio),
            **ends("linear_ratio", ratio * 1.2, 0.1),
            **ends("nonlinear_ratio", ratio * 0.9, 0.1),
            **ends("nonlinear_share", 0.5 + 0.05 * k, 0.03),
        }
        numbers = {} if k == 4 else numbers
        rows.append({"sae": 0, "by": "class", "group": name, "order": k, "n_tokens": 120_000 // (k + 1), **numbers})
        rows.append(
            {"sae": 0, "by": "position", "group": f"{k}", "order": k, "n_tokens": 9, **ends("error_ratio", 1, 0.1)}
        )
    return _filled("slices", rows)


def norm_tests_table() -> pl.DataFrame:
    """R2 of each quantity for every SAE of the site, some far below zero."""
    means = {"x": 0.96, "recon": 0.93, "recon_plus_nonlinear": 0.9, "error": 0.8, "linear": 0.88, "nonlinear": 0.35}
    rows = []
    for sae in range(SITE.height):
        for quantity, mean in means.items():
            for predictor in ("x", "itself"):
                value = mean + 0.05 * math.sin(sae * 1.3) - 0.1 * (predictor == "itself") * (quantity == "nonlinear")
                if quantity == "nonlinear" and sae in (3, 4):
                    value = -0.2 if sae == 3 else -7.0
                rows.append(
                    {"sae": sae, "quantity": quantity, "predictor": predictor, **ends("r2", min(value, 0.99), 0.02)}
                )
    return _filled("norm_tests", rows)


ARCHITECTURES = records(
    [record(65_536, l0, label="topk") for l0 in (8.0, 16.0, 32.0, 64.0, 128.0)]
    + [record(65_536, l0, label=label) for label in ("gated", "standard", "jumprelu") for l0 in (12.0, 90.0, 300.0)]
)
"""SAEs of one width: the reference architecture has most points, the others go beyond its L0s."""
DEPTH = records(
    [
        record(width, l0, layer, stream)
        for stream, layers in (("residual", range(0, 42, 3)), ("mlp", (9, 20, 31)), ("attention", (9, 20, 31)))
        for layer in layers
        for width in (16_384, 131_072, 1_048_576)
        for l0 in (20.0, 60.0)
    ]
)


def over_sites() -> pl.DataFrame:
    """A row a site with numbers of its scaling; one has none."""
    rows = []
    for metric in ("fvu", "fvu_nonlinear"):
        for stream, shift in (("residual", 0.0), ("mlp", 0.05), ("attention", 0.06)):
            for layer in (5, 9, 12, 20, 31) if stream == "residual" else (9, 20, 31):
                m, ratio = ends("m", 0.3 + 0.01 * layer + shift, 0.06), ends("ratio", 0.9 + 0.004 * layer + shift, 0.03)
                numbers = {} if layer == 20 and stream == "mlp" else m | ratio | ends("r2", 0.8 + shift, 0.02)
                rows.append({"stream": stream, "layer": layer, "metric": metric, "law": "power", **numbers})
    return pl.DataFrame(rows, infer_schema_length=None)


def latents_table(negative: bool = False) -> pl.DataFrame:
    """Latents whose slopes are near their mean values."""
    rng = np.random.default_rng(0)
    value = np.exp(rng.normal(1, 0.6, 300))
    probe = value * np.exp(rng.normal(0, 0.3, 300)) - (0.6 if negative else 0.0) * rng.random(300) * value.max() * 0.1
    rows = {
        "latent": range(300),
        "frequency": np.geomspace(1e-5, 0.3, 300),
        "mean_active": value,
        "probe": np.abs(probe) if not negative else probe,
    }
    return _filled("latents", pl.DataFrame(rows).with_columns(sae=pl.lit(0)).to_dicts())
