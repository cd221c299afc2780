"""Text of tokens, made visible: a token is data, and none may hide, reorder or style what stands around it.

Letters of scripts that run from right to left keep their own order; `html` isolates nothing, so put each token in its own
element (or in a `<bdi>`) where several share a line.
"""

from __future__ import annotations

import html as _html
import unicodedata

CUT = 24
"""Characters of a token that are shown."""

_NAMED = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍", "\x7f": "␡", "\ufffd": "⟨?⟩"}
_DOTTED_CIRCLE = "◌"
_MOST_MARKS = 3
"""Combining marks on one letter; more would be drawn over the lines around it."""

_INVISIBLE = frozenset(
    {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0}.union(
        range(0x180B, 0x1810), range(0xFE00, 0xFE10), range(0xE0000, 0xE1000)
    )
)
"""Letters and marks that draw nothing, though their category says otherwise."""


def _is_mark(char: str) -> bool:
    return unicodedata.category(char)[0] == "M"


def _shown(char: str) -> str:
    """One character as something that can be seen."""
    if char in _NAMED:
        return _NAMED[char]
    code, category = ord(char), unicodedata.category(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if category == "Cs":
        return "⟨?⟩"
    if category[0] in "CZ" or code in _INVISIBLE:
        return f"⟨U+{code:04X}⟩"
    return char


def _units(text: str) -> list[str]:
    """The text as strings that must not be cut: each a visible character, or the stand-in of one that is not."""
    units: list[str] = []
    marks = 0
    for char in text:
        shown = _shown(char)
        if shown != char or not _is_mark(char):
            marks = 0
        elif not units:
            shown, marks = _DOTTED_CIRCLE + char, 1
        elif marks == _MOST_MARKS:
            shown = f"⟨U+{ord(char):04X}⟩"
        else:
            marks += 1
        units.append(shown)
    return units


def visible(text: str, cut: int = CUT) -> str:
    """The text with spaces, line breaks, controls, bidi and zero-width characters shown, at most `cut` characters long."""
    units = _units(text)
    whole = "".join(units)
    if len(whole) <= cut:
        return whole
    kept = ""
    for unit in units:
        if len(kept) + len(unit) > cut - 1:
            break
        kept += unit
    return kept + "…"


def html(text: str, cut: int = CUT) -> str:
    """`visible`, escaped for HTML, in text or in a quoted attribute."""
    return _html.escape(visible(text, cut), quote=True)


def cells(shown: str) -> int:
    """Columns of a monospace font that a visible text takes: wide characters take two, combining marks none."""
    return sum(0 if _is_mark(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in shown)
