"""Words on controls: stops of the L0 slider say what is at them, and differ."""

from __future__ import annotations

from dmcore.words.names import stops_text


def test_a_stop_says_the_range_of_its_saes() -> None:
    assert stops_text([[4.0], [8.0], [15.2, 15.6, 16.0]]) == ["4", "8", "15 to 16"]


def test_stops_that_would_read_the_same_get_more_digits() -> None:
    assert stops_text([[16.01], [16.4]]) == ["16.01", "16.4"]
