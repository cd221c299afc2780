"""The sentences of `dmcore.words.scaling` that other pages use too."""

from __future__ import annotations

from dmcore.words.scaling import l0_span, p_text, parameter, row_of, triple

__all__ = ["l0_span", "p_text", "parameter", "row_of", "triple"]
