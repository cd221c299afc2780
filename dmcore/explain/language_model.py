"""A language model behind an endpoint explains latents and scores explanations, by the prompts of `dmcore.explain.prompts`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from dmcore.errors import SpecError
from dmcore.explain.examples import FeatureExamples, Window
from dmcore.explain.interface import AnswerError
from dmcore.explain.prompts import detection_prompt, explanation_prompt, read_detection, read_explanation, stricter

PROMPTS = 1
"""Raised when a prompt, or how its answer is read, changes."""

T = TypeVar("T")


class Endpoint(Protocol):
    """Who answers prompts; `dmcore.explain.endpoint.OpenAIEndpoint` is one."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What answers depend on besides the prompt."""
        ...

    def ask(self, prompt: str) -> str:
        """The answer to a prompt."""
        ...

    def known(self, prompt: str) -> str | None:
        """The answer if it is kept; asks nobody."""
        ...


def ask_for(endpoint: Endpoint, prompt: str, read: Callable[[str], T | None]) -> T:
    """The answer to a prompt as `read` reads it; asked once more, more strictly, where that cannot read it.

    Raises:
        AnswerError: it cannot read the second answer either.
    """
    answer = ""
    for one in (prompt, stricter(prompt)):
        answer = endpoint.ask(one)
        found = read(answer)
        if found is not None:
            return found
    if not answer.strip():
        raise AnswerError("The language model gave an empty answer: raise max_tokens, or choose another model.")
    raise AnswerError("The language model did not answer in the asked format, twice: choose another model.")


class LanguageModelExplainer:
    """Writes a sentence about the most active training windows.

    Args:
        endpoint: who is asked.
        n_examples: most windows shown.
    """

    def __init__(self, endpoint: Endpoint, n_examples: int = 20) -> None:
        if n_examples < 1:
            raise SpecError("An explainer must be shown at least one example.")
        self.endpoint, self.n_examples = endpoint, n_examples

    @property
    def identity(self) -> dict[str, Any]:
        """Model, settings, prompts and number of windows."""
        return {"model": dict(self.endpoint.identity), "prompts": PROMPTS, "n_examples": self.n_examples}

    def prompt(self, examples: FeatureExamples) -> str:
        """What is asked first."""
        return explanation_prompt(examples.train[: self.n_examples])

    def explain(self, examples: FeatureExamples) -> str:
        """As `Explainer.explain`."""
        return ask_for(self.endpoint, self.prompt(examples), read_explanation)


class LanguageModelScorer:
    """Is shown the texts of a few windows at a time.

    Args:
        endpoint: who is asked.
        batch: most windows in one prompt.
    """

    def __init__(self, endpoint: Endpoint, batch: int = 10) -> None:
        if batch < 1:
            raise SpecError("A scorer must be shown at least one window at a time.")
        self.endpoint, self.batch = endpoint, batch

    @property
    def identity(self) -> dict[str, Any]:
        """Model, settings, prompts and windows at a time."""
        return {"model": dict(self.endpoint.identity), "prompts": PROMPTS, "batch": self.batch}

    def batches(self, windows: Sequence[Window]) -> Iterator[Sequence[Window]]:
        """The windows of each prompt."""
        return (windows[first : first + self.batch] for first in range(0, len(windows), self.batch))

    def detect(self, explanation: str, windows: Sequence[Window]) -> list[bool]:
        """As `Scorer.detect`."""
        found: list[bool] = []
        for batch in self.batches(windows):
            n = len(batch)
            found += ask_for(
                self.endpoint, detection_prompt(explanation, batch), lambda said, n=n: read_detection(said, n)
            )
        return found
