"""What the view Transfer says in sentences, made from the numbers; and what it calls the members of a matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from dmcore.charts.numbers import compact, fixed, percent
from dmcore.results.transfer import ALL_TEXTS, Transfer
from dmcore.words.names import architecture_name, l0_text, plain
from dmcore.words.sample import sample_words
from dmcore.words.scaling import triple

PAIRS = {"domain": "texts", "layer": "layers", "sae": "SAEs of this site", "width": "widths"}


def member_labels(found: Transfer) -> list[str]:
    """What a matrix calls its members, by number; no two alike."""
    labels = [_label(found.by, row) for row in found["members"].sort("member").to_dicts()]
    seen: dict[str, int] = {}
    distinct = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        distinct.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return distinct


def _label(by: str, row: Mapping[str, Any]) -> str:
    if by == "domain":
        name = str(row["name"])
        return name if len(name) <= 40 else f"{name[:39]}…"
    if by == "layer":
        return f"layer {row['layer']}"
    if by == "width":
        return f"{compact(row['d_sae'])} latents"
    return f"{architecture_name(row['label'])} {compact(row['d_sae'])}, L0 {l0_text(row['l0'])}"


def transfer_sentence(found: Transfer) -> str:
    """What is left of R2 where a map was fitted elsewhere: the median pair, the best and the worst."""
    whole = found.off_diagonal("map").filter(pl.col("relative").is_not_null()).sort("relative")
    if whole.is_empty():
        return ""
    labels = [plain(label) for label in member_labels(found)]
    best = whole.row(-1, named=True)
    between = PAIRS[found.by]
    middle, lower, upper = (float(whole["relative"].quantile(q, "linear")) for q in (0.5, 0.25, 0.75))  # type: ignore[arg-type]
    lost = len(whole.filter(pl.col("r2_high") < 0))
    said = [
        f"Between {between}, the median pair keeps {fixed(100 * middle, 0)} % of what a map fitted there explains (half of all "
        f"pairs: {fixed(100 * lower, 0)} to {fixed(100 * upper, 0)} %); at best, "
        f"{percent(*triple(best, 'relative'))} ({labels[best['fitted']]} on {labels[best['tested']]})."
        if middle > 0
        else f"Between {between}, maps do not hold: the median pair explains nothing; at best, "
        f"{percent(*triple(best, 'relative'))} of what a map fitted there explains "
        f"({labels[best['fitted']]} on {labels[best['tested']]})."
    ]
    if lost:
        said.append(f"In {lost:,} of {len(whole):,} pairs a map is worse than none, beyond doubt.")
    scaled = found.off_diagonal("scaled").filter(pl.col("relative").is_not_null())
    if len(scaled):
        kept = float(scaled["relative"].median())  # type: ignore[arg-type]
        said.append(f"The slope up to one number keeps {fixed(100 * kept, 0)} %.")
    return " ".join(said)


def all_texts_sentence(found: Transfer) -> str:
    """What the one map of all texts explains of single ones, beside their own."""
    members = found["members"]
    whole = members.filter(pl.col("name") == ALL_TEXTS)["member"].to_list() if found.by == "domain" else []
    if not whole:
        return ""
    rows = found["cells"].filter(
        (pl.col("fitted") == whole[-1]) & (pl.col("tested") != whole[-1]) & (pl.col("kept") == "map")
    )
    rows = rows.filter(pl.col("relative").is_not_null())
    if rows.is_empty():
        return ""
    values = rows["relative"]
    low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
    return f"The one map of all texts explains {percent(low)} to {percent(high)} of what their own maps do."


def transfer_remarks(found: Transfer) -> list[str]:
    """Sentences in place of what could not be said."""
    return [plain(text) for text in found["remarks"]["text"].unique(maintain_order=True)]


def transfer_sample(found: Transfer) -> str:
    """n and split, as captions end."""
    return sample_words(found.about)
