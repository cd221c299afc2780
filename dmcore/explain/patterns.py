"""Simple patterns of a token and what comes before it, in words; and the one that best tells where a latent is active.

They need no language model. A pattern looks at the token for which a window was drawn: where the latent is active, its most
active token, else any one. So it is told where to look, which a language model that detects is not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dmcore.analysis.token_kinds import KINDS, token_kind
from dmcore.explain.examples import FeatureExamples, Window
from dmcore.explain.interface import AnswerError

N_BEFORE = 4
"""Tokens before the peak that patterns look at."""
PLACES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""A pattern of place is one of the first so many tokens of a context."""
LONGEST_END = 5
"""Characters."""
MOST_OF_WORDS = 1000
"""Characters of a pattern in words that are read."""
START = "<start>"
"""Kind of what comes before the first token of a context or window."""

FORMS = {
    "token": "the token is {}",
    "before": "the token comes right after {}",
    "kind": "the token is of the kind {}",
    "kind_before": "the token comes right after one of the kind {}",
    "place": "the token is one of the first {} of its context",
    "pair": "the token is {1}, right after {0}",
    "near": "one of the four tokens before is {}",
    "end": "the text up to the token's end ends in {}",
}
"""In words; of equally good patterns the form that is listed first is taken."""
_READERS = {
    form: re.compile(re.sub(r"\\\{\d?\\\}", lambda _: "(.+)", re.escape(words)), re.DOTALL)
    for form, words in FORMS.items()
}


@dataclass(frozen=True)
class Pattern:
    """Something that holds of a token or does not."""

    form: str
    """One of `FORMS`."""
    values: tuple[str | int, ...]
    """What the form leaves open; of a pair first the token before."""

    @property
    def words(self) -> str:
        """The pattern as part of a sentence; texts are quoted as Python quotes them."""
        return FORMS[self.form].format(*(repr(value) for value in self.values))


def patterns_of(window: Window) -> set[Pattern]:
    """All patterns that hold of a window's peak."""
    tokens, peak = window.tokens, window.peak
    token, before = tokens[peak], tokens[peak - 1] if peak else None
    found = {Pattern("token", (token,)), Pattern("kind", (_kind(token),))}
    found.add(Pattern("kind_before", (START if before is None else _kind(before),)))
    if before is not None:
        found |= {Pattern("before", (before,)), Pattern("pair", (before, token))}
    found |= {Pattern("near", (text,)) for text in tokens[max(peak - N_BEFORE, 0) : peak]}
    found |= {Pattern("end", (text,)) for text in ends_of(window)}
    found |= {Pattern("place", (place,)) for place in PLACES if window.position < place}
    return found


def ends_of(window: Window) -> Iterator[str]:
    """The last 1 to `LONGEST_END` characters of the text up to the peak's end."""
    text = "".join(window.tokens[max(window.peak - N_BEFORE, 0) : window.peak + 1])
    return (text[-n:] for n in range(1, min(LONGEST_END, len(text)) + 1))


@lru_cache(maxsize=1 << 16)
def _kind(text: str) -> str:
    return token_kind(text, special=False)


def best_pattern(active: Sequence[Window], silent: Sequence[Window]) -> Pattern:
    """The pattern with the largest balanced accuracy on windows to learn from.

    Of equals the form that `FORMS` lists first, then the one with the fewest characters, then by the alphabet. A pattern that
    holds of one active window alone is taken only where no other holds of two.

    Args:
        active: at least one.
        silent: may be none.
    """
    counts: dict[Pattern, list[int]] = {}
    for side, windows in enumerate((active, silent)):
        for window in windows:
            for pattern in patterns_of(window):
                counts.setdefault(pattern, [0, 0])[side] += 1
    forms = list(FORMS)

    def rank(pattern: Pattern) -> Any:
        n_active, n_silent = counts[pattern]
        gain = n_active * max(len(silent), 1) - n_silent * len(active)  # exact: counts, no rounding
        return n_active < 2, -gain, forms.index(pattern.form), len(pattern.words), pattern.words

    return min((pattern for pattern, (n_active, _) in counts.items() if n_active), key=rank)


def read_pattern(words: str) -> Pattern:
    """The pattern that `words` says.

    Raises:
        AnswerError: it says none.
    """
    for form, reader in _READERS.items():
        found = reader.fullmatch(words[:MOST_OF_WORDS])
        if found is None or len(words) > MOST_OF_WORDS:
            continue
        for values in _literals(form, words, found):
            pattern = Pattern(form, values)
            if pattern.words == words and _is_sound(pattern):
                return pattern
    raise AnswerError("This scorer reads patterns alone: explain by patterns, or score with a language model.")


def _literals(form: str, words: str, found: re.Match[str]) -> Iterator[tuple[Any, ...]]:
    """What the quotes in words may hold; a pair's may be split at several places where its texts have commas."""
    if form != "pair":
        splits = [(found[1],)]
    else:
        inner, middle = words.removeprefix("the token is "), ", right after "
        at = [match.start() for match in re.finditer(re.escape(middle), inner)]
        splits = [(inner[place + len(middle) :], inner[:place]) for place in at]
    for pieces in splits:
        try:
            yield tuple(ast.literal_eval(piece) for piece in pieces)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue


def _is_sound(pattern: Pattern) -> bool:
    if pattern.form == "place":
        return type(pattern.values[0]) is int
    if pattern.form.startswith("kind"):
        return pattern.values[0] in (*KINDS, START)
    return all(isinstance(value, str) for value in pattern.values)


class PatternExplainer:
    """Explains a latent by the best single pattern."""

    @property
    def identity(self) -> dict[str, Any]:
        """Its name and version."""
        return {"patterns": 1}

    def explain(self, examples: FeatureExamples) -> str:
        """As `Explainer.explain`."""
        if not examples.train:
            raise AnswerError("There is no training window in which it is active: give more texts.")
        return best_pattern(examples.train, examples.train_silent).words


class PatternScorer:
    """Detects by a pattern in words, as `PatternExplainer` gives it."""

    @property
    def identity(self) -> dict[str, Any]:
        """Its name and version."""
        return {"patterns": 1}

    def detect(self, explanation: str, windows: Sequence[Window]) -> list[bool]:
        """As `Scorer.detect`."""
        pattern = read_pattern(explanation)
        return [pattern in patterns_of(window) for window in windows]


def holds(pattern: Pattern, windows: Sequence[Window]) -> np.ndarray:
    """(n_windows,) whether a pattern holds of each window's peak."""
    return np.array([pattern in patterns_of(window) for window in windows], dtype=bool)
