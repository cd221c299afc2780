"""Tables as text, rounded as pages round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from dmcore.charts.numbers import MISSING, number
from dmcore.words.names import architecture_name, l0_text
from dmcore.words.scaling import triple
from dmcore.words.streams import stream_name

METRICS = {
    "fvu": "FVU",
    "fvu_nonlinear": "Nonlinear FVU",
    "r2_error": "R² of vector, pooled",
    "r2_error_mean_dims": "R² of vector, mean over dims",
    "r2_error_norm_sq": "R² of squared norm",
}
"""Of every SAE, and what pages call them."""


def texts(rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows of cells as a table of texts; what is null is `not computed`."""
    rows = [{k: MISSING if v is None else str(v) for k, v in row.items()} for row in rows]
    return pl.DataFrame(rows, schema=dict.fromkeys(rows[0], pl.String)) if rows else pl.DataFrame()


def shown_texts(table: pl.DataFrame) -> pl.DataFrame:
    """A table as pages show it, as texts: whole numbers with commas, others to four figures."""

    def text(value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, float):
            return f"{value:.4g}"
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

    rows = [{name: text(value) for name, value in row.items()} for row in table.to_dicts()]
    return pl.DataFrame(rows, schema=dict.fromkeys(table.columns, pl.String))


def estimates(table: pl.DataFrame, about: Mapping[str, str], values: Mapping[str, str]) -> pl.DataFrame:
    """A table with its estimates and their intervals in one column each.

    Args:
        table: has `<name>`, `<name>_low` and `<name>_high` of each value.
        about: columns that are shown as they are, and their heads.
        values: estimates, and their heads.
    """
    return texts(
        {head: row[name] for name, head in about.items()}
        | {head: number(*triple(row, name)) for name, head in values.items()}
        for row in table.to_dicts()
    )


def record_rows(records: pl.DataFrame, metrics: Mapping[str, str] = METRICS) -> pl.DataFrame:
    """Every SAE with its numbers and their intervals."""
    return texts(
        {
            "Stream": stream_name(row["stream"]),
            "Layer": row["layer"],
            "Architecture": architecture_name(row["label"]),
            "Width": f"{row['d_sae']:,}",
            "L0": l0_text(row["l0"]),
        }
        | {head: number(*triple(row, name)) for name, head in metrics.items()}
        | {"Dead latents": f"{100 * row['dead_share']:.1f} %", "SAE": row["sae"]}
        for row in records.to_dicts()
    )


def formatted(value: Any, form: str) -> str:
    """A number by a format of the app's tables: `%.3f`, `%.1f %%`, `localized`; text as it is where there is no format."""
    if value is None:
        return ""
    return f"{value:,}" if form == "localized" else form % value if form else str(value)


def with_halves(rows: Sequence[Mapping[str, Any]], looks: Mapping[str, tuple[str, str]]) -> pl.DataFrame:
    """Rows with half the width of an interval after each number that has one, `<name>_half`, as the app's tables have it.

    Args:
        rows: have the names in `looks`, and `<name>_half` of some.
        looks: head and format of each column.
    """

    def cell(row: Mapping[str, Any], name: str, form: str) -> str:
        half = row.get(f"{name}_half")
        shown = formatted(row[name], form)
        if half is None or not shown:
            return shown
        unit = " %" if form.endswith(" %%") else ""
        return f"{shown.removesuffix(unit)} ± {formatted(half, form.removesuffix(' %%'))}{unit}"

    there = [name for name in looks if rows and name in rows[0]]
    return texts({looks[name][0]: cell(row, name, looks[name][1]) for name in there} for row in rows)
