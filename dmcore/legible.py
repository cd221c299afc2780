"""Text of unknown origin as what it is: no character of it acts on a screen, hides, or reorders what stands around it.

A study's title, an SAE's folder, a model's id or an error message may hold control characters (a terminal obeys them), the
direction overrides of Unicode (`\\u202e` turns the rest of a line round) or characters of no width. They are shown by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

KEPT = "\n\xa0"
"""Characters that are not printable to Python and harmless on a page."""
_HIDDEN = r"[\p{C}\p{Z}--[ \n\x{A0}]]"
"""Whatever may be hidden in a column, for polars: at least what `visible` would show."""


def visible(text: str, kept: str = KEPT) -> str:
    """The text with control, direction and other invisible characters as their names: `⟨U+202E⟩`.

    Args:
        text: of any origin.
        kept: characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else f"⟨U+{ord(c):04X}⟩" for c in text)


def for_terminal(text: str) -> str:
    """The same for a terminal, which lines and tabs may shape."""
    return visible(text, "\n\t\xa0")


def cleaned(spec: Any) -> Any:
    """A chart's spec, or any nest of lists and tables, with all of its texts visible."""
    if isinstance(spec, str):
        return visible(spec)
    if isinstance(spec, list):
        return [cleaned(one) for one in spec]
    if isinstance(spec, dict):
        return {cleaned(key): cleaned(value) for key, value in spec.items()}
    return spec


def visible_table(table: pl.DataFrame) -> pl.DataFrame:
    """A table with every text in its columns visible."""
    import polars as pl

    texts = [name for name, kind in table.schema.items() if kind == pl.String]
    hidden = [name for name in texts if table[name].str.contains(_HIDDEN).any()]
    return table.with_columns(
        pl.Series(name, [None if text is None else visible(text) for text in table[name]], dtype=pl.String)
        for name in hidden
    )
