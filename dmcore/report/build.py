"""A report: its sections in their order. Another topic is another file of `dmcore.report.sections` and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dmcore.report.blocks import Section
from dmcore.report.sections import (
    claims,
    controls,
    downstream,
    nonlinear,
    origin,
    overview,
    reduction,
    regression,
    scaling,
    shrinkage,
    synthetic,
)
from dmcore.report.subject import Subject

SECTIONS: tuple[Callable[[Subject], Section], ...] = (
    overview.section,
    regression.section,
    scaling.section,
    nonlinear.section,
    reduction.section,
    downstream.section,
    shrinkage.section,
    controls.section,
    synthetic.section,
    claims.section,
    origin.section,
)
"""Each makes one section; order of the report. That of the origin is last: it lists what the others have read."""


Told = Callable[[str, int, int], None]
"""Called with what is drawn, how many charts have been, and how many there are."""


@dataclass(frozen=True)
class Report:
    """What is sent."""

    subject: Subject
    sections: tuple[Section, ...]


def build(subject: Subject) -> Report:
    """The report of a subject.

    Raises:
        StoreError: the results of its SAE are missing or damaged.
    """
    return Report(subject, tuple(make(subject) for make in SECTIONS))
