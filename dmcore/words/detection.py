"""What the view *Detection scores* says in sentences and tables, made from the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import polars as pl

from dmcore.charts.numbers import percent
from dmcore.charts.token_text import visible
from dmcore.explain.compare import beside, difference
from dmcore.results import Detection, Parts
from dmcore.results.detection import PATTERNS
from dmcore.words.names import listed, plain
from dmcore.words.parts import NAMES
from dmcore.words.scaling import triple

FEW = 10
"""Silent windows of a latent below which its score says little; captions count such latents."""


MOST = 300
"""Characters of an explanation that are shown."""


HOW = {
    PATTERNS: "A logistic regression over simple patterns of the text (the token, the four before it, their kinds and letters) "
    "learns from some windows of a latent and is tried on others, of other contexts. It is told at which token to look. A "
    "language model may explain what it cannot, so this is no upper bound."
}


def of_parts(found: Sequence[Detection], parts: Parts | None) -> list[Detection]:
    """Those of the SAEs on parts that are shown, in their order."""
    entries = [] if parts is None else list(parts.about["entries"])
    there = [one for one in found if one.about["part"] in entries]
    return sorted(there, key=lambda one: entries.index(one.about["part"]))


def scored_by(found: Sequence[Detection], scorer: str) -> list[Detection]:
    """Those of one scorer that scored any latent."""
    return [one for one in found if one.about["scorer"] == scorer and one.about["n_scored"]]


def scorer_words(scorer: str) -> str:
    """Who scored, as a sentence says it."""
    return "simple patterns of the text" if scorer == PATTERNS else plain(scorer)


def detection_finding(found: Sequence[Detection], parts: Parts | None, scorer: str) -> str:
    """How well latents of the parts are told, or those of the selected SAE where no part was scored."""
    own = scored_by(found, scorer)
    table = beside(of_parts(own, parts)).filter((pl.col("measure") == "balanced_accuracy") & pl.col("seed").is_null())
    rows = {row["part"]: row for row in table.to_dicts()}
    told = [
        f"{percent(rows[part]['value'], rows[part]['low'], rows[part]['high'])} for SAEs on {NAMES[part]}"
        for part in ("x", "linear", "nonlinear")
        if part in rows
    ]
    if not told:
        told = [
            f"{percent(*triple(one.mean('balanced_accuracy'), 'value'))} for this SAE"
            for one in own
            if one.about["part"] is None
        ]
    if not told:
        return ""
    return (
        f"From {scorer_words(scorer)}, latents are told with a balanced accuracy of {listed(told)}; guessing has 50 %."
    )


def harder_sentence(found: Sequence[Detection]) -> str:
    """Whether latents of the nonlinear error are harder to tell than those of the linear one, and what the interval covers."""
    gap = difference(found, "linear", "nonlinear")
    if math.isnan(gap):
        return ""
    size, *ends = (100 * value for value in (gap, gap.low, gap.high))
    if math.isnan(gap.low):
        points = f"{abs(size):.1f} points {'less' if size > 0 else 'more'}"
        return f"Nonlinear less linear: {points} balanced accuracy, from one seed of a part: without an interval."
    if ends[0] > 0 or ends[1] < 0:
        low, high = sorted(map(abs, ends))
        verb = "harder" if size > 0 else "easier"
        said = (
            f"Latents of the nonlinear error are **{verb} to tell** than those of the linear error, by {abs(size):.1f} points "
            f"of balanced accuracy ({low:.1f} to {high:.1f})."
        )
    else:
        said = (
            "Latents of the nonlinear error may be **as easy to tell** as those of the linear error: linear less nonlinear is "
            f"{size:.1f} points of balanced accuracy ({ends[0]:.1f} to {ends[1]:.1f})."
        )
    return (
        f"{said} The interval is Welch's t over seeds: it covers the seed of training and the draw of latents, not the choice of "
        "texts, which all share."
    )


def sample_of(found: Sequence[Detection]) -> str:
    numbers = sorted({one.about["n_scored"] for one in found})
    each = f"{numbers[0]:,}" if len(numbers) == 1 else f"{numbers[0]:,} to {numbers[-1]:,}"
    failed = sum(one.about["n_failed"] for one in found)
    without = f", {failed:,} without a score in all" if failed else ""
    which = " of each SAE" if len(found) > 1 else ""
    few = sum(int((one["scores"]["n"] - one["scores"]["n_active"] < FEW).sum()) for one in found) - failed
    thin = f", {few:,} with fewer than {FEW} silent windows" if few else ""
    return f"n = {each} random latents{which}{without}{thin}; {plain(found[0].about['protocol'])}."


def latent_rows(one: Detection) -> pl.DataFrame:
    """The latents that were scored, the best told first, as the page shows them; a table shows text as text."""
    rows = one["scores"].filter(pl.col("failure").is_null())
    rows = rows.sort("balanced_accuracy", "latent", descending=[True, False])
    return rows.select(
        "latent",
        pl.col("balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high") * 100,
        *([] if rows["auc"].null_count() == len(rows) else ["auc"]),
        *([] if one.about["scorer"] != PATTERNS else [pl.col("pattern_balanced_accuracy") * 100]),
        explanation=pl.Series([legible(text or "") for text in rows["explanation"]], dtype=pl.String),
    )


def legible(text: str) -> str:
    """Text of unknown origin, cut, with what cannot be seen shown; to be drawn as code or in a table, where it is inert."""
    cut = text if len(text) <= MOST else f"{text[:MOST]}…"
    return "".join(char if char.isprintable() else visible(char) for char in cut)
