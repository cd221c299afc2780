"""What a run would ask of an endpoint, before it asks anything.

Prompts that explain are known; those that detect hold the explanation, which is not, and count with one of usual length.
What is kept already costs nothing. That a nonsense answer is asked for again, and that a request is repeated, is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from dmcore.explain.examples import FeatureExamples
from dmcore.explain.language_model import Endpoint, LanguageModelExplainer, LanguageModelScorer
from dmcore.explain.prompts import detection_prompt, read_detection, read_explanation, stricter
from dmcore.explain.score import shown, why_not

CHARACTERS_PER_TOKEN = 3.0
"""Of prompts, which are half English and half code; an estimate to the side of more tokens."""
TOKENS_OF_EXPLANATION = 60
"""Of an answer that explains: an estimate. A model that thinks first writes many times as many."""
TOKENS_PER_WINDOW = 3
"""Of an answer that detects: an estimate."""
USUAL_EXPLANATION = "x" * 120

T = TypeVar("T")


@dataclass(frozen=True)
class Prices:
    """Of an endpoint, in any one currency."""

    prompt: float
    """Per million tokens of prompts."""
    answer: float
    """Per million tokens of answers."""


@dataclass(frozen=True)
class CallPlan:
    """Calls that are still to be made."""

    calls: int
    kept: int
    """Calls that are not made, because their answers are kept."""
    prompt_tokens: int
    """An estimate."""
    answer_tokens: int
    """An estimate."""
    most_answer_tokens: int | None
    """What the endpoint's limit allows; None if it has none."""
    money: float | None
    """For the estimated tokens; None where no prices are given."""
    most_money: float | None
    """If every answer is as long as the limit allows; None where there is none."""


def plan_calls(
    features: Sequence[FeatureExamples],
    explainer: LanguageModelExplainer,
    scorer: LanguageModelScorer,
    *,
    seed: int = 0,
    prices: Prices | None = None,
) -> CallPlan:
    """The calls that `score_features` with the same arguments would make; makes none."""
    count = _Count()
    for examples in features:
        if why_not(examples) is not None:
            continue
        with suppress(_FailsError):
            count.latent(examples, explainer, scorer, seed)
    limits = [who.endpoint.identity.get("max_tokens") for who in (explainer, scorer)]
    most = None if not all(isinstance(limit, int) for limit in limits) else max(limits) * count.calls
    return CallPlan(
        count.calls,
        count.kept,
        count.prompt_tokens,
        count.answer_tokens,
        most,
        None if prices is None else _money(prices, count.prompt_tokens, count.answer_tokens),
        None if prices is None or most is None else _money(prices, count.prompt_tokens, most),
    )


def _money(prices: Prices, prompt_tokens: int, answer_tokens: int) -> float:
    return (prices.prompt * prompt_tokens + prices.answer * answer_tokens) / 1e6


class _FailsError(Exception):
    """Both kept answers are nonsense: the latent fails, and no more is asked about it."""


class _Count:
    """Calls counted so far."""

    def __init__(self) -> None:
        self.calls = self.kept = self.prompt_tokens = self.answer_tokens = 0

    def latent(
        self, examples: FeatureExamples, explainer: LanguageModelExplainer, scorer: LanguageModelScorer, seed: int
    ) -> None:
        """Count the calls of one latent."""
        explanation = self.ask(explainer.endpoint, explainer.prompt(examples), read_explanation, TOKENS_OF_EXPLANATION)
        for batch in scorer.batches(shown(examples, seed)[0]):
            prompt, n = detection_prompt(explanation or USUAL_EXPLANATION, batch), len(batch)
            # A kept answer counts only for the very prompt that will be asked.
            endpoint = scorer.endpoint if explanation is not None else None
            self.ask(endpoint, prompt, lambda said, n=n: read_detection(said, n), TOKENS_PER_WINDOW * n)

    def ask(self, endpoint: Endpoint | None, prompt: str, read: Callable[[str], T | None], tokens: int) -> T | None:
        """Follow `ask_for` as far as answers are kept; what it would return, or None where it would ask."""
        for one in (prompt, stricter(prompt)):
            answer = None if endpoint is None else endpoint.known(one)
            if answer is None:
                self.calls += 1
                self.prompt_tokens += math.ceil(len(one) / CHARACTERS_PER_TOKEN)
                self.answer_tokens += tokens
                return None
            self.kept += 1
            found = read(answer)
            if found is not None:
                return found
        raise _FailsError
