"""What runs on the nodes: one function, which does a step of `shard_work` and answers in words where that cannot be done."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dmcore.errors import Cancelled, DarkMatterError, StoreError
from dmcore.run.cluster.held import Hold
from dmcore.run.cluster.node_cache import node_cache
from dmcore.run.cluster.weights import node_folder
from dmcore.run.plan import Plan
from dmcore.sources.custom_saes import CustomSae
from dmcore.store.mirror import MirroredStore
from dmcore.store.store import Store


@dataclass(frozen=True)
class Place:
    """Where the results are, as a node finds them."""

    root: str
    """The cache folder, which all nodes see; with a URL, only the driver's own."""
    url: str = ""
    """A shared storage, as fsspec writes it; each node then has a cache of its own."""

    def open_here(self, session: str) -> tuple[Store, Hold | None]:
        """The store, for a process of any node, and what keeps its folder where that is the node's own."""
        if not self.url:
            return Store(Path(self.root)), None
        folder, hold = node_cache(session)
        try:
            return MirroredStore(folder, self.url), hold
        except BaseException:
            hold.release()
            raise


@dataclass(frozen=True)
class Assignment:
    """What every task of a sweep is told; sent to a node once."""

    session: str
    """Of this sweep."""
    plan: Plan
    place: Place
    board: Any
    """Handle of the `Board`'s actor."""
    custom: Mapping[str, CustomSae]


@dataclass(frozen=True)
class Answer:
    """What a task gives back."""

    value: Any = None
    failure: str = ""
    """Why it could not be done; the rest of the study can."""
    broken: str = ""
    """Why nothing can be done any more: the storage has gone."""
    cancelled: bool = False

    @property
    def good(self) -> bool:
        """Whether there is a value."""
        return not (self.failure or self.broken or self.cancelled)


_open: dict[str, Any] = {}
"""What this process keeps between tasks of one sweep: its store and what it has loaded."""
_begun: dict[str, list[Any]] = {}
"""The GPUs with which CUDA was begun in this process; nothing before that."""


def perform(
    assignment: Assignment, task: str, step: str, arguments: tuple[Any, ...], files: Any, *parts: Answer
) -> Answer:
    """Do one step of the work.

    Args:
        assignment: of the sweep.
        task: names it on the board.
        step: a method of `Bench`, or `add`.
        arguments: its arguments.
        files: a list with the reference of the SAE's files, or None where every node sees them.
        parts: answers with moments, to be added up.
    """
    import ray

    bad = next((part for part in parts if not part.good), None)
    if bad is not None:
        return bad
    if step == "add":
        from dmcore.run.cluster.joined import added

        return Answer(added([part.value for part in parts]))
    from dmcore.run.cluster.board import Teller

    gpus = ray.get_gpu_ids()
    if is_elsewhere(gpus):
        raise SystemExit(0)  # Ray gives the task to another process
    board, node = assignment.board, ray.get_runtime_context().get_node_id()
    teller = Teller(board, task, node, _heard)
    try:
        return _guarded(assignment, teller, step, arguments, lambda: ray.get(files[0]) if files else None, parts)
    except KeyboardInterrupt:
        # So Ray cancels, perhaps in the middle of an import: half a module would fail the next task of this process.
        os._exit(0)
    finally:
        _note_gpus(gpus)
        board.end.remote(task)


def _heard(ref: Any) -> bool | None:
    """The board's answer; None where there is none yet.

    Never wait for the board: a task that waits gives its processor away, and Ray starts one process more on the node.
    """
    import ray

    try:
        return ray.get(ref) if ray.wait([ref], timeout=0)[0] else None
    except ray.exceptions.RayError:  # Ray has ended the board, and begins it again
        return False


def is_elsewhere(gpus: list[Any]) -> bool:
    """Whether this process has begun to use another GPU than the one that its task is given.

    Ray keeps processes from task to task, and may give the next one another GPU. CUDA does not follow: the process would share
    the GPU of another one.
    """
    return bool(gpus) and "gpus" in _begun and _begun["gpus"] != gpus


def _note_gpus(gpus: list[Any]) -> None:
    torch = sys.modules.get("torch")
    if torch is not None and "gpus" not in _begun and torch.cuda.is_initialized():
        _begun["gpus"] = gpus


def _guarded(
    assignment: Assignment, teller: Any, step: str, arguments: tuple[Any, ...], sent: Any, parts: tuple[Answer, ...]
) -> Answer:
    from dmcore.memory import is_out_of_memory

    host = os.uname().nodename
    try:
        return Answer(_step(assignment, teller, step, arguments, sent, parts))
    except Cancelled:
        return Answer(cancelled=True)
    except StoreError as error:
        # With a cause it is the disk or the network that failed, not this piece of work.
        return Answer(broken=f"{error} (On {host}.)") if error.__cause__ is not None else Answer(failure=str(error))
    except DarkMatterError as error:
        return Answer(failure=str(error))
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, FileNotFoundError | PermissionError) and not _is_of_cache(error, assignment.place):
            return Answer(
                failure=f"{error.filename} cannot be read on {host} ({reason}): put it where all nodes see it, then run again."
            )
        return Answer(broken=f"The cache cannot be used on {host} ({reason}): see that its storage is there, then run again; "
                      "finished work is kept.")  # fmt: skip
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return Answer(
            failure=f"Memory ran out on {host}: give it fewer tasks at once, or set DMCORE_SAE_MEMORY_GIB there."
        )


def _step(
    assignment: Assignment, teller: Any, step: str, arguments: tuple[Any, ...], sent: Any, parts: tuple[Answer, ...]
) -> Any:
    import ray
    import torch

    from dmcore.run.cluster.joined import added
    from dmcore.run.cluster.shard_work import Bench, Kept

    if _open.get("session") != assignment.session:
        _leave_session()
        store, hold = assignment.place.open_here(assignment.session)
        _open.update(session=assignment.session, store=store, kept=Kept(), hold=hold)
    _open["store"].waiting = teller.should_cancel
    if not assignment.place.url and not Path(assignment.place.root).is_dir():
        raise FileNotFoundError(None, f"{assignment.place.root} is not there")
    device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
    bench = Bench(assignment.plan, _open["store"], device, teller.reporter(), assignment.custom, _open["kept"])
    given = (added([part.value for part in parts]),) if parts else ()
    if step == "encode_shard":
        return bench.encode_shard(*arguments, sent)
    if step == "finish_sae":
        sae, shards, scale = arguments
        return bench.finish_sae(sae, shards, given[0] if given else None, sent, scale=scale)
    return getattr(bench, step)(*arguments, *given)


def _is_of_cache(error: OSError, place: Place) -> bool:
    """Whether the file that could not be read is one of the cache, or is not known."""
    if not isinstance(error.filename, str):
        return True
    path = Path(error.filename).absolute()
    return any(path.is_relative_to(root) for root in (Path(place.root).absolute(), node_folder().absolute()))


def _leave_session() -> None:
    """Let go of what this process keeps of another sweep."""
    if _open:
        _open["kept"].free(site=True)
        if _open["hold"] is not None:
            _open["hold"].release()
        _open.clear()


def without_documents(plan: Plan) -> Plan:
    """A plan as the nodes need it: the tokens read from disk, not mapped."""
    import numpy as np

    contexts = plan.contexts
    domains = None if contexts.domains is None else np.array(contexts.domains)
    return replace(plan, contexts=replace(contexts, tokens=np.array(contexts.tokens), domains=domains))
