"""Which contexts SAEs are trained on: never those that the study measures on, and a few kept apart for the curve."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from dmcore.errors import SpecError
from dmcore.progress import Reporter
from dmcore.sources.contexts import Contexts, TooFewTextsError, load_contexts
from dmcore.specs import Study, TextsSpec
from dmcore.store.store import Store

log = logging.getLogger(__name__)

HELD_OUT_SHARE, HELD_OUT_CONTEXTS = 0.05, 64
"""Share of the training contexts that is never trained on, and the most of them."""
LEAST_CONTEXTS, LEAST_HELD_OUT = 4, 8
"""Fewer contexts are an error; fewer are held out only where that would be more than a quarter of them."""
HELD_OUT_FLOATS = 2**28
"""Most numbers of held-out activations, over all hooks."""


@dataclass(frozen=True)
class TrainingTexts:
    """The contexts of a training."""

    contexts: Contexts
    """All."""
    train: np.ndarray
    """Numbers of those trained on."""
    held_out: np.ndarray
    """Numbers of those on which FVU and L0 are measured: the last ones."""
    skip_positions: int
    """First positions of each that are left out, as in the study."""

    @property
    def used_length(self) -> int:
        """Tokens that a context gives."""
        return self.contexts.length - self.skip_positions

    def epochs(self, tokens: int) -> float:
        """How many times so many training tokens go through the contexts."""
        return tokens / (len(self.train) * self.used_length)


def training_spec(study: Study, tokens: int) -> TextsSpec:
    """The texts to train on: the study's `[train.texts]`, or its own source after what it measures on.

    Raises:
        SpecError: the study's texts are a folder of tokens, of which none are left to train on.
    """
    if study.train and study.train.texts:
        return study.train.texts
    own = study.texts
    if own.path:
        raise SpecError(
            "The study measures on all contexts of its folder of tokens, so none are left to train on: "
            "add a [train.texts] table with path, files or dataset (on the command line, --texts)."
        )
    used = own.context_length - study.settings.skip_positions
    if used < 1:
        raise SpecError(
            f"skip_positions is {study.settings.skip_positions}, but contexts have {own.context_length} tokens: lower it."
        )
    needed = -(-tokens // used) + HELD_OUT_CONTEXTS
    return replace(own, skip_contexts=own.skip_contexts + own.n_contexts, n_contexts=needed)


def training_texts(study: Study, tokens: int, store: Store, reporter: Reporter) -> TrainingTexts:
    """Find or make the contexts of a training of so many tokens.

    Raises:
        SpecError: there are too few, or nearly all are contexts that the study measures on.
    """
    contexts = _as_many_as_there_are(study, training_spec(study, tokens), store, reporter)
    measured = load_contexts(study, store, reporter)
    if study.settings.skip_positions >= contexts.length:
        raise SpecError(
            f"skip_positions is {study.settings.skip_positions}, but training contexts have {contexts.length} tokens: "
            "lower it, or raise context_length."
        )
    usable = _not_measured(contexts, measured)
    if len(usable) < LEAST_CONTEXTS:
        raise SpecError(
            f"There are {len(usable)} contexts to train on, which is too few: give [train.texts] at least {LEAST_CONTEXTS}."
        )
    share = max(int(HELD_OUT_SHARE * len(usable)), min(LEAST_HELD_OUT, len(usable) // 4))
    n_held_out = min(HELD_OUT_CONTEXTS, share)
    train, held_out = usable[:-n_held_out], usable[-n_held_out:]
    return TrainingTexts(contexts, train, held_out, study.settings.skip_positions)


def _as_many_as_there_are(study: Study, texts: TextsSpec, store: Store, reporter: Reporter) -> Contexts:
    """The contexts asked for, or fewer where the texts give fewer: training goes through them more often then."""
    try:
        return load_contexts(study, store, reporter, texts=texts)
    except TooFewTextsError as error:
        if error.made < 1:
            raise
        log.warning("The training texts give %s contexts, not %s.", f"{error.made:,}", f"{texts.n_contexts:,}")
        return load_contexts(study, store, reporter, texts=replace(texts, n_contexts=error.made))


def _not_measured(contexts: Contexts, measured: Contexts) -> np.ndarray:
    """Numbers of the contexts that the study does not measure on, compared token by token."""
    if contexts.length != measured.length:
        return np.arange(contexts.n_contexts)
    seen = {np.asarray(row, dtype=np.int64).tobytes() for row in measured.tokens}
    kept = [i for i, row in enumerate(contexts.tokens) if np.asarray(row, dtype=np.int64).tobytes() not in seen]
    dropped = contexts.n_contexts - len(kept)
    if dropped > contexts.n_contexts // 2:
        raise SpecError(
            f"{dropped} of the {contexts.n_contexts} training contexts are those that the study measures on: "
            "give [train.texts] other texts."
        )
    if dropped:
        log.warning("%d training contexts are left out: the study measures on them.", dropped)
    return np.array(kept, dtype=np.int64)
