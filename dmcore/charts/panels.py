"""Several small panels in one plot, each with its own scale: rows from the top or columns from the left.

One plot, not a concatenation, because a page can then fill its width and hear its clicks. Values are placed along one axis
that runs over all panels, and the axis says the panels' own numbers at its ticks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl

from dmcore.charts.axes import at_ticks, few
from dmcore.charts.labels import decade_ticks

GAP = 0.14
"""Between neighbours, as a share of a panel of size 1."""


@dataclass(frozen=True)
class Panel:
    """One panel and its scale."""

    name: str
    low: float
    high: float
    log: bool = False
    ticks: tuple[float, ...] | None = None
    """Where it has ticks; chosen by itself where none are given."""
    percent: bool = False
    """Ticks are shares, in percent."""
    size: float = 1.0
    """Along the axis, relative to the other panels."""


class Panels:
    """The panels of a plot along one of its axes."""

    def __init__(
        self, panels: Sequence[Panel], *, downwards: bool = False, gap: float = GAP, room: float = 0.0
    ) -> None:
        """Lay out panels from the left, or from the top where `downwards`; `room` is left free at the end."""
        self.panels = list(panels)
        starts, at = [], 0.0
        for panel in panels:
            starts.append(at)
            at += panel.size + gap
        self.total = at - gap
        if downwards:
            starts = [self.total - start - panel.size for start, panel in zip(starts, panels, strict=True)]
        self.starts = dict(zip((p.name for p in panels), starts, strict=True))
        self.domain = [0.0, self.total + room]

    def at(self, panel: Panel, value: float) -> float:
        """Where a value of a panel is along the axis; held inside the panel."""
        low, high = (math.log(panel.low), math.log(panel.high)) if panel.log else (panel.low, panel.high)
        if panel.log:
            value = math.log(value) if value > 0 else low
        return self.starts[panel.name] + panel.size * min(max((value - low) / (high - low), 0.0), 1.0)

    def place(self, table: pl.DataFrame, panel: str, **columns: str) -> pl.DataFrame:
        """The table with new columns: where the values of existing ones are along the axis, null where there is none.

        Args:
            panel: the column that names each row's panel.
            columns: new name = existing name.
        """
        by_name = {p.name: p for p in self.panels}
        names = table[panel].to_list()

        def spots(column: str) -> list[float | None]:
            values = zip(names, table[column].to_list(), strict=True)
            return [None if v is None or not math.isfinite(v) else self.at(by_name[n], v) for n, v in values]

        return table.with_columns(pl.Series(new, spots(old), dtype=pl.Float64) for new, old in columns.items())

    def axis(self, title: str | None, **options: Any) -> dict[str, Any]:
        """`title`, `scale` and `axis` of the channel."""
        labels: dict[str, str] = {}
        for panel in self.panels:
            for tick in self._ticks(panel):
                labels[f"{self.at(panel, tick):.5f}"] = _label(tick, panel.percent)
        axis = alt.Axis(
            **at_ticks([float(place) for place in labels]),
            labelExpr=f"{json.dumps(labels)}[format(datum.value, '.5f')]",
            **({"labelOverlap": False} | options),
        )
        return {"title": title, "axis": axis, "scale": alt.Scale(domain=self.domain, nice=False, zero=False)}

    def spans(self) -> pl.DataFrame:
        """Where each panel starts, ends and has its middle: `name`, `start`, `end`, `middle`."""
        rows = [{"name": p.name, "start": self.starts[p.name], "end": self.starts[p.name] + p.size,
                 "middle": self.starts[p.name] + p.size / 2} for p in self.panels]  # fmt: skip
        return pl.DataFrame(rows)

    @staticmethod
    def _ticks(panel: Panel) -> list[float]:
        if panel.ticks is not None:
            return list(panel.ticks)
        if panel.log:
            return few(decade_ticks(panel.low, panel.high), 6)
        return even_ticks(panel.low, panel.high)


def even_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round ticks of a linear axis within its ends."""
    raw = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(k * unit for k in (1, 2, 5, 10) if k * unit >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def _label(value: float, percent: bool) -> str:
    return f"{100 * value:.3g} %" if percent else f"{value:.6g}"
