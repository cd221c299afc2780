"""Progress of long work: stage, amount done, rate and time left, and a way to cancel it.

Work receives a `Reporter` and calls `with reporter.stage("encode", total=n, unit="tokens") as stage` and
`stage.advance(k)`. Who watches (a terminal, a job's status file, a page) passes a sink that is called with `Progress`
values; who may cancel passes `should_cancel`, which `advance` consults.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dmcore.errors import Cancelled
from dmcore.legible import for_terminal

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """One observation of a running stage."""

    stage: str
    """What is being done, in words, e.g. `encode topk_1024_16`."""
    done: int
    """Units finished."""
    total: int
    """Units asked for; 0 if it is not known."""
    unit: str
    """What is counted, e.g. `tokens`."""
    rate: float
    """Units per second since the stage began (work resumed from an earlier run not counted)."""
    seconds_left: float | None
    """Estimated seconds to the end of the stage; None while it is not known."""


class Stage:
    """A stage in progress; made by `Reporter.stage`."""

    def __init__(self, reporter: Reporter, name: str, total: int, unit: str, done: int) -> None:
        self._reporter = reporter
        self.name, self.total, self.unit = name, total, unit
        self.done = self._resumed_at = done
        self._started = time.monotonic()
        self._last_report = 0.0

    def advance(self, amount: int = 1) -> None:
        """Count `amount` units as done; report at most five times a second; raise `Cancelled` when asked to stop."""
        if self._reporter.should_cancel():
            raise Cancelled(f"{self.name} was cancelled at {self.done:,} of {self.total:,} {self.unit}.")
        self.done += amount
        now = time.monotonic()
        if now - self._last_report >= 0.2:
            self._last_report = now
            self.report()

    def move_to(self, done: int, total: int) -> None:
        """Count `done` of `total` units as done, both anew; otherwise as `advance`."""
        self.done, self.total = done, total
        self.advance(0)

    def report(self) -> None:
        """Send the present state to the sink."""
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = (self.done - self._resumed_at) / elapsed
        left = (self.total - self.done) / rate if rate > 0 and self.total else None
        self._reporter.sink(Progress(self.name, self.done, self.total, self.unit, rate, left))


class Reporter:
    """Hands out stages that report to one sink and obey one cancel switch."""

    def __init__(
        self,
        sink: Callable[[Progress], None] = lambda _: None,
        should_cancel: Callable[[], bool] = lambda: False,
    ) -> None:
        self.sink, self.should_cancel = sink, should_cancel

    @contextmanager
    def stage(self, name: str, total: int = 0, unit: str = "steps", done: int = 0) -> Iterator[Stage]:
        """A stage of `total` units of which `done` were finished by an earlier run."""
        stage = Stage(self, name, total, unit, done)
        stage.report()
        yield stage
        stage.report()

    def pulse(self, name: str, unit: str) -> Callable[[int, int], None]:
        """A `pulse(done, total)` for work inside a stage that may take long: reports it as a stage of its own."""
        stages: list[Stage] = []

        def call(done: int, total: int) -> None:
            if done == 0 or not stages:
                stages[:] = [Stage(self, name, total, unit, 0)]
            stages[0].move_to(done, total)

        return call


def format_seconds(seconds: float | None) -> str:
    """`95` -> `1 min 35 s`; None -> `unknown`."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {secs} s" if minutes else f"{secs} s"


def terminal_sink(stream: object = None) -> Callable[[Progress], None]:
    """A sink that draws one line a stage on `stream` (stderr); plain lines, one a minute, where it is no terminal."""
    out = stream or sys.stderr
    state = {"stage": "", "printed": 0.0}

    def sink(progress: Progress) -> None:
        amount = f"{progress.done:,}" + (f" of {progress.total:,}" if progress.total else "") + f" {progress.unit}"
        line = f"{for_terminal(progress.stage)}: {amount}, {progress.rate:,.0f}/s, {format_seconds(progress.seconds_left)} left"
        finished = bool(progress.total) and progress.done >= progress.total
        if out.isatty():
            out.write(f"\r\x1b[2K{line}" + ("\n" if finished else ""))
        else:
            now = time.monotonic()
            if progress.stage == state["stage"] and not finished and now - state["printed"] < 60:
                return
            state["printed"] = now
            out.write(line + "\n")
        state["stage"] = progress.stage
        out.flush()

    return sink
