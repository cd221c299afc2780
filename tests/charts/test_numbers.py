from __future__ import annotations

import math

import pytest

from dmcore.charts.numbers import MISSING, compact, decimals_for, number, percent, point, span, times


@pytest.mark.parametrize(
    ("triple", "text"),
    [
        ((0.12134, 0.1181, 0.1243), "0.121 (0.118 to 0.124)"),
        ((0.12134, 0.11, 0.13), "0.121 (0.110 to 0.130)"),  # half width 0.01: its first digit is 1, so one more is kept
        ((0.5, 0.1, 0.9), "0.5 (0.1 to 0.9)"),
        ((-0.00001, -0.002, 0.002), "0.000 (-0.002 to 0.002)"),
        ((0.5, 0.5, 0.5), "0.5000 (0.5000 to 0.5000)"),
        ((1234.5, 1100.0, 1300.0), "1,234 (1,100 to 1,300)"),
        ((0.5, None, None), "0.500"),
        ((0.0123456, math.nan, math.nan), "0.0123"),
        ((None, 0.1, 0.2), MISSING),
        ((math.nan, 0.1, 0.2), MISSING),
    ],
)
def test_a_number_has_the_digits_that_its_interval_supports(triple: tuple, text: str) -> None:
    assert number(*triple) == text


@pytest.mark.parametrize(
    ("triple", "text"),
    [
        ((0.35, 0.33, 0.37), "35 % (33 to 37)"),
        ((0.352, 0.339, 0.366), "35.2 % (33.9 to 36.6)"),
        ((0.84, 0.82, 0.86), "84 % (82 to 86)"),
        ((1.002, 0.98, 1.03), "100 % (98 to 103)"),
        ((0.84123, 0.84120, 0.84126), "84.12 % (84.12 to 84.13)"),
        ((0.25, None, None), "25.0 %"),
        ((None, None, None), MISSING),
    ],
)
def test_a_share_is_a_percentage_with_its_interval(triple: tuple, text: str) -> None:
    assert percent(*triple) == text


def test_point_and_span_are_the_two_halves_of_number() -> None:
    triple = (0.12134, 0.1181, 0.1243)
    assert number(*triple) == f"{point(*triple)} ({span(*triple[1:])})"
    assert span(None, None) == ""


def test_rounding_never_moves_an_end_by_more_than_a_quarter_of_the_half_width() -> None:
    for k in range(1, 400):
        half = 0.00031 * 1.02**k
        if half > 0.5:
            break
        low, high = 0.4 - half, 0.4 + half
        decimals = decimals_for(low, high)
        assert abs(round(low, decimals) - low) <= 0.27 * half


def test_sizes_in_words() -> None:
    assert [times(x) for x in (16, 1.5, 2.02, 219.3)] == ["16 times", "1.5 times", "2 times", "219 times"]
    assert [compact(x) for x in (256, 4096, 1048576)] == ["256", "4,096", "1.05M"]
