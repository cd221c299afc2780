"""What may come of any input: a result, or one of our errors with one line to say. And no file outside the cache folder.

1. `judged` runs one case: with an alarm, so that what hangs is a finding too, and with warnings kept quiet.
2. A `Sandbox` is a folder with a cache in its middle; all around it, the files are known before and must be the same after.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from dmcore.errors import DarkMatterError

PATIENCE, LONGEST_WAIT = 30, 600
"""Seconds of the processor that one case may take, and by the clock: a busy machine is no fault of the case."""
LONGEST = 3000
"""Characters of an error's sentence."""


class HungError(Exception):
    """A case that took too long."""


@dataclass(frozen=True)
class Verdict:
    """What came of one case."""

    outcome: str
    """`result`, the name of one of our errors, or `FAILED`."""
    failure: BaseException | None = None
    """What must not have been raised."""

    @property
    def place(self) -> str:
        """Where it was raised: the last line of ours, for counting."""
        found, trace = "", self.failure.__traceback__ if self.failure else None
        while trace is not None:
            name = trace.tb_frame.f_code.co_filename
            if "dmcore" in name:
                found = f"{name.rpartition('dmcore/')[2]}:{trace.tb_lineno}"
            trace = trace.tb_next
        return f"{type(self.failure).__name__} at {found}"


def _ring(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise HungError(f"no answer in {PATIENCE} s of work, or {LONGEST_WAIT} s of waiting")


@contextmanager
def alarm() -> Iterator[None]:
    """Raise `HungError` in the main thread if the block takes longer."""
    timers = ((signal.ITIMER_PROF, signal.SIGPROF, PATIENCE), (signal.ITIMER_REAL, signal.SIGALRM, LONGEST_WAIT))
    before = [signal.signal(number, _ring) for _, number, _ in timers]
    for timer, _, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def judged(run: Callable[..., Any], *given: Any) -> Verdict:
    """Run one case, against the clock."""
    with warnings.catch_warnings(), alarm():
        warnings.simplefilter("ignore")
        return heard(run, *given)


def heard(run: Callable[..., Any], *given: Any) -> Verdict:
    """What a call gave or said."""
    try:
        run(*given)
    except DarkMatterError as error:
        said = str(error).strip()
        if not said or "\n" in said or len(said) > LONGEST:
            return Verdict(
                "FAILED", AssertionError(f"not one line: {said[:200]!r}").with_traceback(error.__traceback__)
            )
        return Verdict(type(error).__name__)
    except Exception as error:
        # The tests have beartype check the types of all maths: there it refuses what it has refused before we are asked.
        if type(error).__module__.startswith(("beartype.", "jaxtyping")):
            return Verdict("TypeCheckError")
        return Verdict("FAILED", error)
    return Verdict("result")


@dataclass
class Sandbox:
    """A folder of its own with a cache in it, and canaries around."""

    outer: Path
    before: dict[str, tuple[int, bytes | str]] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        """Where dmcore may write."""
        return self.outer / "home" / "work" / "cache"

    @property
    def studies(self) -> Path:
        """Where study files are put: read, and never written by dmcore."""
        return self.outer / "home" / "work" / "studies"

    @classmethod
    def make(cls, outer: Path) -> Sandbox:
        """Lay it out."""
        sandbox = cls(outer)
        sandbox.cache.mkdir(parents=True)
        sandbox.studies.mkdir()
        for folder in (outer, outer / "home", outer / "home" / "work"):
            (folder / "canary.txt").write_text("sings")
            (folder / "summary").mkdir()
            (folder / "summary" / "manifest.json").write_text("{}")
        return sandbox

    def seen(self) -> dict[str, tuple[int, bytes | str]]:
        """Every file around the cache and the studies, with what is in it."""
        found: dict[str, tuple[int, bytes | str]] = {}
        for path, folders, files in os.walk(self.outer):
            here = Path(path)
            folders[:] = [name for name in folders if here / name not in (self.cache, self.studies)]
            for name in files:
                file = here / name
                found[str(file)] = (0, str(file.readlink())) if file.is_symlink() else (1, file.read_bytes())
            found |= {str(here / name): (2, "") for name in folders}
        return found

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raise if a file around the cache has come, gone or changed."""
        before = self.seen()
        yield
        after = self.seen()
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        assert not changed, f"files outside the cache changed: {changed[:5]}"
