"""Draws the windows of a latent from where it is active.

1. A *peak* is a kept token that is the most active one of its window (of equals, the first). Deciles are those of the
   activation among peaks, so that a window of a low decile has no high activation elsewhere: the rank `j` of `n`, from the
   largest, is in decile `9 - floor(10 j / n)`.
2. Contexts with peaks are shuffled and go to training and testing in turn, and so do those without.
3. Training: the largest peaks, at most two of a context, and some of each decile. Testing: some of each decile. No two
   windows of a side overlap.
4. Silent windows are drawn around random kept tokens of each side's contexts, whatever else happens in those.

Protocol: as in the paper's detection scoring: 1,000 random latents, over deciles of activation plus negatives. How windows
are drawn there is not known to us; points 1 to 3 are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dmcore.errors import DataError
from dmcore.explain.examples import FeatureExamples, Window
from dmcore.results.detection import N_DECILES
from dmcore.results.features import N_AFTER, N_BEFORE

Array = np.ndarray

MOST_OF_CONTEXT = 2
"""Windows of one context among the largest."""
TRIES = 50
"""Candidates looked at for each window wanted."""


@dataclass(frozen=True)
class DrawSettings:
    """How many windows are drawn, and how long they are."""

    n_top: int = 20
    """Training windows of the largest peaks."""
    n_per_decile: int = 5
    """Windows of each decile, for training and for testing each."""
    n_silent: int = 50
    """Silent windows, for training and for testing each."""
    n_before: int = N_BEFORE
    """Most tokens of a window before its peak."""
    n_after: int = N_AFTER
    """And after it."""
    skip_positions: int = 0
    """First positions of each context that are no peaks; they may be seen in windows."""
    seed: int = 0
    """Of all that is drawn; each latent draws by its own number too."""

    def __post_init__(self) -> None:
        counts = (self.n_top, self.n_per_decile, self.n_silent, self.n_before, self.n_after, self.skip_positions)
        if min(counts) < 0:
            raise DataError("Numbers of windows and of tokens cannot be below 0.")


def draw_examples(
    latent: int,
    places: Array,
    values: Array,
    tokens: Array,
    texts: Sequence[str] | Mapping[int, str],
    settings: DrawSettings | None = None,
) -> FeatureExamples:
    """The examples of one latent; sides are smaller, or empty, where it is not active often enough.

    Args:
        latent: its number.
        places: (n,) where it is active: context * length + position, ascending.
        values: (n,) its activations there, above 0.
        tokens: (n_contexts, length) ids.
        texts: of each id.

    Raises:
        DataError: places are not ascending or not in the contexts, or values not above 0.
    """
    drawing = _Drawing(latent, places, values, tokens, texts, settings or DrawSettings())
    peaks = drawing.peaks()
    deciles = drawing.deciles(peaks)
    train_contexts, test_contexts = drawing.sides(peaks)
    in_train = np.isin(peaks // drawing.length, train_contexts)
    taken = drawing.top(peaks[in_train])
    train = drawing.of_deciles(peaks[in_train], deciles[in_train], taken, 0)
    test = drawing.of_deciles(peaks[~in_train], deciles[~in_train], [], 1)
    most_active_first = sorted([*taken, *(p for group in train for p in group)], key=lambda p: (-drawing.value(p), p))
    return FeatureExamples(
        latent,
        drawing.windows(most_active_first),
        drawing.windows(drawing.silent(train_contexts, 2)),
        tuple(drawing.windows(group) for group in test),
        drawing.windows(drawing.silent(test_contexts, 3)),
    )


class _Drawing:
    """The draw of one latent; a place is a flat number of a token."""

    def __init__(self, latent: int, places: Array, values: Array, tokens: Array, texts, settings: DrawSettings) -> None:
        self.latent, self.settings, self.tokens, self.texts = latent, settings, tokens, texts
        self.places, self.values = np.asarray(places, dtype=np.int64), np.asarray(values, dtype=np.float64)
        self.length = tokens.shape[1]
        if self.places.shape != self.values.shape or np.any(np.diff(self.places) <= 0):
            raise DataError(f"The places where latent {latent} is active must ascend, with one activation each.")
        if len(self.places) and not (self.places[0] >= 0 and self.places[-1] < tokens.size):
            raise DataError(f"Latent {latent} is active outside the contexts that were given.")
        if not np.all(np.isfinite(self.values) & (self.values > 0)):
            raise DataError(f"Activations of latent {latent} must be finite and above 0 where it is active.")

    def ends(self, place: Array | int) -> tuple[Array, Array]:
        """First place of the window around each place, and the one past its last."""
        start = np.asarray(place) // self.length * self.length
        low = np.maximum(place - self.settings.n_before, start)
        return low, np.minimum(place + self.settings.n_after + 1, start + self.length)

    def peaks(self) -> Array:
        """Places that are kept and the most active of their window."""
        low, high = self.ends(self.places)
        is_peak = self.places % self.length >= self.settings.skip_positions
        for step in range(1, min(self.settings.n_before + 1, len(self.places))):
            near = self.places[:-step] >= low[step:]
            is_peak[step:] &= ~(near & (self.values[:-step] >= self.values[step:]))
        for step in range(1, min(self.settings.n_after + 1, len(self.places))):
            near = self.places[step:] < high[:-step]
            is_peak[:-step] &= ~(near & (self.values[step:] > self.values[:-step]))
        return self.places[is_peak]

    def deciles(self, peaks: Array) -> Array:
        """(n,) decile of each peak's activation among peaks; of equals the earlier counts as the larger."""
        order = np.lexsort((peaks, -self.values[np.searchsorted(self.places, peaks)]))
        deciles = np.empty(len(peaks), dtype=np.int64)
        deciles[order] = N_DECILES - 1 - N_DECILES * np.arange(len(peaks)) // max(len(peaks), 1)
        return deciles

    def sides(self, peaks: Array) -> tuple[Array, Array]:
        """Contexts for training and for testing."""
        active = np.unique(peaks // self.length)
        others = np.setdiff1d(np.arange(len(self.tokens)), active)
        shuffled = [self._generator(4).permutation(group) for group in (active, others)]
        return tuple(np.concatenate([group[side::2] for group in shuffled]) for side in (0, 1))

    def top(self, peaks: Array) -> list[int]:
        """The largest of some peaks."""
        values = self.values[np.searchsorted(self.places, peaks)]
        found: list[int] = []
        for place in peaks[np.lexsort((peaks, -values))].tolist():
            if len(found) == self.settings.n_top:
                break
            of_context = sum(other // self.length == place // self.length for other in found)
            if of_context < MOST_OF_CONTEXT and self._is_apart(place, found):
                found.append(place)
        return found

    def of_deciles(self, peaks: Array, deciles: Array, taken: Sequence[int], purpose: int) -> list[list[int]]:
        """Random peaks of each decile, apart from those taken and from each other."""
        generator, wanted = self._generator(purpose), self.settings.n_per_decile
        candidates = [
            (place, decile)
            for decile in range(N_DECILES)
            for place in generator.permutation(peaks[deciles == decile])[: wanted * TRIES].tolist()
        ]
        found: list[list[int]] = [[] for _ in range(N_DECILES)]
        everything = list(taken)
        for number in generator.permutation(len(candidates)).tolist():
            place, decile = candidates[number]
            if len(found[decile]) < wanted and self._is_apart(place, everything):
                found[decile].append(place)
                everything.append(place)
        return found

    def silent(self, contexts: Array, purpose: int) -> list[int]:
        """Random kept places of some contexts with no activation in their windows, which do not overlap."""
        kept = self.length - self.settings.skip_positions
        if not len(contexts) or kept <= 0:
            return []
        generator, wanted = self._generator(purpose), self.settings.n_silent
        numbers = generator.integers(len(contexts) * kept, size=wanted * TRIES)
        places = contexts[numbers // kept] * self.length + self.settings.skip_positions + numbers % kept
        low, high = self.ends(places)
        is_silent = np.searchsorted(self.places, low) == np.searchsorted(self.places, high)
        found: list[int] = []
        for place in places[is_silent].tolist():
            if len(found) == wanted:
                break
            if self._is_apart(place, found):
                found.append(place)
        return found

    def value(self, place: int) -> float:
        """The activation at a place where it is active."""
        return float(self.values[np.searchsorted(self.places, place)])

    def windows(self, places: Sequence[int]) -> tuple[Window, ...]:
        """The windows around some places."""
        return tuple(self._window(place) for place in places)

    def _window(self, place: int) -> Window:
        low, high = (int(end) for end in self.ends(place))
        first, last = np.searchsorted(self.places, [low, high]).tolist()
        activations = [0.0] * (high - low)  # of one zero: a thousand latents have millions
        for number in range(first, last):
            activations[int(self.places[number]) - low] = float(self.values[number])
        ids = self.tokens.reshape(-1)[low:high].tolist()
        context, position = divmod(place, self.length)
        texts = tuple(self.texts[token_id] for token_id in ids)
        return Window(context, position, texts, tuple(activations), place - low)

    def _is_apart(self, place: int, others: Sequence[int]) -> bool:
        reach = self.settings.n_before + self.settings.n_after
        return all(abs(place - other) > reach or place // self.length != other // self.length for other in others)

    def _generator(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, self.latent, purpose])
