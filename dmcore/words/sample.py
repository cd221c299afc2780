"""n and split, as captions end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def sample_words(record: Mapping[str, Any]) -> str:
    """n and split, as captions end: `n = 72,000 tokens in 300 contexts (first 16 positions skipped); held out over ...`"""
    skip = record["skip_positions"]
    skipped = "" if not skip else " (first position skipped)" if skip == 1 else f" (first {skip} positions skipped)"
    return (
        f"n = {record['n_tokens']:,} tokens in {record['n_contexts']:,} contexts{skipped}; held out over {record['n_folds']} "
        "folds of whole contexts."
    )
