"""Scores without a language model: how well do simple patterns of the text tell where a latent is active?

For each latent, from its training windows alone:

1. a logistic regression over hashed patterns (`dmcore.explain.patterns`: the token, the one before, pairs, kinds, place) and
   character n-grams of the peak and the 4 tokens before it;
2. the best single pattern, in words: the explanation.

Both are tried on the test windows, of other contexts. The latents of two dictionaries can so be compared on a laptop. The
scores are no upper bound of what a language model could explain. Equal inputs give equal numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dmcore.explain.examples import FeatureExamples, Window
from dmcore.explain.patterns import N_BEFORE, best_pattern, holds, patterns_of
from dmcore.explain.score import why_not
from dmcore.explain.score_table import Outcome, failed, outcome_of, score_table
from dmcore.progress import Reporter
from dmcore.results.detection import OFFLINE

N_HASHED = 2**16
"""Columns that patterns and n-grams are hashed to."""
N_GRAM = (2, 3, 4)
"""Characters."""
N_GRAM_WEIGHT = 0.3
"""Of an n-gram, where a pattern weighs 1: a window has about ten times as many."""
PENALTY = 1.0
"""`C` of `sklearn.linear_model.LogisticRegression`."""


def score_offline(features: Sequence[FeatureExamples], reporter: Reporter | None = None) -> pl.DataFrame:
    """Score latents by what is learned from their training windows.

    Args:
        features: their windows; those of training need silent ones.
        reporter: told of each latent; may cancel.

    Returns:
        The table `OFFLINE`, a row a latent, in the order of `features`; those that failed say why.

    Raises:
        Cancelled: the user asked to stop. Nothing is kept: a thousand latents take a minute.
    """
    learned, single = [], []
    with (reporter or Reporter()).stage("score by patterns", len(features), "latents") as stage:
        for examples in features:
            by_model, by_pattern = _score_one(examples)
            learned.append(by_model)
            single.append(by_pattern)
            stage.advance()
    names = ("accuracy", "balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high")
    of_pattern = score_table(single).select(pl.col(name).alias(f"pattern_{name}") for name in names)
    return pl.concat([score_table(learned), of_pattern], how="horizontal").select(
        pl.col(name).cast(dtype) for name, dtype in OFFLINE.items()
    )


def _score_one(examples: FeatureExamples) -> tuple[Outcome, Outcome]:
    reason = why_not(examples)
    if reason is None and not examples.train_silent:
        reason = "There is no training window in which it is silent: give more texts."
    if reason is not None:
        return failed(examples.latent, reason), failed(examples.latent, reason)
    pattern = best_pattern(examples.train, examples.train_silent)
    test = [*examples.test_active, *examples.test_silent]
    n_active = len(examples.test_active)
    scores = learn(examples.train, examples.train_silent, test)
    auc = float(roc_auc_score(np.arange(len(test)) < n_active, scores))
    told, held = (scores > 0).tolist(), holds(pattern, test).tolist()
    return (
        outcome_of(examples, pattern.words, told[:n_active], told[n_active:], auc),
        outcome_of(examples, pattern.words, held[:n_active], held[n_active:]),
    )


def learn(active: Sequence[Window], silent: Sequence[Window], test: Sequence[Window]) -> np.ndarray:
    """(n_test,) log odds that a latent is active at each test window's peak; both classes count the same in training.

    Equivalent to `LogisticRegression(class_weight="balanced")` over `FeatureHasher`.
    """
    hasher = FeatureHasher(N_HASHED, input_type="pair", alternate_sign=False)
    known = hasher.transform(_weighted(window) for window in [*active, *silent])
    model = LogisticRegression(C=PENALTY, class_weight="balanced", solver="liblinear", random_state=0)
    model.fit(known, np.arange(len(active) + len(silent)) < len(active))
    return model.decision_function(hasher.transform(_weighted(window) for window in test))


def _weighted(window: Window) -> Iterator[tuple[str, float]]:
    """Patterns and n-grams of a window's peak with their weights, in a fixed order."""
    for pattern in sorted(patterns_of(window), key=lambda one: one.words):
        yield pattern.words, 1.0
    text = "".join(window.tokens[max(window.peak - N_BEFORE, 0) : window.peak + 1])
    for n_gram in sorted({text[at : at + n] for n in N_GRAM for at in range(len(text) - n + 1)}):
        yield f"n-gram {n_gram}", N_GRAM_WEIGHT
