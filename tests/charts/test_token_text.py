"""A token cannot hide, reorder or style what stands around it, whatever its text."""

from __future__ import annotations

import html as stdlib_html
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dmcore.charts.token_text import CUT, cells, html, visible

NASTY = "\u202e\u2066\u200b\u200d\ufeff\u00ad\ufe0f\u0301\u3164\ud800\x00\x1b\x85\n\t\r \u00a0<>&'\"*_`[]$:\\{}#é数א"
TEXTS = st.text(alphabet=st.one_of(st.sampled_from(NASTY), st.characters(exclude_categories=[])), max_size=60)

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"}


def is_plain(text: str) -> bool:
    """Nothing in a text is a control, a bidi control, zero-width, a space or unassigned."""
    return not any(unicodedata.category(c) in HIDDEN or 0xFE00 <= ord(c) < 0xFE10 for c in text)


@given(TEXTS)
@example("\u202eabc")
@example("\u0301" * 30)
@example("a" + "\u0301" * 30)
def test_every_character_can_be_seen(text: str) -> None:
    shown = visible(text)
    assert is_plain(shown)
    assert len(shown) <= CUT
    assert bool(shown) == bool(text)
    assert not shown or unicodedata.category(shown[0])[0] != "M"
    assert max((len(m) for m in runs_of_marks(shown)), default=0) <= 3
    assert not set(shown) & set("\u3164\u2800\u034f")


def runs_of_marks(text: str) -> list[str]:
    kinds = "".join("m" if unicodedata.category(c)[0] == "M" else "." for c in text)
    return re.findall("m+", kinds)


@given(TEXTS)
@example("<script>alert(1)</script>")
@example("&lt;")
def test_html_has_no_markup_of_its_own_and_says_the_visible_text(text: str) -> None:
    escaped = html(text, 99)
    assert is_plain(escaped)
    assert not set(escaped) & set("<>\"'")
    assert not re.search("&(?!(amp|lt|gt|quot|#x27);)", escaped)
    assert stdlib_html.unescape(escaped) == visible(text, 99)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" the\n", "·the↵"),
        ("\tx\r", "⇥x␍"),
        ("\x00\x7f", "␀␡"),
        ("\u202e", "⟨U+202E⟩"),
        ("\ud83d", "⟨?⟩"),
        ("\ufffd", "⟨?⟩"),
        ("\u0301a", "◌\u0301a"),
        ("e\u0301", "e\u0301"),
        ("", ""),
        ("x" * 30, "x" * 23 + "…"),
        ("x" * 20 + "\u200b" * 3, "x" * 20 + "…"),
    ],
)
def test_tokens_are_shown_as_people_write_them(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_wide_letters_take_two_columns_and_marks_none() -> None:
    assert cells("ab") == 2
    assert cells("数学") == 4
    assert cells("e\u0301") == 1
