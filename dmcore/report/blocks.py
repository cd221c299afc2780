"""What a section of a report is made of. A section is data: HTML, the archive and the comparison are made from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import polars as pl

from dmcore.errors import DarkMatterError
from dmcore.figures.figure import Figure

T = TypeVar("T")


@dataclass(frozen=True)
class Said:
    """A sentence or more, in the light Markdown of `dmcore.words`."""

    text: str
    finding: bool = False
    """Whether the page opens with it."""


@dataclass(frozen=True)
class Part:
    """Where a part of a section begins: it is in the contents, as views are in a page's."""

    title: str


@dataclass(frozen=True)
class Shown:
    """A chart."""

    figure: Figure
    more: bool = False
    """Whether it is another choice of the one before, which a page shows on demand: folded away."""


@dataclass(frozen=True)
class Numbers:
    """A table."""

    name: str
    """Of its file in the archive, without the ending."""
    title: str
    table: pl.DataFrame
    """As shown: every cell is text, rounded as pages round."""
    caption: str = ""
    data: pl.DataFrame | None = None
    """As computed, for the archive; None for the table as shown."""


@dataclass(frozen=True)
class Missing:
    """What an unfinished study lacks, in its place: a sentence with the command that makes it."""

    text: str


@dataclass(frozen=True)
class Code:
    """Text to be copied."""

    name: str
    title: str
    text: str


Block = Part | Said | Shown | Numbers | Missing | Code


@dataclass(frozen=True)
class Section:
    """What a report says of one question."""

    name: str
    """Of its link; letters only."""
    title: str
    blocks: tuple[Block, ...]

    def of(self, kind: type[T]) -> Iterator[T]:
        """Its blocks of one kind."""
        return (block for block in self.blocks if isinstance(block, kind))


def part(title: str, blocks: Iterable[Block]) -> list[Block]:
    """Blocks as a part of a section; nothing where there are none."""
    found = list(blocks)
    return [Part(title), *found] if found else []


def choices(figures: Iterable[Figure]) -> list[Block]:
    """A chart, and other choices of it folded away."""
    return [Shown(figure, more=k > 0) for k, figure in enumerate(figures)]


def said(*texts: str, finding: bool = False) -> list[Block]:
    """The sentences that are not empty."""
    return [Said(text, finding) for text in texts if text]


def not_made(what: str, command: str) -> Missing:
    """What has not been made, and the command that makes it; `what` begins a sentence: "The features of this SAE have"."""
    return Missing(f"{what} not been made yet: run `python -m dmcore {command.replace('`', chr(39))}`.")


def unreadable(error: DarkMatterError) -> Missing:
    """A failure to read, in its place."""
    return Missing(str(error))
