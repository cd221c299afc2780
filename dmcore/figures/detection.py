"""The charts of the view *Detection scores*."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from dmcore.charts.detection import deciles_chart, deciles_table, means_chart, means_table
from dmcore.charts.numbers import percent
from dmcore.explain.compare import beside
from dmcore.figures.figure import Figure
from dmcore.results import Detection
from dmcore.words.detection import (
    sample_of,
)
from dmcore.words.scaling import triple


def parts_figure(found: Sequence[Detection], scorer: str) -> Figure:
    """Latents of the parts beside each other."""
    table, key = beside(found), tuple(word for one in found for word in one.key)
    sample = sample_of(found)
    return Figure(
        name="detection_parts",
        key=(*key, scorer),
        question="How well can latents of each part be told?",
        caption="Balanced accuracy = (share of active windows told + share of silent windows told) / 2, mean over latents; "
        "AUC: area under the curve over the same windows. A dot is a seed with its 95 % interval over latents, a bar their "
        f"mean. Dashed: guessing. {sample}",
        chart=lambda: means_chart(table),
        data=lambda: means_table(table),
    )


def deciles_figure(found: Sequence[Detection], scorer: str) -> Figure:
    """The same by decile of activation."""
    table, key = beside(found), tuple(word for one in found for word in one.key)
    sample = sample_of(found)
    return Figure(
        name="detection_deciles",
        key=(*key, scorer),
        question="Are weak activations harder to tell?",
        caption="Share of windows told rightly, by decile of the latent's own activation at its peaks, and where it is "
        f"silent. Thick: mean over seeds with 95 % intervals over latents; faint: each seed. {sample}",
        chart=lambda: deciles_chart(table),
        data=lambda: deciles_table(table),
    )


def own_figure(one: Detection, scorer: str) -> Figure:
    """The latents of an SAE of the study, by decile."""
    # An SAE of the study is one on x, and has its colour.
    table = beside([one]).with_columns(part=pl.lit("x")).filter(pl.col("seed").is_null())
    table = table.unique(["measure", "decile"], keep="first", maintain_order=True)
    mean = percent(*triple(one.mean("balanced_accuracy"), "value"))
    return Figure(
        name="detection_own",
        key=(*one.key, scorer),
        question="",
        caption=f"Share of windows told rightly, by decile of activation and where the latent is silent; balanced accuracy "
        f"{mean}; 95 % intervals over latents. {sample_of([one])}",
        chart=lambda: deciles_chart(table),
        data=lambda: deciles_table(table),
    )
