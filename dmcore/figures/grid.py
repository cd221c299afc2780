"""The charts of the views *Width × L0* and *Sparsity*."""

from __future__ import annotations

import polars as pl

from dmcore.charts.numbers import compact
from dmcore.charts.sparsity import sparsity_chart, sparsity_table
from dmcore.charts.surface import surface_chart, surface_table
from dmcore.figures.figure import Figure
from dmcore.results import Scaling
from dmcore.results.columns import mapped
from dmcore.words.chosen import Chosen
from dmcore.words.metrics import FORMULAS
from dmcore.words.names import architecture_name, plain
from dmcore.words.sample import sample_words
from dmcore.words.streams import site_phrase


def surface_figure(chosen: Chosen, scaling: Scaling, label: str, metric: str) -> Figure:
    """A metric over width and L0, of the SAEs of one architecture."""
    record = chosen.record
    points = chosen.published.records.filter(site=record["site"], label=label)
    cells, lines = (scaling[table].filter(label=label) for table in ("surfaces", "isolines"))
    other = "" if label == record["label"] else f" The selected SAE is {plain(architecture_name(record['label']))}."
    return Figure(
        name=f"surface_{metric}",
        key=(record["summary_key"], str(scaling.folder.name), metric, label),
        question=PLANE,
        caption=f"{plain(architecture_name(label))} SAEs on {site_phrase(record)}.{other} {FORMULAS[metric]} Circles: "
        f"measured SAEs; between them values are interpolated linearly over triangles in log width and log L0; nothing "
        f"is drawn outside their hull. Lines: equal values. {sample_words(record)}",
        hint="Click on a circle, or near it, to choose that SAE on every page.",
        chart=lambda: surface_chart(
            cells.filter(metric=metric), lines.filter(metric=metric), points, record["sae"], metric
        ),
        data=lambda: surface_table(points, metric),
    )


def sparsity_figure(chosen: Chosen, here: pl.DataFrame, metric: str) -> Figure:
    """A metric over L0 at one width, a line an architecture."""
    record = chosen.record
    named = here.with_columns(mapped(here["label"], architecture_name))
    return Figure(
        name=f"sparsity_{metric}",
        key=(record["summary_key"], *here["summary_key"], metric),
        question=sparsity_question(here),
        caption=f"SAEs with {compact(record['d_sae'])} latents on {site_phrase(record)}. {FORMULAS[metric]} L0 is "
        f"measured on the same tokens. Bars: 95 % intervals over contexts. {sample_words(record)}",
        chart=lambda: sparsity_chart(named, metric, record["sae"]),
        data=lambda: sparsity_table(named, metric),
    )


PLANE = "What do width and sparsity do together?"


def sparsity_question(here: pl.DataFrame) -> str:
    """The question of the SAEs of one width."""
    several = here["label"].n_unique() > 1
    return "Which architecture leaves less error at equal L0?" if several else "What does sparsity do at this width?"
