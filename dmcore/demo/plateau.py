"""When an SAE has been trained enough: its validation FVU has stopped falling, at a constant learning rate.

1. Warm up, then keep the learning rate constant and look at the validation FVU at regular intervals.
2. When the best FVU of the last `window` looks is less than `improvement` (relative) below the best before them, the
   FVU counts as no longer falling; when `max_tokens` are reached first, the budget ends this phase instead.
3. Lower the learning rate linearly to zero over `decay_share` times the tokens seen so far, then stop.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dmcore.errors import SpecError


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
    """The state of the rule for one SAE."""

    rule: PlateauRule
    """The numbers."""
    curve: list[tuple[int, float]] = field(default_factory=list)
    """(tokens, validation FVU) of every look."""
    decay_from: int | None = None
    """Tokens at which the decay began; None during the constant phase."""
    unsettled: int = 0
    """Looks up to the last one whose sparsity still moved; they do not count."""
    stopped_by: str = ""
    """`plateau`, `token budget` or `time budget`; empty during the constant phase."""

    def look(self, tokens: int, fvu: float, settled: bool = True) -> None:
        """Record a look and decide whether the constant phase ends here.

        An SAE whose sparsity still moves is not `settled`: its FVU may rest, or rise, on the way to the wanted L0, so
        that the looks until then are not compared with.
        """
        self.curve.append((tokens, fvu))
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
