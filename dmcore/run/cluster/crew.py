"""Pieces of work in flight on a cluster: given out, watched, given out again where a node was lost.

1. As many pieces are in flight as keep every slot busy; the others wait here.
2. Ray itself runs a task again whose node was lost. What it gives up is given out anew, `TRIES` times: what had been finished
   is found in the store, so only what was lost is done again.
3. A few times a second the board is read, and what all nodes have done is reported as one stage.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dmcore.errors import Cancelled, DarkMatterError, StoreError
from dmcore.progress import Reporter, Stage
from dmcore.run.cluster.board import Note, told_text
from dmcore.run.cluster.tasks import Answer

log = logging.getLogger(__name__)

TRIES = 4
POLL_SECONDS = 0.25
NODES_SECONDS = 2.0
ALONE_SECONDS = 60.0
"""How long to wait for a node where none is left that can do the work."""
STOP_SECONDS = 5.0


@dataclass
class Piece:
    """Some tasks that end in one."""

    name: str
    launch: Callable[[], list[Any]]
    """Gives the tasks to Ray; returns their references, the one to wait for last."""
    weight: int = 1
    """Units of the stage that it counts for."""
    subject: Any = None
    """What the caller knows it by."""
    tries: int = 0


@dataclass
class _Flying:
    piece: Piece
    refs: list[Any]


class Crew:
    """Gives pieces of work to a cluster.

    Args:
        cluster: of `connect`.
        board: handle of the board's actor.
        reporter: who is told, and may stop it.
    """

    def __init__(self, cluster: Any, board: Any, reporter: Reporter) -> None:
        self.cluster, self.board, self.reporter = cluster, board, reporter
        self._looked = self._best = 0.0
        self._alone_since: float | None = None
        self._asked: Any = None
        self._notes: dict[str, Note] = {}

    def run(self, pieces: Iterable[Piece], stage: str, unit: str) -> Iterator[tuple[Piece, Answer]]:
        """Do all pieces; each is given back with its answer when it has ended, in any order.

        Raises:
            StoreError: the storage has gone, or no node is left.
            DarkMatterError: a task failed in a way that nobody thought of.
            Cancelled: the reporter said so.
        """
        import ray

        waiting = list(pieces)[::-1]
        flying: dict[Any, _Flying] = {}
        window = 2 * self.cluster.n_slots + 2
        self._best, ended = 0.0, 0
        try:
            with self.reporter.stage(stage, sum(piece.weight for piece in waiting), unit) as shown:
                while waiting or flying:
                    while waiting and len(flying) < window:
                        self._launch(waiting.pop(), flying)
                    ready, _ = ray.wait(list(flying), timeout=POLL_SECONDS, fetch_local=False)
                    for ref in ready:
                        flown = flying.pop(ref)
                        answer = self._answer(ref, flown.piece)
                        if answer is None:
                            waiting.append(flown.piece)
                            continue
                        ended += flown.piece.weight
                        self._show(shown, stage, ended, flying, unit)
                        yield flown.piece, answer
                    self._look_at_nodes()
                    self._show(shown, stage, ended, flying, unit)
        finally:
            if flying:
                self._stop(flying)

    def _launch(self, piece: Piece, flying: dict[Any, _Flying]) -> None:
        refs = piece.launch()
        flying[refs[-1]] = _Flying(piece, refs)

    def _answer(self, ref: Any, piece: Piece) -> Answer | None:
        """What a piece came to; None if it has to be given out again."""
        import ray

        try:
            answer = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ray.exceptions.RayError):  # it could not read what another task had made
                return self._again(piece, error)
            log.error("%s failed: %s", piece.name, error)
            first = (str(error.cause).splitlines() or [""])[0][:200]
            raise DarkMatterError(
                f"{type(error.cause).__name__} on a node, in {piece.name}: {first} (see the log; run again to go on from here)."
            ) from None
        except ray.exceptions.RayError as error:
            return self._again(piece, error)
        if answer.broken:
            raise StoreError(answer.broken)
        if answer.cancelled:
            raise Cancelled(f"{piece.name} was cancelled.")
        return answer

    def _again(self, piece: Piece, error: Exception) -> None:
        piece.tries += 1
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        if piece.tries >= TRIES:
            raise StoreError(
                f"The cluster has lost {piece.name} {TRIES} times ({reason}): see that the nodes have memory enough, then run "
                "again; finished shards are kept."
            )
        log.warning("%s was lost (%s); it is given out again.", piece.name, reason)

    def _show(self, shown: Stage, stage: str, ended: int, flying: dict[Any, _Flying], unit: str) -> None:
        """Report what all nodes have done; never less than before."""
        import ray

        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            self._notes, self._asked = ray.get(self._asked), None
        if self._asked is None:
            self._asked = self.board.notes.remote()
        names = {flown.piece.name for flown in flying.values()}
        running = sum(n.done for task, n in self._notes.items() if n.unit == unit and task.partition("|")[0] in names)
        self._best = max(self._best, min(ended + running, shown.total) if flying else ended)
        told = told_text(self._notes, self.cluster.names)
        shown.name = f"{stage}: {told}" if told else stage
        shown.move_to(int(self._best), shown.total)

    def _look_at_nodes(self) -> None:
        now = time.monotonic()
        if now - self._looked < NODES_SECONDS:
            return
        self._looked = now
        for name in self.cluster.newly_lost():
            log.warning("%s was lost; what it had not finished is done again on the others.", name)
        if self.cluster.can_work():
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since > ALONE_SECONDS:
            raise StoreError(
                "No node is left that can do the work: start one, then run again; finished shards are kept."
            )

    def _stop(self, flying: dict[Any, _Flying]) -> None:
        """Have every task end, and wait a moment for those that are running: what they hold is then free."""
        import ray

        try:
            self.board.stop.remote()
            for flown in flying.values():
                for ref in flown.refs:
                    ray.cancel(ref, force=False)
            ray.wait(list(flying), num_returns=len(flying), timeout=STOP_SECONDS, fetch_local=False)
        except Exception as error:  # the cluster may be gone, which is why we are here
            log.debug("the tasks could not be told to stop: %s", error)
