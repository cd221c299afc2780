"""Pieces of a page that more than one page has: cards, the standard words of a caption, the finding sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from dmcore.charts.numbers import point, span
from dmcore.ui.glossary import TERMS
from dmcore.words.sample import sample_words

__all__ = ["cards", "finding", "sample_words"]


def finding(*sentences: str) -> None:
    """The sentences a page opens with, larger than the rest; nothing where there are none."""
    text = " ".join(sentence for sentence in sentences if sentence)
    if text:
        st.markdown(f"### {text.replace(' %', chr(160) + '%')}")


def cards(values: Mapping[str, Any], shown: Sequence[tuple[str, str, str]]) -> None:
    """A row of numbers with their intervals.

    Args:
        values: holds `<metric>`, `<metric>_low`, `<metric>_high`.
        shown: label, metric and glossary term of each card.
    """
    row = st.container(horizontal=True)
    for label, metric, term in shown:
        triple = [values[f"{metric}{end}"] for end in ("", "_low", "_high")]
        interval = span(*triple[1:])
        row.metric(
            label,
            point(*triple),
            delta=interval or None,
            delta_color="off",
            delta_arrow="off",
            delta_description="95 %" if interval else None,
            help=TERMS[term],
            border=True,
        )
