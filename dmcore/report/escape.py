"""Text of unknown origin in HTML: nothing in it is markup, and nothing in it hides or reorders what stands around it."""

from __future__ import annotations

import html
import re
from typing import Any

KEPT = "\n\xa0"
"""Characters that are not printable to Python and harmless here."""
_MARKDOWN = re.compile(
    r"\\(?P<plain>.)|\*\*(?P<bold>.+?)\*\*|(?<!\*)\*(?P<slant>[^*]+?)\*|`(?P<code>[^`]+)`|:material/\w+: ?", re.DOTALL
)


def visible(text: str) -> str:
    """The text with control, direction and other invisible characters as their names."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in KEPT else f"⟨U+{ord(c):04X}⟩" for c in text)


def escape(text: Any) -> str:
    """Text as HTML that shows it as it is."""
    return html.escape(visible(str(text)), quote=True)


def inline(text: str) -> str:
    """The light Markdown of `dmcore.words` as HTML: escapes by a backslash, **bold**, *slanted*, `code`; all else is text."""
    made, at = [], 0
    for found in _MARKDOWN.finditer(text):
        made.append(escape(text[at : found.start()]))
        at = found.end()
        if found["plain"] is not None:
            made.append(escape(found["plain"]))
        for group, tag in (("bold", "strong"), ("slant", "em"), ("code", "code")):
            if found[group] is not None:
                content = escape(found[group]) if tag == "code" else inline(found[group])
                made.append(f"<{tag}>{content}</{tag}>")
    return "".join([*made, escape(text[at:])]).replace(" %", "\xa0%")


def unmarked(text: str) -> str:
    """The same as plain text, for a file that is read as it is."""
    return _MARKDOWN.sub(lambda m: m["plain"] or m["bold"] or m["slant"] or m["code"] or "", text)


def cleaned(spec: Any) -> Any:
    """A chart's spec with all of its texts visible."""
    if isinstance(spec, str):
        return visible(spec)
    if isinstance(spec, list):
        return [cleaned(one) for one in spec]
    if isinstance(spec, dict):
        return {cleaned(key): cleaned(value) for key, value in spec.items()}
    return spec
