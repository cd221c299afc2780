from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from dmcore.words.paired import equal_l0_ratios, paired_ratio
from tests.pages.fake_results import fake_published


def test_a_paired_ratio_is_taken_draw_by_draw_and_cancels_what_the_draws_share() -> None:
    published = fake_published()
    one, other = (published.summary(published.records["summary_key"][k]) for k in (0, 1))
    rng = np.random.default_rng(0)
    shared = np.exp(rng.normal(0, 0.3, 1000))
    one = replace(one, record=one.record | {"fvu": 0.2}, replicates=pl.DataFrame({"fvu": 0.2 * shared}))
    other = replace(other, record=other.record | {"fvu": 0.1}, replicates=pl.DataFrame({"fvu": 0.1 * shared}))
    ratio = paired_ratio(one, other, "fvu")
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0))


def test_without_matching_draws_there_is_a_ratio_and_no_interval() -> None:
    published = fake_published()
    one, other = (published.summary(published.records["summary_key"][k]) for k in (0, 1))
    short = replace(other, replicates=other.replicates.head(100))
    ratio = paired_ratio(one, short, "fvu")
    assert ratio.value == pytest.approx(one.record["fvu"] / other.record["fvu"])
    assert math.isnan(ratio.low)


def test_a_zero_below_gives_no_number_instead_of_an_error() -> None:
    published = fake_published()
    one = published.summary(published.records["summary_key"][0])
    none = replace(one, record=one.record | {"fvu": 0.0})
    assert not math.isfinite(paired_ratio(one, none, "fvu").value)


class Ladder:
    """Summaries whose replicates share one factor, in place of a page's selection."""

    def __init__(self, records: pl.DataFrame, metric: str, *, short: str = "") -> None:
        shared = np.exp(np.random.default_rng(0).normal(0, 0.3, 1000))
        self._replicates = {
            row["summary_key"]: pl.DataFrame({metric: row[metric] * shared[: 100 if row["label"] == short else None]})
            for row in records.to_dicts()
        }

    def summary_of(self, record: dict[str, Any]) -> Any:
        return SimpleNamespace(replicates=self._replicates[record["summary_key"]])


def ladder(*points: tuple[str, float, float]) -> pl.DataFrame:
    rows = [
        {"summary_key": f"{label}{l0}", "label": label, "l0": l0, "fvu": v, "fvu_low": v * 0.9, "fvu_high": v * 1.1}
        for label, l0, v in points
    ]
    return pl.DataFrame(rows)


def test_architectures_are_compared_at_equal_l0_on_paired_draws() -> None:
    records = ladder(("a", 10.0, 0.4), ("a", 40.0, 0.2), ("a", 90.0, 0.1), ("b", 20.0, 0.3), ("b", 100.0, 0.3))
    inside, outside = equal_l0_ratios(Ladder(records, "fvu"), records, "fvu")
    # Halfway between L0 10 and 40 on a log scale the line through 0.4 and 0.2 is at their geometric mean.
    expected = 0.3 / (0.4 * 0.2) ** 0.5
    assert (inside.reference, inside.label, inside.l0) == ("a", "b", 20.0)
    assert inside.ratio is not None
    assert inside.ratio == pytest.approx(expected)
    assert (inside.ratio.low, inside.ratio.high) == pytest.approx((expected, expected)), "what all draws share cancels"
    assert outside.ratio is None


def test_equal_l0s_of_the_reference_and_unpaired_draws_give_no_nonsense() -> None:
    records = ladder(("a", 10.0, 0.4), ("a", 10.0, 0.4), ("b", 10.0, 0.3))
    assert equal_l0_ratios(Ladder(records, "fvu"), records, "fvu")[0].ratio is None
    records = ladder(("a", 10.0, 0.4), ("a", 40.0, 0.2), ("b", 20.0, 0.3))
    (unpaired,) = equal_l0_ratios(Ladder(records, "fvu", short="b"), records, "fvu")
    assert unpaired.ratio is not None and math.isnan(unpaired.ratio.low)
