"""The learning rate of an SAE, and when it has been trained enough.

`Budget`: a number of tokens. The rate warms up, stays, and falls linearly to zero over the last part, which is SAELens's
schedule `constant` with warm-up and decay.

`Plateau`: until the validation FVU has stopped falling, at a constant learning rate.

1. Warm up, then keep the learning rate constant and look at the validation FVU at regular intervals.
2. When the best FVU of the last `window` looks is less than `improvement` (relative) below the best before them, the
   FVU counts as no longer falling; when `max_tokens` are reached first, the budget ends this phase instead.
3. Lower the learning rate linearly to zero over `decay_share` times the tokens seen so far, then stop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dmcore.errors import SpecError

WARMUP_TOKENS = 4_000_000
"""Longest warm-up of a `Budget`: a thousand steps of 4096."""


@dataclass(frozen=True)
class PlateauRule:
    """The numbers of the rule."""

    min_tokens: int
    """No decision before this many tokens."""
    max_tokens: int
    """The constant phase ends here in any case."""
    window: int
    """Looks over which the FVU must improve."""
    improvement: float
    """Smallest relative improvement that counts as falling."""
    decay_share: float
    """Length of the decay relative to the constant phase."""
    warmup_tokens: int
    """Length of the linear warm-up."""

    def __post_init__(self) -> None:
        if not 0 < self.improvement < 1 or self.window < 1 or self.min_tokens > self.max_tokens:
            raise SpecError("A plateau rule needs 0 < improvement < 1, window >= 1 and min_tokens <= max_tokens.")


@dataclass
class Schedule:
    """The course of one SAE's training; a subclass says when it ends."""

    curve: list[tuple[int, float]] = field(default_factory=list, kw_only=True)
    """(tokens, validation FVU) of every look."""
    stopped_by: str = field(default="", kw_only=True)
    """What ended the training at a constant rate: `plateau`, `token budget` or `time budget`; empty before."""

    def look(self, tokens: int, fvu: float, settled: bool = True) -> None:  # noqa: ARG002
        """Record a look; `settled` says whether the sparsity is at its target."""
        self.curve.append((tokens, fvu))

    def finished(self, tokens: int) -> bool:
        """Whether the training is over."""
        raise NotImplementedError

    def rate(self, tokens: int) -> float:
        """The learning rate at this point as a share of its peak."""
        raise NotImplementedError

    def hurry(self, tokens: int, reason: str) -> None:
        """Start the final decay now, if it is not known yet when it starts."""

    @property
    def expected_end(self) -> int:
        """Tokens at which the training ends, or at most; for a progress bar."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"curve": self.curve, "stopped_by": self.stopped_by}

    def restore(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        self.curve = [(int(at), float(value)) for at, value in state["curve"]]
        self.stopped_by = state["stopped_by"]


@dataclass
class Budget(Schedule):
    """So many tokens."""

    tokens: int
    """Of the whole training."""
    warmup_share: float = 0.05
    """Of the tokens, at most `WARMUP_TOKENS`: linear warm-up."""
    decay_share: float = 0.2
    """Of the tokens: linear decay to zero at the end."""
    stopped_by: str = field(default="token budget", kw_only=True)

    def finished(self, tokens: int) -> bool:
        """Whether the tokens are spent."""
        return tokens >= self.tokens

    def rate(self, tokens: int) -> float:
        """Up, constant, down."""
        warmup = min(WARMUP_TOKENS, self.warmup_share * self.tokens)
        decay = self.decay_share * self.tokens
        return min(1.0, (tokens + 1) / max(1.0, warmup), max(0.0, self.tokens - tokens) / max(1.0, decay))

    @property
    def expected_end(self) -> int:
        """The budget."""
        return self.tokens


@dataclass
class Plateau(Schedule):
    """The rule above."""

    rule: PlateauRule
    """Its numbers."""
    decay_from: int | None = None
    """Tokens at which the decay began; None during the constant phase."""
    unsettled: int = 0
    """Looks up to the last one whose sparsity still moved; they do not count."""

    def look(self, tokens: int, fvu: float, settled: bool = True) -> None:
        """Record a look and decide whether the constant phase ends here.

        An SAE whose sparsity still moves is not `settled`: its FVU may rest, or rise, on the way to the wanted L0, so
        that the looks until then are not compared with.
        """
        super().look(tokens, fvu, settled)
        if self.decay_from is not None:
            return
        if not settled:
            self.unsettled = len(self.curve)
        if tokens >= self.rule.min_tokens and self.relative_improvement() < self.rule.improvement:
            self.start_decay(tokens, "plateau")
        elif tokens >= self.rule.max_tokens:
            self.start_decay(tokens, "token budget")

    def relative_improvement(self) -> float:
        """How far the best FVU of the last `window` looks lies below the best one before them; 1 with too few looks."""
        values = [value for _, value in self.curve[self.unsettled :]]
        recent, before = values[-self.rule.window :], values[: -self.rule.window]
        return 1 - min(recent) / min(before) if before else 1.0

    def start_decay(self, tokens: int, reason: str) -> None:
        """End the constant phase."""
        self.decay_from, self.stopped_by = tokens, reason

    def hurry(self, tokens: int, reason: str) -> None:
        """End the constant phase, if it goes on."""
        if self.decay_from is None:
            self.start_decay(tokens, reason)

    @property
    def end(self) -> int | None:
        """Tokens at which training ends; None while that is open."""
        return None if self.decay_from is None else self.decay_from + int(self.rule.decay_share * self.decay_from)

    def finished(self, tokens: int) -> bool:
        """Whether the decay is over."""
        return self.end is not None and tokens >= self.end

    def rate(self, tokens: int) -> float:
        """The learning rate at this point as a share of its peak."""
        if tokens < self.rule.warmup_tokens:
            return (tokens + 1) / self.rule.warmup_tokens
        if self.end is None or self.decay_from is None:
            return 1.0
        return max(0.0, (self.end - tokens) / max(1, self.end - self.decay_from))

    @property
    def expected_end(self) -> int:
        """The end, or while that is open, the latest that it can be."""
        latest = self.rule.max_tokens + int(self.rule.decay_share * self.rule.max_tokens)
        return latest if self.end is None else self.end

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return super().state() | {"decay_from": self.decay_from, "unsettled": self.unsettled}

    def restore(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        super().restore(state)
        self.decay_from, self.unsettled = state["decay_from"], state.get("unsettled", 0)
