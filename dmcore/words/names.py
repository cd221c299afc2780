"""How the pages name things: controls, architectures, widths, lists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dmcore.charts.numbers import compact
from dmcore.legible import visible
from dmcore.words.streams import AGAIN

ARCHITECTURE_NAMES = {
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "standard": "Standard (L1)",
    "jumprelu": "JumpReLU",
    "gated": "Gated",
    "matryoshka": "Matryoshka",
    "matching_pursuit": "Matching pursuit",
}


_MARKS = re.compile(r"([\\`*_{}\[\]()#+!|<>~$:.&-])")
_ADDRESS = re.compile(r"((?:https?://|www\.)[^\s`]+|[^\s`@]{1,64}@[^\s`]*\.[^\s`]+)", re.IGNORECASE)
"""What Markdown makes a link of by itself, whatever is escaped in it: addresses of the web and of people."""


def plain(text: str) -> str:
    """Text of a study (a title, a model, an architecture) for Markdown, where it must show as what it is, on one line.

    An address becomes code, because nothing else keeps it from becoming a link.
    """
    parts = _ADDRESS.split(visible(re.sub(r"\s*\n\s*", " ", text)))
    return "".join(f"`{part}`" if i % 2 else _MARKS.sub(r"\\\1", part) for i, part in enumerate(parts))


def short(text: str, most: int = 160) -> str:
    """A title or a name of a length that leaves room for what it is the title of."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def sentence(text: str) -> str:
    """What an error says, for Markdown: a command between backticks stays code, all else is text."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return plain(text)
    return "".join(f"`{visible(part)}`" if i % 2 and part else plain(part) for i, part in enumerate(parts))


def architecture_name(label: str) -> str:
    """`TopK`; `TopK (2)` for the second of several that controls and links could not tell apart otherwise."""
    name, _, number = label.partition(AGAIN)
    return ARCHITECTURE_NAMES.get(name, name) + (f" ({number})" if number else "")


def sae_phrase(record: Mapping[str, Any]) -> str:
    """`TopK, 1,024 latents, L0 16`."""
    return (
        f"{plain(architecture_name(record['label']))}, {compact(record['d_sae'])} latents, L0 {l0_text(record['l0'])}"
    )


def l0_text(l0: float) -> str:
    """`16`, `4.2`."""
    return f"{l0:.0f}" if l0 >= 9.95 or abs(l0 - round(l0)) < 0.05 else f"{l0:.1f}"


def stops_text(stops: Iterable[Iterable[float]]) -> list[str]:
    """The stops of the L0 control, each the L0s of its SAEs, as texts that differ: `4`, `8`, `15 to 16`."""
    spans = [sorted(stop) for stop in stops]
    ends = [(l0_text(span[0]), l0_text(span[-1])) for span in spans]
    texts = [low if low == high else f"{low} to {high}" for low, high in ends]
    return texts if len(set(texts)) == len(texts) else distinct(span[len(span) // 2] for span in spans)


def distinct(values: Iterable[float]) -> list[str]:
    """L0s as texts that differ from each other, with no more digits than that takes."""
    values = list(values)
    for texts in ([l0_text(v) for v in values], [f"{v:.4g}" for v in values], [f"{v:.6g}" for v in values]):
        if len(set(texts)) == len(texts):
            return texts
    return [f"{value:.4g} ({k})" for k, value in enumerate(values, 1)]


def listed(items: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    items = list(items)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def ago_text(seconds: float) -> str:
    """`just now`, `5 min ago`, `3 h ago`, `2 days ago`."""
    for limit, size, unit in ((60, 0, ""), (3600, 60, "min"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{seconds // size:.0f} {unit} ago" if size else "just now"
    days = int(seconds // 86400)
    return f"{days} day{'s' if days > 1 else ''} ago"
