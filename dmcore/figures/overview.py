"""The charts of the page Overview."""

from __future__ import annotations

import polars as pl

from dmcore.charts.budget import budget_chart, budget_table
from dmcore.charts.schematic import schematic_chart, schematic_table
from dmcore.figures.figure import Figure
from dmcore.words.chosen import Chosen
from dmcore.words.names import architecture_name, l0_text, plain
from dmcore.words.sample import sample_words
from dmcore.words.streams import site_phrase


def budget_caption(chosen: Chosen, rows: pl.DataFrame) -> str:
    """Which SAEs they are, the formula, n and split."""
    record = chosen.record
    label = rows["label"][0]
    parts = [
        f"{plain(architecture_name(label))} SAEs on {site_phrase(record)}, at the measured L0 nearest to {l0_text(record['l0'])}."
    ]
    off = rows.filter(((pl.col("l0") / record["l0"]).log().abs()) > 0.1)
    if len(off):
        there = ", ".join(f"{row['d_sae']:,} latents: L0 {l0_text(row['l0'])}" for row in off.to_dicts())
        parts.append(f"Nearest L0 where it differs: {there}.")
    if label != record["label"]:
        parts.append(f"The diamonds are the selected {plain(architecture_name(record['label']))} SAE.")
    parts.append(
        "Height of both areas: FVU = Σ|x − Sae(x)|² / Σ|x − mean x|². Lower area: the same with the linear error"
    )
    parts.append(f"added back to Sae(x). Bars: 95 % intervals over contexts. {sample_words(record)}")
    return " ".join(parts)


def budget_figure(chosen: Chosen, rows: pl.DataFrame) -> Figure:
    """Error over width; `rows`: an SAE a width."""
    return Figure(
        name="error_budget",
        key=(chosen.record["summary_key"], *rows["summary_key"]),
        question="How much of the error does a wider dictionary remove, and which part?",
        caption=budget_caption(chosen, rows),
        chart=lambda: budget_chart(rows, chosen.record),
        data=lambda: budget_table(rows),
    )


def schematic_figure(chosen: Chosen) -> Figure:
    """What dark matter is, with the chosen SAE's numbers."""
    record = chosen.record
    return Figure(
        name="dark_matter",
        key=(record["summary_key"],),
        question="",
        caption="The selected SAE, drawn to scale. All shares are of the activation's variance.",
        chart=lambda: schematic_chart(record["fvu"], record["fvu_nonlinear"]),
        data=lambda: schematic_table(record["fvu"], record["fvu_nonlinear"]),
    )
