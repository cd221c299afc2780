"""Who explains a latent, who scores the explanation, and how they fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from dmcore.errors import DarkMatterError
from dmcore.explain.examples import FeatureExamples, Window


class Explainer(Protocol):
    """Writes a sentence about a latent."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that its sentences depend on besides the examples, JSON-able: results are kept under it."""
        ...

    def explain(self, examples: FeatureExamples) -> str:
        """When the latent is active, in one sentence, from the training windows alone.

        Raises:
            AnswerError: this latent could not be explained.
        """
        ...


class Scorer(Protocol):
    """Tells by an explanation where a latent is active."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that its answers depend on besides explanation and windows, JSON-able."""
        ...

    def detect(self, explanation: str, windows: Sequence[Window]) -> list[bool]:
        """For each window whether the latent is active in it; must not look at the activations.

        Raises:
            AnswerError: this latent could not be scored.
        """
        ...


class AnswerError(DarkMatterError):
    """One latent failed for good: its row says why, and others go on."""


class NoAnswerError(AnswerError):
    """One latent failed for want of an answer: its row says why, and a later run tries again."""


class EndpointError(DarkMatterError):
    """No latent can succeed: the address, the key or the model is wrong, or nobody is there."""
