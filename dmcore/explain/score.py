"""Detection scores of latents: each is explained, then the explanation is tried on windows of other contexts.

1. The explainer sees training windows and writes a sentence.
2. The scorer sees the sentence and all test windows, of every decile and silent ones, in an order drawn by the seed, so that
   the order tells nothing.
3. A latent's score is the share of windows told rightly.

Each outcome is written down when it is there. A run that is stopped, by the user, a kill or a failure, goes on from these; so
does one with more latents. Protocol: detection scoring as in the paper (over deciles of activation, plus negatives), which
is that of Paulo et al. 2024, Automatically Interpreting Millions of Features in Large Language Models (arXiv 2410.13928).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dmcore.errors import Cancelled, SpecError
from dmcore.explain.examples import FeatureExamples, Window
from dmcore.explain.interface import AnswerError, EndpointError, Explainer, NoAnswerError, Scorer
from dmcore.explain.journal import Journal
from dmcore.explain.score_table import Outcome, failed, outcome_of, score_table
from dmcore.progress import Reporter
from dmcore.store.fingerprint import content_key

VERSION = 1
"""Raised when outcomes change."""
OUTCOMES = "outcomes.jsonl"
"""File of a folder that keeps outcomes."""
MOST_UNANSWERED = 5
"""Latents without an answer, one after the other, after which the endpoint counts as out of order."""


@dataclass(frozen=True)
class _Scored:
    outcome: Outcome
    is_final: bool = True
    """Not so where an answer may come another time."""


def score_features(
    features: Sequence[FeatureExamples],
    explainer: Explainer,
    scorer: Scorer,
    *,
    folder: Path | None = None,
    seed: int = 0,
    n_workers: int = 1,
    reporter: Reporter | None = None,
) -> pl.DataFrame:
    """Explain and score latents.

    Args:
        features: their windows.
        explainer: called from `n_workers` threads.
        scorer: likewise.
        folder: where outcomes are kept, and are looked for; None keeps none.
        seed: of the order in which windows are shown.
        n_workers: latents at a time; an endpoint has its own limit of requests.
        reporter: told of each latent; may cancel.

    Returns:
        The table `SCORES`, a row a latent, in the order of `features`; those that failed say why.

    Raises:
        SpecError: no worker is asked for.
        EndpointError: no latent can succeed; what is done is kept.
        Cancelled: the user asked to stop; what is done is kept.
        StoreError: outcomes cannot be written.
    """
    if n_workers < 1:
        raise SpecError("n_workers must be at least 1.")
    journal, keys = _outcomes_of(features, explainer, scorer, folder, seed)
    outcomes = {n: Outcome.of_record(kept) for n, key in enumerate(keys) if (kept := journal.get(key)) is not None}

    def keep(number: int, scored: _Scored) -> None:
        outcomes[number] = scored.outcome
        if scored.is_final:
            journal.put(keys[number], scored.outcome.record())

    stopped = threading.Event()

    def work(number: int) -> _Scored:
        return _score_one(features[number], explainer, scorer, seed, stopped)

    todo = [number for number in range(len(features)) if number not in outcomes]
    with (reporter or Reporter()).stage("explain and score", len(features), "latents", len(outcomes)) as stage:
        _run(todo, work, keep, stage.advance, n_workers, stopped)
    return score_table(outcomes[number] for number in range(len(features)))


def unanswered(
    features: Sequence[FeatureExamples], explainer: Explainer, scorer: Scorer, folder: Path, seed: int = 0
) -> int:
    """Latents for which `score_features` with the same arguments has kept no outcome: it would ask about them again."""
    journal, keys = _outcomes_of(features, explainer, scorer, folder, seed)
    return sum(journal.get(key) is None for key in keys)


def _outcomes_of(
    features: Sequence[FeatureExamples], explainer: Explainer, scorer: Scorer, folder: Path | None, seed: int
) -> tuple[Journal, list[str]]:
    """Where outcomes are kept, and the key of each latent's."""
    about = {"explainer": dict(explainer.identity), "scorer": dict(scorer.identity), "seed": seed, "version": VERSION}
    keys = [content_key({"features": one.key, **about}) for one in features]
    return Journal(None if folder is None else folder / OUTCOMES), keys


def shown(examples: FeatureExamples, seed: int) -> tuple[list[Window], np.ndarray]:
    """All test windows of a latent in the order in which a scorer sees them, and which window each is."""
    windows = [*examples.test_active, *examples.test_silent]
    order = np.random.default_rng([seed, examples.latent, 5]).permutation(len(windows))
    return [windows[number] for number in order.tolist()], order


def why_not(examples: FeatureExamples) -> str | None:
    """Why a latent has too few windows to be scored; None if it has enough."""
    if not examples.train or not examples.test_active:
        return "It is active in fewer than two contexts: give more texts."
    if not examples.test_silent:
        return "There is no window in which it is silent: give more texts."
    return None


def _score_one(
    examples: FeatureExamples, explainer: Explainer, scorer: Scorer, seed: int, stopped: threading.Event
) -> _Scored:
    reason = why_not(examples)
    if reason is not None:
        return _Scored(failed(examples.latent, reason))
    explanation = None
    try:
        explanation = explainer.explain(examples)
        if stopped.is_set():
            raise Cancelled("Scoring was cancelled.")
        windows, order = shown(examples, seed)
        said = scorer.detect(explanation, windows)
        if len(said) != len(windows):
            raise AnswerError(f"The scorer answered for {len(said)} of {len(windows)} windows: choose another scorer.")
    except AnswerError as error:
        is_final = not isinstance(error, NoAnswerError)
        return _Scored(failed(examples.latent, str(error), explanation), is_final)
    told = np.empty(len(windows), dtype=bool)
    told[order] = said
    n_active = len(examples.test_active)
    return _Scored(outcome_of(examples, explanation, told[:n_active].tolist(), told[n_active:].tolist()))


def _run(
    todo: Sequence[int],
    work: Callable[[int], _Scored],
    keep: Callable[[int, _Scored], None],
    advance: Callable[[int], Any],
    n_workers: int,
    stopped: threading.Event,
) -> None:
    """Work on all of `todo`; whatever ends it, what is done is kept."""
    waiting, unanswered = deque(todo), 0
    pending: dict[Future[_Scored], int] = {}
    pool = ThreadPoolExecutor(n_workers, thread_name_prefix="score")
    try:
        while waiting or pending:
            while waiting and len(pending) < 2 * n_workers:
                number = waiting.popleft()
                pending[pool.submit(work, number)] = number
            done, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=pending.__getitem__):
                scored = future.result()
                keep(pending.pop(future), scored)
                unanswered = 0 if scored.is_final else unanswered + 1
                if unanswered == MOST_UNANSWERED:
                    raise EndpointError(f"{unanswered} latents in a row got no answer. {scored.outcome.failure}")
                advance(1)
            advance(0)
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for future, number in pending.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                keep(number, future.result())
