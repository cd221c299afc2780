"""Texts with latents whose meaning is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dmcore.explain.draw import DrawSettings, draw_examples
from dmcore.explain.examples import FeatureExamples, Window

TEXTS = [" def", "(", ")", " x", " y", "self", ":", "\n", " return", " foo", "bar", ",", " =", " 1", " if", " class"]
DEF, OPEN = TEXTS.index(" def"), TEXTS.index("(")


def tokens(n_contexts: int = 400, length: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(len(TEXTS), size=(n_contexts, length))


def examples(active: np.ndarray, ids: np.ndarray, latent: int = 0, **settings) -> FeatureExamples:
    """Of a latent that is active where `active` (n_contexts, length) says, as strongly as chance will have it."""
    places = np.flatnonzero(active)
    values = np.random.default_rng(latent + 1).uniform(0.5, 5, size=len(places))
    chosen = DrawSettings(**({"n_before": 8, "n_after": 2} | settings))
    return draw_examples(latent, places, values, ids, TEXTS, chosen)


def on_def(ids: np.ndarray) -> np.ndarray:
    # Rare enough that there are windows without: one in eight of its places.
    return ids == DEF


def thinned(ids: np.ndarray, token: int, keep: int = 8, seed: int = 1) -> np.ndarray:
    """The same texts, in which most of one token are another one, so that many windows are without it."""
    replaced = ids.copy()
    drop = (ids == token) & (np.random.default_rng(seed).integers(keep, size=ids.shape) > 0)
    replaced[drop] = TEXTS.index(" x")
    return replaced


def after(ids: np.ndarray, token: int) -> np.ndarray:
    found = np.zeros(ids.shape, dtype=bool)
    found[:, 1:] = ids[:, :-1] == token
    return found


def plain(latent: int = 0, text: Callable[[int], str] = lambda number: f" w{number}") -> FeatureExamples:
    """Few windows by hand: active ones have ` def` at their peak."""

    def window(context: int, value: float) -> Window:
        middle = " def" if value else " else"
        return Window(context, 1, (text(context), middle, " z"), (0.0, value, 0.0), 1)

    return FeatureExamples(
        latent,
        tuple(window(context, 5.0 - context) for context in range(4)),
        tuple(window(context, 0.0) for context in range(4)),
        tuple((window(10 + decile, 1.0 + decile),) for decile in range(10)),
        tuple(window(30 + number, 0.0) for number in range(10)),
    )
