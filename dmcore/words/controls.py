"""What the page Controls says in sentences, made from the numbers."""

from __future__ import annotations

from dmcore.results import Controls
from dmcore.results.controls import FAILED, KIND_WORDS, PASSED, UNDECIDED

FEW = 3
"""Controls that are named; of more, the number alone."""


def count_sentence(found: Controls) -> str:
    """`8 of 8 controls of the method passed, 9 of 10 of this SAE and its study.`"""
    return f"{counts_words(found)}."


def counts_words(found: Controls) -> str:
    """`8 of 8 controls of the method passed, 9 of 10 of this SAE and its study`; a kind without any is left out."""
    told = []
    for kind, words in KIND_WORDS.items():
        counts = found.counts_of(kind)
        if total := sum(counts.values()):
            told.append(
                f"{counts[PASSED]} of {total}{' of' if told else ' controls of'} {words}{'' if told else ' passed'}"
            )
    return ", ".join(told) or "No control was made"


def controls_finding(found: Controls) -> str:
    """How many passed, and which did not."""
    sentences = [count_sentence(found)]
    for verdict, words in ((FAILED, "Not passed"), (UNDECIDED, "Undecided")):
        rows = found["controls"].filter(verdict=verdict)["title"].to_list()
        if rows:
            more = f" and {len(rows) - FEW} more" if len(rows) > FEW else ""
            sentences.append(f"{words}: {'; '.join(_small(title) for title in rows[:FEW])}{more}.")
    return " ".join(sentences)


def shuffled_sentence(found: Controls) -> str:
    """That shuffled errors give the known bias, and 0 with a chosen ridge; empty where they do not."""
    rows = found["controls"]
    plain, ridge = (rows.filter(name=name).to_dicts() for name in ("shuffled_vector", "shuffled_vector_ridge"))
    if not plain or not ridge or {plain[0]["verdict"], ridge[0]["verdict"]} != {PASSED}:
        return ""
    d, n = found.about["d_model"], found.about["n_train"]
    return (
        f"Shuffled errors give R² {_signed(plain[0]['value'])}, which is the known bias of held-out least squares "
        f"(−d/(n − d − 1) = {_signed(-d / (n - d - 1))} with d = {d:,}, n = {n:,}), and {_signed(ridge[0]['value'])} with "
        "the ridge chosen by cross-validation."
    )


def sample_sentence(found: Controls) -> str:
    """n and split, as captions end."""
    about = found.about
    of = "" if about["n_contexts"] == about["all_contexts"] else f" of the study's {about['all_contexts']:,}"
    return (
        f"n = {about['n_tokens']:,} tokens in {about['n_contexts']:,}{of} contexts; held out over {about['n_folds']} folds of "
        "whole contexts."
    )


def _small(title: str) -> str:
    return title[:1].lower() + title[1:]


def _signed(value: float) -> str:
    return f"{value:.5f}".replace("-", "−")
