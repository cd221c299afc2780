from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from dmcore.ui.paired import paired_ratio
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
