"""Text of unknown origin in HTML: nothing in it is markup, and nothing in it hides or reorders what stands around it."""

from __future__ import annotations

import html
import re
from typing import Any

from dmcore.legible import visible

_MARKDOWN = re.compile(
    r"\\(?P<plain>.)|\*\*(?P<bold>.+?)\*\*|(?<!\*)\*(?P<slant>[^*]+?)\*|`(?P<code>[^`]+)`|:material/\w+: ?", re.DOTALL
)


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
