"""The board: where the tasks of all nodes write how far they are, and read whether to stop. It lives beside the driver.

No Ray here: `engine` makes an actor of `Board`, and a task is given its handle.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from dmcore.progress import Progress, Reporter

TELL_SECONDS = 0.4
STALE_SECONDS = 60.0
"""A task that has said nothing for so long is not shown."""
SHOWN_NODES = 3


@dataclass(frozen=True)
class Note:
    """What a task said last."""

    node: str
    """Ray's id of the node."""
    stage: str
    done: int
    total: int
    unit: str
    told: float
    """When, by the board's clock."""


class Board:
    """What every running task said last, and whether all are to stop."""

    def __init__(self) -> None:
        self._notes: dict[str, Note] = {}
        self._stopped = False

    def tell(self, task: str, node: str, stage: str, done: int, total: int, unit: str) -> bool:
        """Note how far a task is; the answer: whether it should stop."""
        self._notes[task] = Note(node, stage, done, total, unit, time.monotonic())
        return self._stopped

    def end(self, task: str) -> bool:
        """Forget a task that has ended; the answer as of `tell`."""
        self._notes.pop(task, None)
        return self._stopped

    def stop(self) -> None:
        """Ask all tasks to stop."""
        self._stopped = True

    def notes(self) -> dict[str, Note]:
        """By task: what those that are running said last."""
        now = time.monotonic()
        return {task: note for task, note in self._notes.items() if now - note.told < STALE_SECONDS}


class Teller:
    """A task's side of the board: a `Reporter` that writes to it a few times a second and never waits for it.

    Args:
        board: handle of the actor.
        task, node: who tells.
        ready: whether an answer has come, and if so which: `(reference) -> bool | None`.
    """

    def __init__(self, board: Any, task: str, node: str, ready: Any) -> None:
        self._board, self._task, self._node, self._ready = board, task, node, ready
        self._told, self._answer, self._stopped = 0.0, None, False
        self._last = Progress("start", 0, 0, "", 0.0, None)

    def reporter(self) -> Reporter:
        """What the work is given."""
        return Reporter(self.sink, self.should_cancel)

    def sink(self, progress: Progress) -> None:
        """Take an observation."""
        began = progress.stage != self._last.stage
        self._last = progress
        self._tell(at_once=began)

    def should_cancel(self) -> bool:
        """Whether the sweep has been cancelled, as far as the board's last answer knows."""
        self._tell(at_once=False)
        return self._stopped

    def _tell(self, *, at_once: bool) -> None:
        now = time.monotonic()
        if self._answer is not None and (stop := self._ready(self._answer)) is not None:
            self._answer, self._stopped = None, bool(stop)
        # One question at a time, unless the stage has just changed: a board that is slow is not asked more often.
        if at_once or (self._answer is None and now - self._told >= TELL_SECONDS):
            self._told, said = now, self._last
            self._answer = self._board.tell.remote(
                self._task, self._node, said.stage, int(said.done), int(said.total), said.unit
            )


def told_text(notes: dict[str, Note], names: dict[str, str]) -> str:
    """What the nodes are doing: `node 1 encode topk_256_16, node 2 split topk_1024_16`.

    Args:
        notes: of the board.
        names: of the nodes, by Ray's id.
    """
    by_node: dict[str, str] = {}
    for note in notes.values():
        if note.node in names and note.stage != "start":
            by_node.setdefault(names[note.node], note.stage)
    shown = [f"{name} {stage}" for name, stage in sorted(by_node.items())]
    more = len(shown) - SHOWN_NODES
    return ", ".join(shown[:SHOWN_NODES]) + (f", and {more} more" if more > 0 else "")
