"""What an explainer is shown of a latent, and what its explanation is tested on: windows of tokens, apart by context."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property

from dmcore.errors import DataError
from dmcore.results.detection import N_DECILES
from dmcore.store.fingerprint import content_key


@dataclass(frozen=True)
class Window:
    """Consecutive tokens of one context, and a latent's activation at each."""

    context: int
    """Number of the context."""
    position: int
    """In the context, of the token `peak`."""
    tokens: tuple[str, ...]
    """Texts; data of unknown origin, raw."""
    activations: tuple[float, ...]
    """One a token; 0 where the latent is not active, else above 0."""
    peak: int
    """Which token the window was drawn for: the most active one, or any one where the latent is silent."""

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.activations) or not 0 <= self.peak < len(self.tokens):
            raise DataError("A window needs one activation a token, and a peak among its tokens.")
        if any(not (math.isfinite(value) and value >= 0) for value in self.activations):
            raise DataError("Activations in a window must be finite, and 0 or above.")
        if self.activations[self.peak] != max(self.activations):
            raise DataError("A window's peak must be its most active token.")

    @property
    def is_active(self) -> bool:
        """Whether the latent is active on any of the tokens: what a scorer has to tell."""
        return self.activations[self.peak] > 0

    @property
    def text(self) -> str:
        """The tokens joined."""
        return "".join(self.tokens)


@dataclass(frozen=True)
class FeatureExamples:
    """The windows of one latent. No context has windows both for training and for testing."""

    latent: int
    """Its number in the SAE."""
    train: tuple[Window, ...]
    """To explain it by: windows in which it is active, the most active first."""
    train_silent: tuple[Window, ...]
    """Windows of the same contexts' study in which it is not, for who learns from both."""
    test: tuple[tuple[Window, ...], ...]
    """(N_DECILES) windows for each decile of its activation, the lowest first; some may be empty."""
    test_silent: tuple[Window, ...]
    """Windows in which it is not active."""

    def __post_init__(self) -> None:
        if len(self.test) != N_DECILES:
            raise DataError(f"The test windows of latent {self.latent} must be in {N_DECILES} deciles.")
        if not all(window.is_active for window in (*self.train, *self.test_active)):
            raise DataError(f"A window that should show latent {self.latent} active does not.")
        if any(window.is_active for window in (*self.train_silent, *self.test_silent)):
            raise DataError(f"A window that should show latent {self.latent} silent does not.")
        trained = {window.context for window in (*self.train, *self.train_silent)}
        shared = trained & {window.context for window in (*self.test_active, *self.test_silent)}
        if shared:
            raise DataError(
                f"Context {min(shared)} has both training and test windows of latent {self.latent}: split by context."
            )

    @property
    def test_active(self) -> tuple[Window, ...]:
        """The test windows of all deciles."""
        return tuple(window for decile in self.test for window in decile)

    @cached_property
    def key(self) -> str:
        """Hash of everything in it."""
        return content_key(asdict(self))
