"""Pieces of work in flight on a cluster: given out, watched, given out again where a node was lost.

1. As many pieces are in flight as keep every slot busy; the others wait here.
2. Ray itself runs a task again whose node was lost. What it gives up is given out anew, `TRIES` times: what had been finished
   is found in the store, so only what was lost is done again. A piece that fails, or that memory is too little for, fails alone.
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
OUT_OF_MEMORY = (
    "Memory ran out on a node again and again in {name}, and Ray ended it: give the node fewer tasks at once (`ray start "
    "--num-cpus`) or more memory, then run again; finished shards are kept."
)


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
                        piece = waiting.pop()
                        failed = self._launch(piece, flying)
                        if failed is not None:
                            ended += piece.weight
                            yield piece, failed
                    if not flying:
                        continue
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

    def _launch(self, piece: Piece, flying: dict[Any, _Flying]) -> Answer | None:
        """Give a piece to Ray; what to answer where that cannot be done."""
        try:
            refs = piece.launch()
        except StoreError:
            raise
        except DarkMatterError as error:  # the files that it needs are not there any more, or are others
            log.error("%s cannot be given out: %s", piece.name, error)
            return Answer(failure=str(error))
        except OSError as error:  # they cannot be read here
            log.error("%s cannot be given out: %s", piece.name, error)
            reason = error.strerror or str(error)
            return Answer(
                failure=f"What {piece.name} needs cannot be read ({reason}): see that its files are there, then run again."
            )
        flying[refs[-1]] = _Flying(piece, refs)
        return None

    def _answer(self, ref: Any, piece: Piece) -> Answer | None:
        """What a piece came to; None if it has to be given out again."""
        import ray

        try:
            answer = ray.get(ref)
        except ray.exceptions.RayError as error:
            # With a cause of Ray's own it could not read what another task had made.
            cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
            if isinstance(cause, ray.exceptions.OutOfMemoryError):
                log.error("%s: %s", piece.name, error)
                return Answer(failure=OUT_OF_MEMORY.format(name=piece.name))
            if isinstance(cause, ray.exceptions.RayError):
                return self._again(piece, cause)
            log.error("%s failed: %s", piece.name, error)
            first = (str(cause).splitlines() or [""])[0][:200]
            return Answer(
                failure=f"{type(cause).__name__} on a node, in {piece.name}: {first} (see the log; run again to go on from here)."
            )
        if answer.broken:
            raise StoreError(answer.broken)
        if answer.cancelled:
            raise Cancelled(f"{piece.name} was cancelled.")
        return answer

    def _again(self, piece: Piece, error: Exception) -> Answer | None:
        piece.tries += 1
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        if piece.tries >= TRIES:
            return Answer(
                failure=f"The cluster has lost {piece.name} {TRIES} times ({reason}): see that the nodes have memory enough, "
                "then run again; finished shards are kept."
            )
        log.warning("%s was lost (%s); it is given out again.", piece.name, reason)
        return None

    def _show(self, shown: Stage, stage: str, ended: int, flying: dict[Any, _Flying], unit: str) -> None:
        """Report what all nodes have done; never less than before."""
        import ray

        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            asked, self._asked = self._asked, None
            try:
                self._notes = ray.get(asked)
            except ray.exceptions.RayError as error:  # Ray has ended the board, and begins it again
                log.debug("the board did not answer: %s", error)
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
